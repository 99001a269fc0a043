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
    def written(utt_id, content):
        return _file_of({"bytes": content, "path": "x.wav"}, utt_id, tmp_path / "audio", tmp_path).read_bytes()

    assert written("000000", b"aaaa") == b"aaaa" and written("000001", b"bbbb") == b"bbbb"
    assert written("000000", b"bbbb") == b"bbbb" and written("000001", b"aaaa") == b"aaaa"


def test_ids_that_differ_by_a_slash_have_files_of_their_own(tmp_path):
    files = [_file_of({"bytes": b, "path": None}, i, tmp_path, tmp_path) for i, b in (("t/0", b"aa"), ("t_0", b"bb"))]
    assert [file.read_bytes() for file in files] == [b"aa", b"bb"]
