"""A user's own data in every form that is taken."""

import json

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.manifest import read_description, read_manifest
from eeasr_modules.training.corpora import load_recipe


@pytest.fixture
def recipe(root):
    return load_recipe(root / "recipes" / "Custom")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corpus" / "a").mkdir(parents=True)
    for name, seconds in {"1": 1, "2": 2, "long": 10}.items():
        soundfile.write(tmp_path / "corpus" / "a" / f"{name}.wav", 0.1 * np.sin(np.arange(seconds * 8000) / 9), 8000)
    return tmp_path / "corpus"


def rows_of(recipe, folder, tmp_path, split="train", **options):
    manifest = recipe.prepare(folder, tmp_path / "out", splits=[split], **options)[split]
    return [(row.utt_id, row.speaker, row.wav, row.text, row.duration_s) for row in read_manifest(manifest)]


def test_a_csv_of_speechbrain(recipe, folder, tmp_path):
    lines = ["ID,duration,wav,spk_id,wrd", "u1,1.0,$data_root/a/1.wav,ann,Hello there", "u2,2.0,a/2.wav,bob,It's two"]
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    assert rows_of(recipe, folder, tmp_path) == [
        ("u1", "ann", "$data_root/a/1.wav", "HELLO THERE", 1.0),
        ("u2", "bob", "$data_root/a/2.wav", "IT'S TWO", 2.0),
    ]


def test_json_lines_with_stretches_and_without_speakers(recipe, folder, tmp_path, caplog):
    entries = [
        {"audio_filepath": str(folder / "a" / "1.wav"), "text": "one", "duration": 1.0},
        {"audio_filepath": "a/long.wav", "text": "two", "offset": 2.0, "duration": 1.5, "id": "x"},
        {"audio_filepath": "a/long.wav", "text": "room 12", "id": "y"},
    ]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries) + "\n\n")
    rows = rows_of(recipe, folder, tmp_path)
    assert [row[2:] for row in rows] == [
        ("$data_root/a/1.wav", "ONE", 1.0),
        ("$data_root/a/long.wav#t=2,3.5", "TWO", 1.5),
    ]
    assert rows[0][0] == rows[0][1]  # its own speaker
    assert "3 utterances have no speaker" in caplog.text
    assert read_description(tmp_path / "out" / "custom_train.csv")["skipped"] == {"text without spelling": 1}


def test_a_kaldi_folder_with_segments(recipe, folder, tmp_path):
    kaldi = folder / "train"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text(f"rec {folder}/a/long.wav\nr1 ../a/1.wav\n")
    (kaldi / "text").write_text("u1 first words\nu2 second\n")
    (kaldi / "utt2spk").write_text("u1 ann\nu2 bob\n")
    (kaldi / "segments").write_text("u1 rec 0.5 2.25\nu2 r1 0 1\n")
    assert rows_of(recipe, folder, tmp_path) == [
        ("u1", "ann", "$data_root/a/long.wav#t=0.5,2.25", "FIRST WORDS", 1.75),
        ("u2", "bob", "$data_root/a/1.wav#t=0,1", "SECOND", 1.0),
    ]


def test_a_hugging_face_dataset_with_files_and_with_bytes(recipe, folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    content = (folder / "a" / "2.wav").read_bytes()
    clips = [{"path": str(folder / "a" / "1.wav"), "bytes": None}, {"path": "two.wav", "bytes": content}]
    saved = datasets.Dataset.from_dict({"audio": clips, "sentence": ["One", "Two"]})
    saved = saved.cast_column("audio", datasets.Audio(decode=False)).cast_column("audio", datasets.Audio())
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "hf"))
    found = rows_of(recipe, tmp_path / "hf", tmp_path)
    assert [(row[0], row[3], row[4]) for row in found] == [("000000", "ONE", 1.0), ("000001", "TWO", 2.0)]


def test_other_scripts_and_texts_as_they_are(recipe, folder, tmp_path):
    (folder / "train.tsv").write_text("path\tsentence\tspeaker\na/1.wav\tÄpfel, bitte!\tann\n", encoding="utf-8")
    assert rows_of(recipe, folder, tmp_path)[0][3] == "APFEL BITTE"
    assert "ä" in rows_of(recipe, folder, tmp_path, normaliser="letters")[0][3].lower()
    assert rows_of(recipe, folder, tmp_path, normaliser="none")[0][3] == "Äpfel, bitte!"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.csv", "wav,words\na/1.wav,x\n", r"line 2 of .*train.csv must say its text under one of wrd, text"),
        ("train.csv", "file_path,text\na/1.wav,x\n", r"must say its audio under one of wav"),
        ("train.jsonl", '{"audio": "a/1.wav"', r"line 1 of .*train.jsonl must be a JSON object"),
        ("train.jsonl", '["a/1.wav"]', r"must be a JSON object, got"),
        ("train.jsonl", '{"audio": "a/1.wav", "text": "x", "start": 3, "end": 1}', "before it ends, got 3.0 to 1.0"),
        ("train.jsonl", '{"audio": "a/1.wav", "text": "x", "start": 3}', "start and end"),
        ("train.csv", "wav,text\nnone.wav,x\n", r"no usable utterance \(1 missing\)"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(recipe, folder, tmp_path, name, content, says):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=says):
        recipe.prepare(folder, tmp_path / "out", splits=["train"])


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("wav.scp", "u1 sph2pipe -f wav a.sph |\n", "is a command"),
        ("wav.scp", "u2 x.wav\n", "lacks the recording 'u1'"),
        ("segments", "u1 rec\n", "expected 'recording start end'"),
        ("segments", "u1 rec 3 2\n", "expected 0 <= start < end"),
        ("segments", "u2 rec 1 2\n", "lacks the utterance 'u1'"),
    ],
)
def test_what_is_wrong_in_a_kaldi_folder_is_said(recipe, folder, tmp_path, file, content, says):
    kaldi = folder / "train"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text("u1 ../a/1.wav\n")
    (kaldi / "text").write_text("u1 words\n")
    (kaldi / file).write_text(content)
    with pytest.raises(ValueError, match=says):
        recipe.prepare(folder, tmp_path / "out", splits=["train"])


def test_a_split_that_is_not_there_is_said_with_what_is(recipe, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the split 'dev' .* there is a$"):
        recipe.prepare(folder, tmp_path / "out", splits=["dev"])
    with pytest.raises(FileNotFoundError, match="not a folder"):
        recipe.prepare(folder / "none", tmp_path / "out")
    with pytest.raises(ValueError, match="normaliser of Custom must be one of"):
        recipe.prepare(folder, tmp_path / "out", normaliser="french")


def test_nothing_is_done_again_while_the_listing_stays(recipe, folder, tmp_path):
    (folder / "train.csv").write_text("wav,text,speaker\na/1.wav,one,ann\n")
    manifest = recipe.prepare(folder, tmp_path / "out", splits=["train"])["train"]
    made = manifest.stat().st_mtime_ns
    assert recipe.prepare(folder, tmp_path / "out", splits=["train"])["train"].stat().st_mtime_ns == made
    (folder / "train.csv").write_text("wav,text,speaker\na/1.wav,one more,ann\n")
    recipe.prepare(folder, tmp_path / "out", splits=["train"])
    assert read_manifest(manifest)[0].text == "ONE MORE"
