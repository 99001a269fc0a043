"""Beam search while transcribing: the policy decides on greedy transcripts, the search is made where it stops."""

import dataclasses

import pytest

from eeasr_modules.models.decoding.ctc import BeamDecoder, BeamOptions
from eeasr_modules.runtime import EarlyExitASR

PATHS = range(6)


@pytest.fixture
def searched(monkeypatch):
    """Number of frames of every search that is made."""
    lengths, words = [], BeamDecoder.words

    def counted(self, log_probs):
        lengths.append(len(log_probs))
        return words(self, log_probs)

    monkeypatch.setattr(BeamDecoder, "words", counted)
    return lengths


@pytest.mark.parametrize("policy", ["entropy", "patience(1, 0.2)", "static(5)"])
def test_exits_are_those_of_greedy_decoding_and_each_recording_is_searched_once(
    policy, model_folder, audio_folder, searched
):
    paths = [audio_folder / f"u{i}.wav" for i in PATHS]
    greedy = EarlyExitASR.from_pretrained(model_folder, policy=policy).transcribe(paths)
    beam = EarlyExitASR.from_pretrained(model_folder, policy=policy, decoding=BeamOptions(beam_size=20)).transcribe(
        paths
    )
    assert [one.exit_layer for one in beam] == [one.exit_layer for one in greedy]
    assert len(searched) == len(paths)
    for one in beam:
        assert one.text == " ".join(word.text for word in one.words)
        assert all(0 <= word.start_s < word.end_s <= one.duration_s + 0.1 for word in one.words)
        assert all(0 < word.confidence <= 1 for word in one.words)


def test_transcripts_do_not_depend_on_the_batch(model_folder, audio_folder):
    paths = [audio_folder / f"u{i}.wav" for i in PATHS]
    decoding = BeamOptions(beam_size=20)
    together = EarlyExitASR.from_pretrained(model_folder, decoding=decoding).transcribe(paths)
    alone = EarlyExitASR.from_pretrained(model_folder, decoding=decoding, batch_seconds=0.1).transcribe(paths)
    assert [one.text for one in together] == [one.text for one in alone]


def test_a_missing_language_model_is_told_before_anything_is_read(model_folder):
    with pytest.raises(FileNotFoundError, match=r"gone\.arpa"):
        EarlyExitASR.from_pretrained(model_folder, decoding=dataclasses.replace(BeamOptions(), lm_file="gone.arpa"))
