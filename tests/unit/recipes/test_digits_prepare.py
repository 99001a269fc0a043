"""Free Spoken Digit Dataset."""

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.manifest import read_description, read_manifest
from recipes.Digits.prepare import prepare


@pytest.fixture
def digits(tmp_path):
    folder = tmp_path / "digits"
    (folder / "recordings").mkdir(parents=True)
    for name in ("7_jackson_2", "0_theo_1", "3_lucas_10", "notes", "12_theo_0"):
        soundfile.write(folder / "recordings" / f"{name}.wav", np.ones(4000) * 0.1, 8000)
    return folder


def test_digits_become_words_and_odd_names_are_counted(digits, tmp_path):
    path = prepare(digits, tmp_path / "save")["test"]
    assert [(row.utt_id, row.speaker, row.text) for row in read_manifest(path)] == [
        ("0_theo_1", "theo", "ZERO"),
        ("7_jackson_2", "jackson", "SEVEN"),
    ]
    assert read_description(path)["skipped"] == {"file name is not digit_speaker_take": 2}


def test_more_takes_make_another_manifest(digits, tmp_path):
    prepare(digits, tmp_path / "save")
    path = prepare(digits, tmp_path / "save", n_takes=50)["test"]
    assert [row.text for row in read_manifest(path)] == ["ZERO", "THREE", "SEVEN"]


def test_another_folder_an_unknown_split_and_no_digits_are_refused(digits, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the Free Spoken Digit Dataset with recordings"):
        prepare(tmp_path, tmp_path / "save")
    with pytest.raises(ValueError, match="the split test only, got train"):
        prepare(digits, tmp_path / "save", splits=("train",))
    with pytest.raises(ValueError, match="no usable utterance"):
        prepare(digits, tmp_path / "save", n_takes=0)


@pytest.mark.shared_data
def test_the_real_digits_are_all_there(shared_data, tmp_path):
    noted = read_description(prepare(shared_data / "free-spoken-digit-dataset", tmp_path)["test"])
    assert (noted["n_utterances"], noted["n_speakers"], noted["skipped"]) == (600, 6, {})
