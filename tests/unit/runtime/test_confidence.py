"""`eeasr confidence` and what transcripts say with a model's confidence map."""

import csv
import shutil

import numpy as np
import pytest
import soundfile
import torch
from talkative import noises

from eeasr_modules.cli import main
from eeasr_modules.exits.words.confidence import read_confidence_map
from eeasr_modules.runtime import EarlyExitASR, confidence
from eeasr_modules.runtime.confidence import fit_confidence, words_of_exits


@pytest.fixture(scope="module")
def manifest(model_folder, tmp_path_factory):
    """Noises; the reference of every other one is what all exits say, one after the other, that of the rest is not."""
    folder = tmp_path_factory.mktemp("manifest")
    engine = EarlyExitASR.from_pretrained(model_folder).engine
    with (folder / "dev.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ID", "wav", "wrd"])
        for i, wav in enumerate(noises(60, seed=5)):
            soundfile.write(folder / f"{i}.wav", wav.numpy(), 16000, subtype="FLOAT")
            words = [word.text for words in words_of_exits(engine, wav) for word in words]
            rows.writerow([f"u{i}", f"{i}.wav", " ".join(words) if i % 2 else "SOMETHING ELSE"])
    return folder / "dev.csv"


@pytest.fixture(scope="module")
def mapped_folder(model_folder, manifest, tmp_path_factory):
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("mapped") / "model")
    assert main(["confidence", str(folder), str(manifest)]) == 0
    return folder


def test_every_exit_spells_what_the_exit_table_says(model_folder, wavs, table):
    engine = EarlyExitASR.from_pretrained(model_folder).engine
    exits = words_of_exits(engine, wavs[0])
    assert [" ".join(word.text for word in words) for words in exits] == [
        " ".join(t.split()) for t in table.hypotheses[0]
    ]


@pytest.mark.parametrize("policy", ["static(1)", "static(5)", "random(0.5)"])
def test_words_get_the_maps_probability_at_the_exit_that_was_taken(policy, mapped_folder, model_folder, audio_folder):
    raw = EarlyExitASR.from_pretrained(model_folder, policy=policy).transcribe(audio_folder / "u0.wav")
    one = EarlyExitASR.from_pretrained(mapped_folder, policy=policy).transcribe(audio_folder / "u0.wav")
    assert (one.text, one.exit_layer) == (raw.text, raw.exit_layer)
    expected = read_confidence_map(mapped_folder / "confidence.json").probabilities(
        [word.text for word in raw.words], [word.confidence for word in raw.words], exit_layer=raw.exit_layer
    )
    np.testing.assert_allclose([word.confidence for word in one.words], expected)
    assert one.confidence == pytest.approx(expected.mean())
    assert one.confidence != pytest.approx(raw.confidence, abs=1e-3)


def test_chunks_of_a_long_recording_are_mapped_each_at_its_exit(mapped_folder, wavs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # `random` goes by the path
    soundfile.write("long.wav", torch.cat(wavs[:8]).numpy(), 16000, subtype="FLOAT")
    asr = EarlyExitASR.from_pretrained(mapped_folder, policy="random(0.5)", longest_s=1.5)
    one = asr.transcribe("long.wav")
    assert len(set(one.exit_layers)) > 1 and all(0 < word.confidence < 1 for word in one.words)
    assert one.confidence == pytest.approx(np.mean([word.confidence for word in one.words]))


def test_nothing_said_has_no_confidence(mapped_folder):
    asr = EarlyExitASR.from_pretrained(mapped_folder, policy="static(1)")
    head = asr.engine.model.heads[0]
    head.projection.bias.data[0] += 100.0  # blanks only
    one = asr.transcribe(np.zeros(8000, dtype=np.float32))
    assert one.text == "" and one.confidence is None


def test_a_map_of_other_weights_is_told_and_left_alone(mapped_folder, audio_folder, model_folder, tmp_path, caplog):
    folder = shutil.copytree(mapped_folder, tmp_path / "model")
    (folder / "policy.json").unlink()
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    one = EarlyExitASR.from_pretrained(folder, policy="static(2)").transcribe(audio_folder / "u0.wav")
    assert "was fitted on other weights" in caplog.text
    raw = EarlyExitASR.from_pretrained(model_folder, policy="static(2)").transcribe(audio_folder / "u0.wav")
    assert one.confidence == raw.confidence


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--normaliser", "loud"], "--normaliser must be one of"),
        (["{audio}/u0.wav"], "has references: give .csv manifests"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(change, complaint, mapped_folder, manifest, audio_folder, capsys):
    inputs = [one.format(audio=audio_folder) for one in change]
    inputs = [str(manifest), *inputs] if inputs[0].startswith("--") else inputs
    assert main(["confidence", str(mapped_folder), *inputs]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1


def test_a_recording_that_cannot_be_recognised_is_told_and_left_out(model_folder, manifest, tmp_path, monkeypatch):
    rows = list(csv.DictReader(manifest.open(newline="")))
    longest = max(rows, key=lambda row: soundfile.info(manifest.parent / row["wav"]).frames)
    n_most = soundfile.info(manifest.parent / longest["wav"]).frames

    def failing(engine, wav, *, beyond=n_most):
        if len(wav) >= beyond:
            raise MemoryError
        return words_of_exits(engine, wav)

    monkeypatch.setattr(confidence, "words_of_exits", failing)
    told = []
    found, _ = fit_confidence(shutil.copytree(model_folder, tmp_path / "a"), [str(manifest)], progress=told.append)
    assert told == [f"'{longest['ID']}' needs more memory than there is"]
    monkeypatch.undo()
    rest = manifest.parent / "rest.csv"
    rest.write_text("".join(line for line in manifest.open() if not line.startswith(longest["ID"] + ",")))
    expected, _ = fit_confidence(shutil.copytree(model_folder, tmp_path / "b"), [str(rest)])
    assert found.read_text() == expected.read_text()

    monkeypatch.setattr(confidence, "words_of_exits", lambda engine, wav: failing(engine, wav, beyond=0))
    with pytest.raises(MemoryError):
        fit_confidence(model_folder, [str(manifest)])
