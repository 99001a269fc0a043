"""LJ Speech: splits by chapter, texts with numbers spelled out."""

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.manifest import read_manifest
from eeasr_modules.training.corpora import load_recipe

LINES = """LJ001-0007|of about 1455,|of about fourteen fifty-five,
LJ001-0008|“The Bible”|“The Bible”
LJ001-0009|?|?
LJ049-0001|Dr. No|Doctor No
LJ050-0001|silence|silence"""


@pytest.fixture
def recipe(root):
    return load_recipe(root / "recipes" / "LJSpeech")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wavs").mkdir()
    for name in ("LJ001-0007", "LJ001-0008", "LJ001-0009", "LJ049-0001"):
        soundfile.write(tmp_path / "wavs" / f"{name}.wav", 0.1 * np.sin(np.arange(22050) / 9), 22050)
    (tmp_path / "metadata.csv").write_text(LINES + "\n", encoding="utf-8")
    return tmp_path


def test_chapters_make_the_splits_and_numbers_are_words(recipe, folder, tmp_path):
    manifests = recipe.prepare(folder, tmp_path / "out", splits=["train", "dev"])
    train, dev = (read_manifest(manifests[split]) for split in ("train", "dev"))
    assert [(row.utt_id, row.text, row.speaker) for row in train] == [
        ("LJ001-0007", "OF ABOUT FOURTEEN FIFTY FIVE", "LJ"),
        ("LJ001-0008", "THE BIBLE", "LJ"),
    ]
    assert [row.text for row in dev] == ["DOCTOR NO"] and train[0].duration_s == pytest.approx(1.0)


def test_what_is_not_the_corpus_or_has_no_audio_is_said(recipe, folder, tmp_path):
    with pytest.raises(ValueError, match="LJSpeech has the splits train, dev, test, got valid"):
        recipe.prepare(folder, tmp_path, splits=["valid"])
    with pytest.raises(ValueError, match=r"no usable utterance \(1 missing\)"):
        recipe.prepare(folder, tmp_path, splits=["test"])
    with pytest.raises(FileNotFoundError, match="LJ Speech"):
        recipe.prepare(tmp_path / "wavs", tmp_path)


@pytest.mark.shared_data
def test_the_real_chapters_are_read_whole(recipe, shared_data, tmp_path):
    manifest = recipe.prepare(shared_data / "LJSpeech-1.1", tmp_path, splits=["train"])["train"]
    rows = read_manifest(manifest)
    assert len(rows) == 385
    assert 0.68 * 3600 < sum(row.duration_s for row in rows) < 0.70 * 3600
