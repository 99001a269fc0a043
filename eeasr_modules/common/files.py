"""Files written aside and renamed, so that nobody reads half of one; digests; text files of others, and cells of CSV.

Text is read in UTF-8 with or without a byte-order mark; cells are such that no spreadsheet calculates them."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_aside(path: str | Path, content: str | bytes | Callable[[Path], object], *, sync: bool = False) -> Path:
    """Write a file under `<name>.tmp` and rename it to `path`, where either what was before lies or all of the new.

    OSError when it cannot be written; whatever happens in writing, nothing stays behind. `path`: its folder is made if
    needed. `content`: text, written as UTF-8 with its line ends as they are; bytes; or a writer, which is given the
    path to write to. `sync`: rename only when the content is on the disk.

    Example
    -------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write_aside(Path(folder.name, "a.txt"), "été").read_bytes()
    b'\\xc3\\xa9t\\xc3\\xa9'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    try:
        if callable(content):
            content(aside)
        else:
            aside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        if sync:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return path


def file_digest(*paths: str | Path | bytes) -> str:
    """SHA-256, in hexadecimal, of what files hold, one after the other; bytes stand for a file's content.

    Example
    -------
    >>> file_digest()[:12]
    'e3b0c44298fc'
    """
    digest = hashlib.sha256()
    for path in paths:
        with io.BytesIO(path) if isinstance(path, bytes) else open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def rounded(value: object) -> object:
    """A value for a JSON file, with the floats in it, however deep, to 4 decimals: more would be noise.

    Example
    -------
    >>> rounded({"wer": (12.345678, 3), "name": "a"})
    {'wer': [12.3457, 3], 'name': 'a'}
    """
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


_MARKS_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path | str) -> str:
    """Content of a text file, without byte-order mark.

    FileNotFoundError without the file. ValueError when it is written in something else: file, line, and what to do.
    """
    return decoded(Path(path).read_bytes(), path)


def read_lines(path: Path | str) -> list[str]:
    """Lines of a text file without their ends; only line feeds end lines, not what else Unicode calls one.

    FileNotFoundError or ValueError as `read_text`.
    """
    return lines_of(read_text(path))


def lines_of(text: str) -> list[str]:
    """Lines of a text without their ends, the last one not empty.

    Example
    -------
    >>> lines_of("one\\r\\ntwo\\u2028still two\\n")
    ['one', 'two\\u2028still two']
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def decoded(content: bytes, path: Path | str) -> str:
    """The text of a file's bytes, without byte-order mark; a ValueError names file and line where they are not UTF-8.

    Example
    -------
    >>> decoded("été\\n".encode("cp1252"), "a.csv")
    Traceback (most recent call last):
    ...
    ValueError: 'a.csv' must be UTF-8 text, line 1 is not (byte 0xe9); if it is cp1252: iconv -f WINDOWS-1252 -t UTF-8
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        if content[:2] not in _MARKS_OF_UTF_16:
            line = content[: err.start].count(b"\n") + 1
            raise ValueError(
                f"'{path}' must be UTF-8 text, line {line} is not (byte 0x{content[err.start]:02x}); "
                "if it is cp1252: iconv -f WINDOWS-1252 -t UTF-8"
            ) from err
        text = "\0"
    if "\0" in text:  # every second byte of UTF-16 that has no mark
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"'{path}' must be UTF-8 text, line {line} looks like UTF-16: iconv -f UTF-16 -t UTF-8")
    return text


_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NEUTRALISED = re.compile(r"'+[=+\-@\t\r]")


def neutral(value: Any) -> Any:
    """A cell as it is written: a text that begins with = + - @, a tab or a return gets an apostrophe before it.

    Apostrophes that already stand before such a character get one more, so that `as_it_was` finds back any text.

    `value`: what is not a str, such as a number, stays as it is.

    Example
    -------
    >>> neutral("=1+1"), neutral("'tis"), neutral(-1.5)
    ("'=1+1", "'tis", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def as_it_was(cell: str) -> str:
    """The text that `neutral` was given.

    Example
    -------
    >>> as_it_was("'=1+1"), as_it_was("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if _NEUTRALISED.match(cell) else cell
