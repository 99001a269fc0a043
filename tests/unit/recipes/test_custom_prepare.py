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
    assert [(row[0], row[3], row[4]) for row in found] == [("train-000000", "ONE", 1.0), ("train-000001", "TWO", 2.0)]


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
        ("segments", "u1 rec 3 2\n", "before it ends, got 3.0 to 2.0 s"),
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


def listed(recipe, folder, tmp_path, name, content, **options):
    """What preparing a listing gives: ids, audio and texts, and what was left out."""
    (folder / name).write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    rows = rows_of(recipe, folder, tmp_path, **options)
    return rows, read_description(tmp_path / "out" / "custom_train.csv")["skipped"]


@pytest.mark.parametrize(
    ("content", "texts", "says"),
    [
        ('a/1.wav\t"Hello there\tann\na/2.wav\tAnd you\tbob\n', ['"Hello there', "And you"], "belong to its texts"),
        ('a/1.wav\t"Hello there\tann\na/2.wav\tshe said"\tbob\n', ['"Hello there', 'she said"'], "belong to its"),
        ('a/1.wav\t"He said ""no"""\tann\na/2.wav\tyes\tbob\n', ['He said "no"', "yes"], "enclose cells"),
        ('a/1.wav\t"one\ttwo"\tann\na/2.wav\tyes\tbob\n', ["one two", "yes"], "enclose cells"),
    ],
)
def test_quotation_marks_of_a_tsv_are_decided_by_the_file(recipe, folder, tmp_path, caplog, content, texts, says):
    caplog.set_level("INFO")
    rows, _ = listed(recipe, folder, tmp_path, "train.tsv", f"path\tsentence\tspeaker\n{content}", normaliser="none")
    assert [(row[1], row[3]) for row in rows] == [("ann", texts[0]), ("bob", texts[1])]
    assert says in caplog.text


def test_a_mark_that_never_closes_does_not_stop_a_long_tsv(recipe, folder, tmp_path):
    lines = ['a/1.wav\t"Hello\tann'] + ["a/2.wav\tand so on\tbob"] * 6000  # more than a cell of csv may hold
    lines = [f"{line}\tu{number}" for number, line in enumerate(lines)]
    rows, _ = listed(recipe, folder, tmp_path, "train.tsv", "\n".join(["path\ttext\tspeaker\tid", *lines]))
    assert len(rows) == 6001 and rows[0][3] == "HELLO"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.csv", "wav,text,speaker\na/1.wav,one,ann\na/2.wav,Hello, you,bob\n", r"line 3 of .* has 4 cells"),
        ("train.tsv", "wav\ttext\na/1.wav\tone\ttwo\n", r"line 2 of .*train.tsv has 3 cells, its header 2"),
        ("train.csv", 'wav,text,speaker\na/1.wav,"Hello,ann\na/2.wav,yes,bob\n', "line 2 of .* must close"),
        ("train.csv", 'wav,text,spk_id\na/1.wav,"Hello,ann\na/2.wav,yes",bob\n', "lines 2 to 3 of .* are one row by"),
        ("train.csv", "wav,text\na/1.wav,no\na/2.wav,été\n".encode("cp1252"), r"train.csv' .* line 3 .*cp1252"),
        ("train.csv", "wav,text\na/1.wav,no\n".encode("utf-16"), r"train.csv' .* line 1 .*iconv -f UTF-16"),
        ("train.tsv", "wav\ttext\na/1.wav\tno\n".encode("utf-16-le"), r"train.tsv' must be .*iconv -f UTF-16"),
        ("train.jsonl", '{"audio": "a/1.wav", "text": "été"}\n'.encode("cp1252"), r"train.jsonl' .* line 1 is not"),
    ],
)  # fmt: skip
def test_listings_that_would_be_read_wrong_are_refused_with_file_and_line(
    recipe, folder, tmp_path, name, content, says
):
    with pytest.raises(ValueError, match=says):
        listed(recipe, folder, tmp_path, name, content)


def test_json_lines_as_nemo_writes_them_name_stretches_of_one_file(recipe, folder, tmp_path):
    entries = [
        {"audio_filepath": "a/long.wav", "offset": offset, "duration": 1.5, "text": text}
        for offset, text in ((0.0, "one"), (1.5, "two"))
    ]
    content = "\n".join(map(json.dumps, entries))
    rows, _ = listed(recipe, folder, tmp_path, "train.jsonl", content)
    wavs = ["$data_root/a/long.wav#t=0,1.5", "$data_root/a/long.wav#t=1.5,3"]
    assert [row[2:4] for row in rows] == list(zip(wavs, ["ONE", "TWO"], strict=True))


@pytest.mark.parametrize(("start", "end"), [("start", "end"), ("start_time", "end_time"), ("start_s", "end_s")])
def test_a_row_means_the_same_stretch_in_training_and_in_the_commands(recipe, folder, tmp_path, start, end):
    from eeasr_modules.runtime.files.inputs import read_material

    content = f"wav,text,{start},{end}\na/long.wav,one,1,2.5\na/long.wav,two,2.5,-1\n"
    rows, _ = listed(recipe, folder, tmp_path, "train.csv", content)
    assert [row[2] for row in rows] == ["$data_root/a/long.wav#t=1,2.5", "$data_root/a/long.wav#t=2.5"]
    material = read_material([str(folder / "train.csv")], sample_rate=16000)
    assert [len(wav) / 16000 for wav in material.wavs] == [row[4] for row in rows] == [1.5, 7.5]
    assert material.references == ("one", "two")


def kaldi_folder(folder, **files):
    (folder / "train").mkdir()
    for name, content in {"scp": "rec ../a/long.wav\n", **files}.items():
        (folder / "train" / ("wav.scp" if name == "scp" else name)).write_text(content, encoding="utf-8")


def test_kaldi_files_may_have_tabs_and_a_byte_order_mark(recipe, folder, tmp_path):
    kaldi_folder(
        folder,
        scp="\ufeffrec\t../a/long.wav\n",
        text="u1\tfirst words\n",
        utt2spk="u1\tann\n",
        segments="u1\trec\t1\t2\n",
    )
    assert rows_of(recipe, folder, tmp_path) == [("u1", "ann", "$data_root/a/long.wav#t=1,2", "FIRST WORDS", 1.0)]


def test_segments_of_kaldi_end_within_the_recording_or_with_it(recipe, folder, tmp_path):
    kaldi_folder(
        folder,
        text="u1 beyond\nu2 to the end\nu3 rounded\n",
        segments="u1 rec 8 12\nu2 rec 8 -1\nu3 rec 8 10.2\n",
    )
    rows = rows_of(recipe, folder, tmp_path)
    assert [(row[0], row[4]) for row in rows] == [("u2", 2.0), ("u3", 2.0)]
    described = read_description(tmp_path / "out" / "custom_train.csv")
    assert described["skipped"] == {"corrupt": 1} and "lasts 10.00 s" in described["skipped_first"]["corrupt"][0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", '{"audio": "a/1.wav", "text": "yes"}\n'),
        ("train.tsv", "audio\ttext\na/1.wav\tyes\n"),
        ("train.csv", "audio,text\na/1.wav,yes\n"),
    ],
)
def test_a_byte_order_mark_is_no_text(recipe, folder, tmp_path, name, content):
    rows, _ = listed(recipe, folder, tmp_path, name, f"\ufeff{content}")
    assert [row[3] for row in rows] == ["YES"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "wav,text\na/1.wav,one\na/2.wav,\n"),
        ("train.tsv", "wav\ttext\na/1.wav\tone\na/2.wav\n"),
        ("train.jsonl", '{"wav": "a/1.wav", "text": "one"}\n{"wav": "a/2.wav", "text": null}\n'),
        ("train.jsonl", '{"wav": "a/1.wav", "text": "one"}\n{"wav": "a/2.wav", "text": NaN}\n'),
    ],
)
def test_a_row_without_text_is_left_out_and_counted(recipe, folder, tmp_path, name, content):
    rows, left_out = listed(recipe, folder, tmp_path, name, content)
    assert [row[3] for row in rows] == ["ONE"] and left_out == {"empty text": 1}


def test_a_row_without_audio_is_left_out_and_counted(recipe, folder, tmp_path):
    rows, left_out = listed(recipe, folder, tmp_path, "train.csv", "wav,text\na/1.wav,one\n,two\n")
    assert len(rows) == 1 and left_out == {"missing": 1}


def saved_sets(folder, tmp_path, **columns):
    """A saved dataset with the same columns in train and test, but for the audio."""
    datasets = pytest.importorskip("datasets")
    clips = {"train": ["1", "2"], "test": ["2", "long"]}
    made = {}
    for split, names in clips.items():
        audio = [{"path": str(folder / "a" / f"{name}.wav"), "bytes": None} for name in names]
        one = datasets.Dataset.from_dict({"audio": audio, **columns})
        made[split] = one.cast_column("audio", datasets.Audio(decode=False))
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "hf"))
    return tmp_path / "hf"


@pytest.mark.parametrize(
    ("columns", "ids"),
    [
        ({"sentence": ["One", "Two"]}, {"train-000000", "train-000001", "test-000000", "test-000001"}),
        ({"sentence": ["One", "Two"], "id": [0, 1]}, {"train-0", "train-1", "test-0", "test-1"}),
        # FLEURS: `id` is the sentence's, and several speakers read each
        (
            {"id": [1504, 1504], "transcription": ["one", "one"], "gender": [0, 1]},
            {"train-000000", "train-000001", "test-000000", "test-000001"},
        ),
    ],
)  # fmt: skip
def test_hugging_face_sets_whose_ids_begin_again_keep_their_splits_apart(recipe, folder, tmp_path, columns, ids):
    corpus = saved_sets(folder, tmp_path, **columns)
    manifests = recipe.prepare(corpus, tmp_path / "out", splits=["train", "test"])
    assert {row.utt_id for manifest in manifests.values() for row in read_manifest(manifest)} == ids


@pytest.mark.parametrize(("texts", "left_out"), [(["One", None], {"empty text": 1}), ([12, 13], None)])
def test_texts_of_a_hugging_face_set_may_be_nothing_or_numbers(recipe, folder, tmp_path, texts, left_out):
    corpus = saved_sets(folder, tmp_path, text=texts)
    rows = rows_of(recipe, corpus, tmp_path, normaliser="none")
    assert [row[3] for row in rows] == [str(text) for text in texts if text is not None]
    assert read_description(tmp_path / "out" / "custom_train.csv")["skipped"] == (left_out or {})


def test_a_test_split_of_links_to_training_files_is_the_same_audio(recipe, folder, tmp_path):
    from eeasr_modules.training.corpora import describe, set_label

    (folder / "t.wav").symlink_to(folder / "a" / "1.wav")
    (folder / "train.csv").write_text("wav,text\na/1.wav,one\n")
    (folder / "test.csv").write_text("wav,text\nt.wav,one\n")
    manifests = recipe.prepare(folder, tmp_path / "out", splits=["train", "test"])
    with pytest.raises(ValueError, match="1 of 1 utterances of Custom test are in the training set"):
        set_label([describe(manifests["train"])], describe(manifests["test"]))


def test_texts_are_composed_even_as_they_are(recipe, folder, tmp_path):
    rows, _ = listed(recipe, folder, tmp_path, "train.csv", "wav,text\na/1.wav,e\u0301te\u0301\n", normaliser="none")
    assert rows[0][3] == "été"
