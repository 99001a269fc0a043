"""Beam search over CTC posteriors."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from eeasr_modules.models.decoding.ctc import BeamDecoder, BeamOptions, greedy_decode

TOKENS = ["<blank>", " ", "A", "B", "C", "<unk>"]
SPELLINGS = ["", " ", "A", "B", "C", ""]


def decoder(**options):
    return BeamDecoder(TOKENS, SPELLINGS, blank_index=0, options=BeamOptions(**options))


def log_probs(*rows):
    rows = torch.tensor(rows, dtype=torch.float32)
    return (rows / rows.sum(dim=-1, keepdim=True)).clamp(min=1e-9).log()


@pytest.fixture
def arpa(tmp_path):
    """A bigram model in which BC is a hundred times likelier than BB, and AB unknown."""
    lines = [
        "\\data\\",
        "ngram 1=5",
        "ngram 2=2",
        "",
        "\\1-grams:",
        "-1.0\t<unk>\t0",
        "-99\t<s>\t0",
        "-1.0\t</s>\t0",
        "-0.5\tBC\t-0.1",
        "-2.5\tBB\t-0.1",
        "",
        "\\2-grams:",
        "-0.3\t<s> BC",
        "-0.3\tBC </s>",
        "",
        "\\end\\",
    ]
    path = tmp_path / "two.arpa"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_sums_the_paths_of_a_transcript_where_greedy_takes_the_single_best():
    # blank-blank 0.36 is the best path; A is said by three paths of 0.24 + 0.24 + 0.16
    rows = log_probs([0.6, 0, 0.4, 0, 0, 0], [0.6, 0, 0.4, 0, 0, 0])
    assert greedy_decode(rows[None], torch.tensor([2]), blank_index=0) == [[]]
    assert decoder().text(rows) == "A"


def test_language_model_prefers_the_word_it_knows(arpa):
    pytest.importorskip("kenlm")
    rows = log_probs([0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0.55, 0.45, 0])
    assert decoder().text(rows) == "BB"
    assert decoder(lm_file=arpa).text(rows) == "BC"
    assert decoder(lm_file=arpa, lm_weight=0.0).text(rows) == "BB"


def test_a_gzipped_language_model_is_the_same(arpa, tmp_path):
    pytest.importorskip("kenlm")
    packed = tmp_path / "two.arpa.gz"
    packed.write_bytes(gzip.compress(Path(arpa).read_bytes()))
    plain, unpacked = decoder(lm_file=arpa), decoder(lm_file=str(packed))
    rng = np.random.default_rng(3)
    for _ in range(30):
        rows = torch.from_numpy(np.log(rng.dirichlet(np.full(6, 0.5), size=8)))
        assert unpacked.text(rows) == plain.text(rows)


def test_words_come_with_their_frames_and_special_tokens_say_nothing():
    rows = log_probs(
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0.1, 0, 0, 0.3, 0, 0.6],
        [0, 0, 0, 0, 1, 0],
    )
    assert decoder().words(rows) == [("A", 0, 1), ("BC", 2, 4)]


def test_no_frames_are_no_words():
    assert decoder().words(torch.zeros(0, len(TOKENS))) == []


def test_finds_likelier_transcripts_than_greedy_and_more_so_with_a_wider_beam():
    rng = np.random.default_rng(7)
    totals = np.zeros(3)
    for _ in range(20):
        rows = torch.from_numpy(np.log(rng.dirichlet(np.full(5, 0.5), size=12))).float()
        rows = torch.cat([rows, torch.full((12, 1), -20.0)], dim=1)
        greedy = "".join(SPELLINGS[i] for i in greedy_decode(rows[None], torch.tensor([12]), blank_index=0)[0])
        texts = (greedy, decoder(beam_size=3).text(rows), decoder(beam_size=100).text(rows))
        totals += [_log_likelihood(rows, " ".join(text.split())) for text in texts]
    assert totals[0] < totals[1] < totals[2]


def _log_likelihood(rows, text):
    targets = torch.tensor([[TOKENS.index(character) for character in text]])
    loss = torch.nn.functional.ctc_loss(
        rows[:, None], targets, torch.tensor([len(rows)]), torch.tensor([len(text)]), reduction="sum"
    )
    return -loss.item()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"beam_size": 0}, "beam_size"), ({"lm_weight": -1.0}, "lm_weight"), ({"unknown_score": 1.0}, "unknown")],
)
def test_numbers_out_of_range_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        BeamOptions(**wrong)


def test_a_missing_language_model_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.arpa"):
        decoder(lm_file="nowhere.arpa")
