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
