"""Stretches of recordings: written, read alone, looked at."""

import numpy as np
import pytest
import soundfile
import torch

from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.audio_files import split_segment, with_segment
from eeasr_modules.data.manifest import Utterance, read_manifest, write_manifest


@pytest.fixture
def talk(tmp_path):
    """Ten seconds whose samples rise from 0 to 1, so that a sample says where it stood."""
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.linspace(0, 0.999, 160000), 16000, subtype="FLOAT")
    return path


def test_a_stretch_is_read_alone_and_is_that_of_the_whole(talk):
    whole, part = read_audio(talk), read_audio(with_segment(talk, (2.5, 4.0)))
    torch.testing.assert_close(part, whole[40000:64000])
    assert len(read_audio(with_segment(talk, (9.0, 12.0)))) == 16000  # ends with its file


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
def test_a_stretch_of_every_format_begins_where_it_should(tmp_path, suffix):
    rng = np.random.default_rng(3)
    path = tmp_path / f"talk.{suffix}"
    soundfile.write(path, 0.2 * rng.standard_normal(8 * 16000), 16000)
    whole, part = read_audio(path), read_audio(with_segment(path, (3.0, 5.0)))
    assert len(part) == 32000
    lags = [float(torch.dot(part, whole[48000 + lag : 80000 + lag])) for lag in range(-200, 201)]
    assert int(np.argmax(lags)) == 200


def test_a_stretch_behind_the_end_is_an_error_that_names_it(talk):
    with pytest.raises(ValueError, match=r"talk.wav#t=11,12' holds no samples"):
        read_audio(with_segment(talk, (11.0, 12.0)))


@pytest.mark.parametrize("segment", [(-1.0, 2.0), (3.0, 3.0), (4.0, 3.0)])
def test_a_stretch_that_is_none_is_refused(segment):
    with pytest.raises(ValueError, match="must begin at 0 s or later"):
        with_segment("talk.wav", segment)


def test_a_file_that_is_called_like_a_stretch_is_a_file(tmp_path):
    odd = tmp_path / "a.wav#t=1,2"
    odd.write_bytes(b"x")
    assert split_segment(odd) == (odd, None)


def test_a_manifest_holds_stretches_and_leaves_out_those_outside_their_file(talk, tmp_path):
    utterances = [
        Utterance("a", "s", talk, "ONE", segment=(0.0, 1.5)),
        Utterance("b", "s", talk, "TWO", segment=(9.0, 30.0)),
        Utterance("c", "s", talk, "THREE", segment=(30.0, 31.0)),
    ]
    path = write_manifest(
        tmp_path / "m.csv", utterances, corpus="X", split="train", data_folder=tmp_path, normaliser="english"
    )
    rows = read_manifest(path)
    assert [(row.utt_id, row.duration_s, row.wav) for row in rows] == [
        ("a", 1.5, "$data_root/talk.wav#t=0,1.5"),
    ]
    left_out = path.with_suffix(".skipped.txt").read_text()
    assert "lasts 10.00 s" in left_out and {"b", "c"} <= set(left_out.split())
