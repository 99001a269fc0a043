"""Sets of the package `datasets`, saved, as Parquet or streamed, as sources of one's own training."""

import json
import logging
import shutil
import tarfile
from collections import namedtuple

import numpy as np
import pytest
import soundfile

from eeasr_modules.data import saved_sets
from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.manifest import audio_path, read_description, read_manifest
from eeasr_modules.data.own_data import write_through
from eeasr_modules.training.corpora import load_recipe

datasets = pytest.importorskip("datasets")
TEXTS = ["One", "Two", "Three"]


@pytest.fixture
def clips(tmp_path):
    """Three recordings of 1, 2 and 3 s."""
    rng = np.random.default_rng(0)
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal((i + 1) * 8000), 8000)
    return [tmp_path / f"{i}.wav" for i in range(3)]


def embedded(clips):
    """A set whose table holds the bytes of its files, its audio an `Audio` column."""
    audio = [{"bytes": clip.read_bytes(), "path": clip.name} for clip in clips]
    made = datasets.Dataset.from_dict({"audio": audio, "sentence": TEXTS, "speaker_id": [3, 3, 4]})
    return made.cast_column("audio", datasets.Audio(decode=False)).cast_column("audio", datasets.Audio())


def arrays(clips):
    audio = [dict(zip(("array", "sampling_rate"), soundfile.read(clip), strict=True)) for clip in clips]
    return datasets.Dataset.from_dict({"audio": audio, "sentence": TEXTS, "speaker_id": [3, 3, 4]})


def saved(made, folder):
    datasets.DatasetDict({"train": made}).save_to_disk(str(folder))


def parquet(made, folder):
    (folder / "data").mkdir(parents=True)
    made.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))


def named_parquet(made, folder):
    folder.mkdir()
    made.to_parquet(str(folder / "train.parquet"))


def tar(clips, folder):
    folder.mkdir()
    with tarfile.open(folder / "train-000.tar", "w") as file:
        for i, clip in enumerate(clips):
            note = folder / f"{i}.json"
            note.write_text(json.dumps({"sentence": TEXTS[i], "speaker_id": [3, 3, 4][i]}))
            file.add(clip, f"{i}.wav")
            file.add(note, f"{i}.json")
            note.unlink()


WAYS = {
    "saved": lambda clips, folder: saved(embedded(clips), folder),
    "saved arrays": lambda clips, folder: saved(arrays(clips), folder),
    "Parquet": lambda clips, folder: parquet(embedded(clips), folder),
    "Parquet by its name": lambda clips, folder: named_parquet(embedded(clips), folder),
    "Parquet of arrays": lambda clips, folder: parquet(arrays(clips), folder),
    "tar": tar,
    "a stream, written": lambda clips, folder: write_through(embedded(clips).to_iterable_dataset(), folder / "train"),
}


def prepared(root, folder, tmp_path):
    recipe = load_recipe(root / "recipes" / "Custom")
    manifest = recipe.prepare(folder, tmp_path / "out", splits=["train"])["train"]
    data_folder = read_description(manifest)["data_folder"]
    return [(row, audio_path(row.wav, data_folder)) for row in read_manifest(manifest)]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_rows_and_the_same_audio(root, clips, tmp_path, way):
    WAYS[way](clips, tmp_path / "set")
    rows = prepared(root, tmp_path / "set", tmp_path)
    assert [(row.text, row.speaker, row.duration_s) for row, _ in rows] == [
        ("ONE", "3", 1.0),
        ("TWO", "3", 2.0),
        ("THREE", "4", 3.0),
    ]
    for (_, file), clip in zip(rows, clips, strict=True):
        assert read_audio(file, sample_rate=8000).equal(read_audio(clip, sample_rate=8000))


def test_a_set_is_written_once_and_again_where_it_changed_or_audio_is_gone(root, clips, tmp_path, monkeypatch):
    parquet(embedded(clips), tmp_path / "set")
    first = prepared(root, tmp_path / "set", tmp_path)
    opened = []
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **how: opened.append(how) or load(*args, **how))
    assert prepared(root, tmp_path / "set", tmp_path) == first and not opened
    first[1][1].unlink()
    assert prepared(root, tmp_path / "set", tmp_path) == first and len(opened) == 1
    shutil.rmtree(tmp_path / "set")
    parquet(embedded(clips[::-1]), tmp_path / "set")
    assert [row.duration_s for row, _ in prepared(root, tmp_path / "set", tmp_path)] == [3.0, 2.0, 1.0]


def test_disk_is_said_before_and_too_little_is_refused(root, clips, tmp_path, monkeypatch, caplog):
    parquet(embedded(clips), tmp_path / "set")
    with caplog.at_level(logging.INFO):
        prepared(root, tmp_path / "set", tmp_path)
    assert "holds its audio: about 0.0 GB go to" in caplog.text and "GB free" in caplog.text
    usage = namedtuple("usage", "free")(10)
    monkeypatch.setattr(saved_sets.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"holds about 0.0 GB of audio, '.*' has 0.0 GB free: make room"):
        prepared(root, tmp_path / "set", tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_a_set_of_the_hub_is_streamed_by_its_name_and_asked_once(root, clips, tmp_path, monkeypatch):
    asked = []

    def load(path, name, *, split, streaming):
        asked.append((path, name, split, streaming))
        return embedded(clips).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    builder = namedtuple("builder", "config")(namedtuple("config", "data_files")(None))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, name: builder)
    rows = [prepared(root, "hf:me/set,clean", tmp_path) for _ in range(2)]
    assert asked == [("me/set", "clean", "train", True)] and rows[0] == rows[1]
    assert [row.wav.startswith("$data_root/train_audio/") for row, _ in rows[0]] == [True] * 3


def test_audio_that_lies_in_files_stays_there(root, clips, tmp_path):
    audio = [str(clip) for clip in clips]
    saved(datasets.Dataset.from_dict({"audio": audio, "sentence": TEXTS}), tmp_path / "set")
    assert [file for _, file in prepared(root, tmp_path / "set", tmp_path)] == clips
    assert {path.name for path in (tmp_path / "out" / "train_audio").iterdir()} == {"metadata.jsonl", "source.json"}


def test_louder_samples_than_full_scale_are_kept(tmp_path):
    audio = {"array": np.array([0.5, -1.5, 0.25] * 400), "sampling_rate": 8000}
    listing = write_through([{"audio": audio, "text": "a"}], tmp_path)
    [row] = map(json.loads, listing.read_text().splitlines())
    assert read_audio(tmp_path / row["file_name"], sample_rate=8000).tolist() == audio["array"].tolist()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "expected utterances in the stream, found none"),
        ([{"audio": [0.1, 0.2], "text": "a"}], "row 0 of the stream must have its audio as a path, as bytes, or as"),
        ([{"audio": {"array": [0.1]}, "text": "a"}], "or as array with sampling_rate, got array"),
        ([{"audio": "a.wav", "words": "a"}], "text under one of wrd, text"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, rows, says):
    with pytest.raises(ValueError, match=says):
        write_through(rows, tmp_path)


def test_a_stream_that_breaks_is_one_sentence_and_leaves_no_listing(tmp_path, clips):
    def rows():
        yield {"audio": {"bytes": clips[0].read_bytes()}, "text": "a"}
        raise ConnectionError("the hub\nis gone.")

    with pytest.raises(ValueError, match=r"^datasets cannot read the stream \(ConnectionError: the hub is gone\)$"):
        write_through(rows(), tmp_path)
    assert not (tmp_path / "metadata.jsonl").exists()


def test_a_split_that_there_is_not_is_one_sentence(root, clips, tmp_path):
    parquet(embedded(clips), tmp_path / "set")
    recipe = load_recipe(root / "recipes" / "Custom")
    with pytest.raises(ValueError, match=r"cannot stream the split 'dev' of .*set \(ValueError: Bad split: dev"):
        recipe.prepare(tmp_path / "set", tmp_path / "out", splits=["dev"])
