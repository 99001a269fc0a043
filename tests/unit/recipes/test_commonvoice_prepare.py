"""Common Voice: TSVs as they are published, real counts."""

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.manifest import read_description, read_manifest
from recipes.CommonVoice.prepare import prepare

ROWS = [
    ("a" * 128, "cv_1.mp3", 'An album "African Blood" was scheduled.'),
    ("a" * 128, "cv_2.mp3", '"Unbalanced, as some sentences are.'),
    ("b" * 128, "cv_3.mp3", "Room 12 is taken."),
    ("b" * 128, "cv_gone.mp3", "Nobody kept this clip."),
    ("c" * 128, "cv_5.mp3", "..."),
    ("c" * 128, "cv_6.mp3", "It isn’t over."),
]


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "cv-corpus" / "en"
    (folder / "clips").mkdir(parents=True)
    lines = ["client_id\tpath\tsentence\tup_votes"] + ["\t".join((*row, "2")) for row in ROWS] + ["cut off"]
    (folder / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for _, name, _ in ROWS:
        if "gone" not in name:
            soundfile.write(folder / "clips" / name, 0.1 * np.sin(np.arange(16000) / 9), 32000, format="MP3")
    return folder.parent


def test_quotation_marks_swallow_no_rows_and_everything_left_out_is_counted(release, tmp_path):
    path = prepare(release, tmp_path / "save")["test"]
    assert {row.utt_id: row.text for row in read_manifest(path)} == {
        "cv_1": "AN ALBUM AFRICAN BLOOD WAS SCHEDULED",
        "cv_2": "UNBALANCED AS SOME SENTENCES ARE",
        "cv_6": "IT ISN'T OVER",
    }
    assert read_description(path)["skipped"] == {
        "missing": 1,
        "row not whole": 1,
        "text without spelling": 1,
        "empty text": 1,
    }
    assert read_manifest(path)[0].duration_s == pytest.approx(0.5, abs=0.1)


def test_removing_digits_instead_is_a_choice_that_makes_another_manifest(release, tmp_path):
    prepare(release / "en", tmp_path / "save")
    path = prepare(release / "en", tmp_path / "save", unreadable="remove")["test"]
    assert "ROOM IS TAKEN" in [row.text for row in read_manifest(path)]


def test_speakers_of_training_can_be_left_out(release, tmp_path):
    training = prepare(release, tmp_path / "train")["test"]
    training.write_text("\n".join(line for line in training.read_text().splitlines() if "cv_6" not in line))
    path = prepare(release, tmp_path / "save", exclude_speakers=[training])["test"]
    assert [row.utt_id for row in read_manifest(path)] == ["cv_6"]
    assert read_description(path)["skipped"]["speaker excluded"] == 2  # cv_1 and cv_2


def test_what_is_not_common_voice_is_refused_in_a_sentence(release, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected Common Voice with dev\.tsv in .*lacks dev\.tsv"):
        prepare(release, tmp_path / "save", splits=("dev",))
    (release / "en" / "clips").rename(release / "en" / "sounds")
    with pytest.raises(FileNotFoundError, match="expected Common Voice's clips or validated_clips"):
        prepare(release, tmp_path / "save")
    (release / "en" / "clips").mkdir()
    (release / "en" / "test.tsv").write_text("path\tsentence\n")
    with pytest.raises(ValueError, match="lacks client_id"):
        prepare(release, tmp_path / "save")


def write_release(folder, speakers, *, name="validated.tsv", columns=("client_id", "path", "sentence", "locale")):
    """A release whose only list is `name`, one clip of half a second per speaker."""
    (folder / "clips").mkdir(parents=True)
    lines = ["\t".join(columns)]
    for speaker, (sentence, locale) in speakers.items():
        row = {"client_id": speaker, "path": f"{speaker}.mp3", "sentence": sentence, "locale": locale}
        lines.append("\t".join(row.get(column, "") for column in columns))
        soundfile.write(folder / "clips" / f"{speaker}.mp3", 0.1 * np.sin(np.arange(16000) / 9), 32000, format="MP3")
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def utt_ids(manifest):
    return {row.utt_id for row in read_manifest(manifest)}


def test_a_release_that_was_never_split_is_split_by_speaker(tmp_path):
    speakers = {f"speaker{number}": ("Yes.", "en") for number in range(60)}
    folder = write_release(tmp_path / "en", speakers)
    made = prepare(folder, tmp_path / "save", splits=("train", "dev", "test"))
    found = {split: utt_ids(manifest) for split, manifest in made.items()}
    assert set.union(*found.values()) == set(speakers) and sum(map(len, found.values())) == 60
    assert 2 <= len(found["test"]) <= 12 and 2 <= len(found["dev"]) <= 12
    # a later release with more speakers leaves each where it was
    more = {f"speaker{number}": ("Yes.", "en") for number in range(30, 90)}
    again = prepare(write_release(tmp_path / "later", more), tmp_path / "save2", splits=("test",))["test"]
    assert utt_ids(again) & set(speakers) == found["test"] & set(more)
    (folder / "dev.tsv").write_text((folder / "validated.tsv").read_text())
    with pytest.raises(FileNotFoundError, match=r"lacks test\.tsv \(it has dev, validated\)"):
        prepare(folder, tmp_path / "save3")


def test_other_languages_keep_their_letters(tmp_path):
    texts = {"a": ("„Straße“, sagte Jürgen.", "de"), "b": ("Zimmer 12", "de"), "c": ("Où est l’été ?", "de")}
    release = write_release(tmp_path / "release" / "de", texts, name="test.tsv").parent  # the only language there
    path = prepare(release, tmp_path / "save")["test"]
    assert {row.utt_id: row.text for row in read_manifest(path)} == {
        "a": "STRASSE SAGTE JÜRGEN",
        "c": "OÙ EST L'ÉTÉ",
    }
    assert read_description(path)["normaliser"] == "letters"
    english = prepare(release, tmp_path / "save", normaliser="english")["test"]
    assert {row.text for row in read_manifest(english)} == {"STRASSE SAGTE JURGEN", "OU EST L'ETE"}
    with pytest.raises(ValueError, match="must be english or letters, got 'an4'"):
        prepare(release, tmp_path / "save", normaliser="an4")
    write_release(release / "fr", {"d": ("Oui", "fr")}, name="test.tsv")
    with pytest.raises(FileNotFoundError, match="holds the languages de, fr: name the folder of one"):
        prepare(release, tmp_path / "save")


def test_published_durations_spare_opening_the_clips_of_a_large_split(tmp_path):
    folder = write_release(tmp_path / "en", {"a": ("Yes", "en"), "b": ("No", "en"), "c": ("Go", "en")}, name="test.tsv")
    (folder / "clip_durations.tsv").write_text("clip\tduration[ms]\na.mp3\t6660\nb.mp3\t1234\n")
    (folder / "clips" / "b.mp3").write_bytes(b"not audio")
    (folder / "clips" / "c.mp3").unlink()
    path = prepare(folder, tmp_path / "save", decode=False)["test"]
    assert {row.utt_id: row.duration_s for row in read_manifest(path)} == {"a": 6.66, "b": 1.234}
    assert read_description(path)["skipped"] == {"missing": 1}
    path = prepare(folder, tmp_path / "save")["test"]  # a small split is decoded
    assert {row.utt_id: row.duration_s for row in read_manifest(path)} == {"a": pytest.approx(0.5, abs=0.05)}
    assert read_description(path)["skipped"] == {"missing": 1, "corrupt": 1}


@pytest.mark.shared_data
def test_real_releases_of_different_columns_are_read(shared_data, tmp_path):
    delta = shared_data / "cv-corpus-13.0-delta-2023-03-09"
    manifests = prepare(delta, tmp_path / "13", splits=("train", "test"), decode=False)
    noted = {split: read_description(path) for split, path in manifests.items()}
    assert [noted[split]["n_utterances"] for split in ("train", "test")] == [1046, 260]
    assert [noted[split]["n_speakers"] for split in ("train", "test")] == [26, 140]
    old, new = shared_data / "cv-corpus-6.1-2020-12-11", shared_data / "cv-corpus-20.0-delta-2024-12-06"
    for release, split, n_shared in ((old, "train", 5), (new, "test", 6)):
        choices = {"splits": ("validated",), "exclude_speakers": [manifests[split]], "decode": False}
        path = prepare(release, tmp_path / release.name, **choices)["validated"]
        assert read_description(path)["skipped"] == {"speaker excluded": n_shared}


@pytest.mark.shared_data
def test_published_durations_of_a_real_release_are_those_of_its_clips(shared_data, tmp_path):
    release = shared_data / "cv-corpus-20.0-delta-2024-12-06"
    decoded, published = (
        {
            row.utt_id: row.duration_s
            for row in read_manifest(prepare(release, tmp_path / str(d), splits=["validated"], decode=d)["validated"])
        }
        for d in (True, False)
    )
    assert len(decoded) == 250 and decoded.keys() == published.keys()
    assert max(abs(decoded[utt_id] - published[utt_id]) for utt_id in decoded) < 0.1
