"""AN4: parsing, splits, formats, and the real corpus."""

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.manifest import read_description, read_manifest
from eeasr_modules.training.corpora import describe, n_seen_speakers, set_label
from recipes.AN4.prepare import fetch, prepare, texts_in_training

SUFFIXES = (".wav", ".flac", ".opus", ".sph", ".raw")


def save(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".raw":
        np.round(samples * 32767).astype(">i2").tofile(path)
    else:
        kind = {".sph": {"format": "NIST"}, ".opus": {"format": "OGG", "subtype": "OPUS"}}.get(path.suffix, {})
        soundfile.write(path, samples, 16000, **kind)


@pytest.fixture
def an4(tmp_path):
    """A folder like AN4: training speakers t00 ... t19, test speakers x and y, every kind of audio."""
    folder = tmp_path / "an4"
    (folder / "etc").mkdir(parents=True)
    samples = 0.1 * np.sin(np.arange(8000) / 20)
    parts = {
        "train": ("an4_clstk", [f"t{index:02d}" for index in range(20)]),
        "test": ("an4test_clstk", ["x", "y"]),
    }
    for part, (where, speakers) in parts.items():
        fileids, lines = [], []
        for index, speaker in enumerate(speakers):
            utt_id = f"an{index}-{speaker}-b"
            save(folder / "wav" / where / speaker / f"{utt_id}{SUFFIXES[index % 5]}", samples)
            fileids.append(f"{where}/{speaker}/{utt_id}\n")
            mark = ("<s> ", " </s>") if part == "train" else ("", "")
            lines.append(f"{mark[0]}RUBOUT G {'TWO' if index else 'ONE'}{mark[1]} ({utt_id})\n")
        (folder / "etc" / f"an4_{part}.fileids").write_text("".join(fileids))
        (folder / "etc" / f"an4_{part}.transcription").write_text("".join(lines))
    return folder


def test_every_tenth_sorted_training_speaker_is_dev(an4, tmp_path):
    manifests = prepare(an4, tmp_path / "save")
    assert list(manifests) == ["train", "dev", "test"]
    speakers = {split: {row.speaker for row in read_manifest(path)} for split, path in manifests.items()}
    assert speakers["dev"] == {"t09", "t19"}
    assert len(speakers["train"]) == 18
    assert speakers["test"] == {"x", "y"}


def test_sentences_heard_in_training_can_be_left_out_of_test(an4, tmp_path):
    line = (an4 / "etc" / "an4_test.transcription").read_text().replace("TWO", "SEVEN")
    (an4 / "etc" / "an4_test.transcription").write_text(line)
    manifests = prepare(an4, tmp_path / "save", splits=["test", "test_unseen_text"])
    assert [row.text for row in read_manifest(manifests["test"])] == ["RUBOUT G ONE", "RUBOUT G SEVEN"]
    assert [row.text for row in read_manifest(manifests["test_unseen_text"])] == ["RUBOUT G SEVEN"]


def test_every_kind_of_audio_is_found_by_its_stem(an4, tmp_path):
    manifests = prepare(an4, tmp_path / "save")
    rows = [row for path in manifests.values() for row in read_manifest(path)]
    assert {row.wav[row.wav.rindex(".") :] for row in rows} == set(SUFFIXES)
    assert all(row.duration_s == pytest.approx(0.5, abs=0.01) for row in rows)
    assert all(read_description(path)["skipped"] == {} for path in manifests.values())
    assert (rows[0].utt_id, rows[0].text) == ("an0-t00-b", "RUBOUT G ONE")


def test_the_folder_above_and_a_part_of_the_splits_will_do(an4, tmp_path):
    manifests = prepare(an4.parent, tmp_path / "save", splits=("test",))
    assert [path.name for path in manifests.values()] == ["an4_test.csv"]


def test_missing_audio_is_counted_not_fatal(an4, tmp_path):
    (an4 / "wav" / "an4_clstk" / "t03" / "an3-t03-b.sph").unlink()
    noted = read_description(prepare(an4, tmp_path / "save")["train"])
    assert (noted["n_utterances"], noted["skipped"]) == (17, {"missing": 1})
    assert noted["skipped_first"]["missing"][0].startswith("an3-t03-b")


def test_what_is_not_an4_is_refused_in_one_sentence(an4, tmp_path):
    with pytest.raises(ValueError, match="splits train, dev, test, test_unseen_text, got eval"):
        prepare(an4, tmp_path / "save", splits=("eval",))
    (an4 / "etc" / "an4_test.fileids").unlink()
    for folder in (an4, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"expected AN4 with etc/an4_train.fileids, ") as caught:
            prepare(folder, tmp_path / "save")
        assert "\n" not in str(caught.value)


def test_broken_transcriptions_name_file_and_line(an4, tmp_path):
    path = an4 / "etc" / "an4_test.transcription"
    good = path.read_text()
    path.write_text(good + "NO ID HERE\n")
    with pytest.raises(ValueError, match=r"line 3 of .*an4_test.transcription must end with \(utterance-id\)"):
        prepare(an4, tmp_path / "save", splits=("test",))
    path.write_text(good.splitlines()[0])
    with pytest.raises(ValueError, match="names an4test_clstk/y/an1-y-b, but"):
        prepare(an4, tmp_path / "save", splits=("test",))


def test_a_split_without_audio_is_refused(an4, tmp_path):
    (an4 / "wav").rename(an4 / "elsewhere")
    (an4 / "wav").mkdir()
    with pytest.raises(ValueError, match=r"split 'train' of AN4 has no usable utterance \(18 missing\)"):
        prepare(an4, tmp_path / "save")


def test_a_corpus_that_is_there_is_not_downloaded(an4):
    assert fetch(an4.parent) == an4


@pytest.mark.shared_data
def test_the_real_corpus_has_its_published_numbers(shared_data, tmp_path):
    manifests = prepare(shared_data / "an4", tmp_path)
    rows = {split: read_manifest(path) for split, path in manifests.items()}
    noted = {split: read_description(path) for split, path in manifests.items()}
    assert {split: len(each) for split, each in rows.items()} == {"train": 857, "dev": 91, "test": 130}
    assert [noted[split]["n_speakers"] for split in ("train", "dev", "test")] == [67, 7, 10]
    assert all(each["skipped"] == {} for each in noted.values())
    assert noted["train"]["duration_s"] + noted["dev"]["duration_s"] == pytest.approx(0.71 * 3600, rel=0.01)
    train, test = ([row.text for row in rows[split]] for split in ("train", "test"))
    assert len(texts_in_training(train + [row.text for row in rows["dev"]], test)) == 26
    descriptions = [describe(manifests["train"])]
    for split in ("dev", "test"):
        assert set_label(descriptions, describe(manifests[split])) == "in_domain"
        assert n_seen_speakers(descriptions, describe(manifests[split])) == 0
