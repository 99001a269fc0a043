"""Text files of others, in UTF-8 with or without a byte-order mark, and cells of CSV that no spreadsheet calculates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_MARKS_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path | str) -> str:
    """Content of a text file, without byte-order mark.

    Arguments
    ---------
    path : Path or str
        UTF-8.

    Raises
    ------
    FileNotFoundError
        Without the file.
    ValueError
        When it is written in something else: file, line, and what to do.
    """
    return decoded(Path(path).read_bytes(), path)


def read_lines(path: Path | str) -> list[str]:
    """Lines of a text file without their ends; only line feeds end lines, not what else Unicode calls one.

    Arguments
    ---------
    path : Path or str
        UTF-8.

    Raises
    ------
    FileNotFoundError, ValueError
        See `read_text`.
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

    Arguments
    ---------
    value : object
        What is not a str, such as a number, stays as it is.

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
