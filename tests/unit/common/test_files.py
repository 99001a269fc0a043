"""Files written aside and renamed; digests of files."""

import hashlib

import pytest

from eeasr_modules.common.files import file_digest, write_aside


def test_text_bytes_and_a_writer_are_written_as_they_are_and_nothing_stays_beside(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert write_aside(folder / "a.txt", "é\r\n") == folder / "a.txt"
    write_aside(str(folder / "b.bin"), b"\0\xff", sync=True)
    write_aside(folder / "c.txt", lambda aside: aside.write_text(aside.name))
    assert (folder / "a.txt").read_bytes() == b"\xc3\xa9\r\n" and (folder / "b.bin").read_bytes() == b"\0\xff"
    assert (folder / "c.txt").read_text() == "c.txt.tmp"  # written under another name
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt()])
def test_what_was_there_before_stays_whole_when_writing_fails(tmp_path, error):
    path = write_aside(tmp_path / "a.txt", "before")

    def half(aside):
        aside.write_text("hal")
        raise error

    with pytest.raises(type(error)):
        write_aside(path, half)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_the_digest_of_files_is_that_of_their_contents_in_order(tmp_path):
    a, b = write_aside(tmp_path / "a", b"a" * 3_000_000), write_aside(tmp_path / "b", b"b")
    assert file_digest(a, b) == hashlib.sha256(b"a" * 3_000_000 + b"b").hexdigest() != file_digest(b, a)
