"""Signals of single words, against values worked out by hand and against decoded transcripts."""

import math

import numpy as np
import pytest
import torch

from eeasr_modules.data.text import CharVocabulary, train_sentencepiece
from eeasr_modules.models.decoding.ctc import greedy_decode
from eeasr_modules.models.signals import WORD_SIGNALS, WordFrames, word_signals

SPELLINGS = ("", " ", "A", "B")
WORDS = WordFrames(SPELLINGS, blank_index=0)


def path_probs(*path, sure=0.7):
    """Probabilities whose best token is that of the path, the other three alike."""
    probs = torch.full((1, len(path), 4), (1 - sure) / 3)
    probs[0, torch.arange(len(path)), torch.tensor(path)] = sure
    return probs


def test_every_word_has_the_means_and_times_of_the_frames_that_spell_it():
    probs = path_probs(0, 2, 2, 0, 3, 1, 1, 0, 3)
    probs[0, 2] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    probs[0, 3] = torch.tensor([0.4, 0.3, 0.3, 0.0])  # blank inside a word: does not count
    found = word_signals(probs.log(), torch.tensor([9]), words=WORDS, frame_s=0.04)
    assert tuple(found) == WORD_SIGNALS
    one = -(0.7 * math.log(0.7) + 3 * 0.1 * math.log(0.1))
    assert found["word_entropy"][0].tolist() == pytest.approx([2 * one / 3, one], abs=1e-6)
    assert found["word_margin"][0].tolist() == pytest.approx([(0.6 + 1.0 + 0.6) / 3, 0.6], abs=1e-6)
    assert found["word_start_s"][0].tolist() == pytest.approx([0.04, 0.32])
    assert found["word_end_s"][0].tolist() == pytest.approx([0.2, 0.36])
    assert {values[0].dtype for values in found.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("path", "n_words"),
    [((0, 0), 0), ((1, 1), 0), ((1, 2, 1), 1), ((2, 1, 0, 1, 3), 2), ((2, 0, 2), 1), ((1, 0, 2, 1, 1, 3, 1, 2, 1), 3)],
)
def test_spaces_at_the_ends_and_several_in_a_row_make_no_words(path, n_words):
    found = word_signals(path_probs(*path).log(), torch.tensor([len(path)]), words=WORDS, frame_s=0.02)
    assert [len(values[0]) for values in found.values()] == [n_words] * 4


def test_neither_padding_nor_the_other_utterances_matter():
    long, short = path_probs(2, 1, 3, 3, 1, 2), path_probs(3, 0, 1, 2, sure=0.6)
    padded = torch.cat([short, path_probs(2, 3)], dim=1)
    both = word_signals(torch.cat([long, padded, padded]).log(), torch.tensor([6, 4, 0]), words=WORDS, frame_s=0.04)
    for row, alone in ((0, long), (1, short)):
        single = word_signals(alone.log(), torch.tensor([alone.shape[1]]), words=WORDS, frame_s=0.04)
        for name in WORD_SIGNALS:
            np.testing.assert_allclose(both[name][row], single[name][0], rtol=1e-6)
    assert [len(both[name][2]) for name in WORD_SIGNALS] == [0] * 4


def vocabularies(folder):
    sentences = [f"{first} {second}" for first in ("ENTER", "RUBOUT", "ERASE") for second in ("SIX", "SEVEN", "TEN")]
    checkpoint = ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "'"]
    return [CharVocabulary(), CharVocabulary(checkpoint), train_sentencepiece(sentences, folder, size=18)]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["characters", "checkpoint", "subwords"])
def test_there_are_as_many_words_as_in_the_transcript(tmp_path, which):
    vocabulary = vocabularies(tmp_path)[which]
    logits = 3 * torch.randn(40, 30, len(vocabulary), generator=torch.Generator().manual_seed(which))
    space = next(i for i, text in enumerate(vocabulary.spellings) if text[:1] == " ")
    logits[:, :, [vocabulary.blank_index, space]] += 3.0
    log_probs, n_frames = logits.log_softmax(dim=-1), torch.arange(40) % 31
    words = WordFrames(vocabulary.spellings, blank_index=vocabulary.blank_index)
    found = word_signals(log_probs, n_frames, words=words, frame_s=0.02)
    tokens = greedy_decode(log_probs, n_frames, blank_index=vocabulary.blank_index)
    expected = [len(vocabulary.decode(ids).split()) for ids in tokens]
    assert max(expected) > 3
    for name in WORD_SIGNALS:
        assert [len(values) for values in found[name]] == expected
    for start, end, n in zip(found["word_start_s"], found["word_end_s"], n_frames.tolist(), strict=True):
        edges = np.stack([start, end], axis=1).ravel()
        assert (np.diff(edges) >= 0).all() and (end > start).all() and (end <= n * 0.02 + 1e-6).all()


def test_a_token_of_two_words_is_refused():
    with pytest.raises(ValueError, match=r"every token must belong to one word, got ' A B'"):
        WordFrames(["", " A B"], blank_index=0)
