"""Which recordings a table was made from, and whose bytes a dataset's file holds."""

import os

from eeasr_modules.data.manifest import audio_digest, audio_state
from eeasr_modules.data.own_data import _file_of


def test_state_follows_size_and_time_and_digest_the_content(tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(b"abc")
    os.utime(file, (1, 1))
    state, digest = audio_state([file]), audio_digest([file])
    os.utime(file, (2, 2))
    assert audio_state([file]) != state and audio_digest([file]) == digest
    file.write_bytes(b"abd")
    assert audio_digest([file]) != digest
    file.unlink()
    assert audio_state([file]) != state and audio_digest([file]) != digest


def test_rows_of_a_dataset_that_change_places_keep_their_own_bytes(tmp_path):
    def written(content):
        return _file_of({"bytes": content, "path": "x.wav"}, tmp_path / "audio", root=tmp_path, place="row 0 of x")

    names = [written(content) for content in (b"aaaa", b"bbbb", b"aaaa")]
    assert [(tmp_path / "audio" / name).read_bytes() for name in names] == [b"aaaa", b"bbbb", b"aaaa"]
    assert names[0] == names[2] != names[1]
