"""Files written aside and renamed, digests; text files of others, through the recipes that read them."""

import hashlib

import pytest

from eeasr_modules.common.files import file_digest, read_lines, read_text, write_aside
from eeasr_modules.training.corpora import load_recipe


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


def test_a_byte_order_mark_is_no_text_and_only_line_feeds_end_lines(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone\r\ntwo\u2028\x85still two\n", encoding="utf-8", newline="")
    assert read_lines(tmp_path / "a.txt") == ["one", "two\u2028\x85still two"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no\nété\n".encode("cp1252"), r"a\.txt' must be UTF-8 text, line 2 is not \(byte 0xe9\); .* WINDOWS-1252"),
        ("no\n".encode("utf-16"), r"line 1 looks like UTF-16: iconv -f UTF-16"),
        ("no\n".encode("utf-16-be"), r"line 1 looks like UTF-16"),
    ],
)
def test_another_encoding_is_named_with_its_line_and_what_to_do(tmp_path, content, says):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_text(tmp_path / "a.txt")


def test_a_byte_order_mark_costs_no_utterance_of_librispeech(root, tmp_path):
    import numpy as np
    import soundfile

    from eeasr_modules.data.manifest import read_manifest

    chapter = tmp_path / "c" / "dev-clean" / "1" / "2"
    chapter.mkdir(parents=True)
    for name in ("1-2-0000.wav", "._1-2-0000.wav"):
        soundfile.write(chapter / name, 0.1 * np.ones(1600), 16000)
    (chapter / "1-2.trans.txt").write_text("\ufeff1-2-0000 YES\n", encoding="utf-8")
    recipe = load_recipe(root / "recipes" / "LibriSpeech")
    made = recipe.prepare(tmp_path / "c", tmp_path / "out", splits=("dev-clean",))["dev-clean"]
    assert [(row.utt_id, row.text) for row in read_manifest(made)] == [("1-2-0000", "YES")]
