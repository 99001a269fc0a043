"""`eeasr try`: which arguments are the model, what is said without a microphone, what is printed."""

import sys

import pytest

from eeasr_modules.runtime import EarlyExitASR, microphone
from eeasr_modules.runtime.microphone import (
    SENTENCES,
    Trial,
    hear,
    model_and_files,
    read_sentences,
    run_trials,
    trial_lines,
)


def test_a_folder_or_a_name_is_the_model_and_files_are_not(model_folder, audio_folder, monkeypatch):
    file = str(audio_folder / "u0.wav")
    monkeypatch.setattr(microphone, "DEFAULT_MODELS", (model_folder,))
    assert model_and_files([str(model_folder), file]) == (str(model_folder), [file])
    assert model_and_files(["some/model"]) == ("some/model", [])
    assert model_and_files([file, file]) == (str(model_folder), [file, file])
    assert model_and_files([]) == (str(model_folder), [])
    monkeypatch.setattr(microphone, "DEFAULT_MODELS", ())
    with pytest.raises(ValueError, match="no model comes with this installation"):
        model_and_files([])


def test_without_the_package_for_microphones_it_asks_for_files(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ValueError, match=r"pip install sounddevice.*pass 5 files, one per sentence"):
        hear([], SENTENCES, sample_rate=16000)


def test_files_must_be_as_many_as_sentences(audio_folder):
    with pytest.raises(ValueError, match="expected 5 files, one per sentence in this order, got 1"):
        hear([str(audio_folder / "u0.wav")], SENTENCES, sample_rate=16000)


def test_sentences_come_from_a_file(tmp_path):
    (tmp_path / "s.txt").write_text("One.\n\nTwo.\n")
    assert read_sentences(tmp_path / "s.txt") == ["One.", "Two."]
    assert len(read_sentences(None)) == 5
    (tmp_path / "s.txt").write_text("\n")
    with pytest.raises(ValueError, match="holds no sentence"):
        read_sentences(tmp_path / "s.txt")
    with pytest.raises(FileNotFoundError, match="one a line"):
        read_sentences(tmp_path / "none.txt")


def test_every_exit_and_the_policys_stop_are_those_of_the_table(model_folder, audio_folder, table):
    asr = EarlyExitASR.from_pretrained(model_folder, policy="static(2)")
    files = [str(audio_folder / f"u{i}.wav") for i in range(2)]
    wavs = hear(files, ["Yes.", "No, 2!"], sample_rate=16000)
    trials = run_trials(asr, wavs, ["Yes.", "No, 2!"])
    assert [trial.texts for trial in trials] == [tuple(row) for row in table.hypotheses[:2]]
    assert [(trial.reference, trial.exit_index) for trial in trials] == [("YES", 1), ("NO", 1)]


def test_the_lines_pool_errors_and_weight_depth_by_seconds():
    trials = [Trial("A B C", ("A", "A B C"), 0, 3.0), Trial("D", ("D", "D E"), 1, 1.0)]
    lines = trial_lines(trials, exit_layers=[2, 4], policy="p")
    assert "over 4 words: 50.0, 25.0" in lines[-2]
    assert lines[-1] == "p leaves after 2.5 of 4 layers (38 % saved): WER 75.0 %, 25.0 % at the last exit."
    assert sum("<- leaves here" in line for line in lines) == 2
