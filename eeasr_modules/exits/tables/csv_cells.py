"""Text in CSV cells that no spreadsheet takes for a formula."""

import re
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NEUTRALISED = re.compile(r"'+[=+\-@\t\r]")


def neutral(value: Any) -> Any:
    """A cell as it is written: a text that begins with = + - @, a tab or a return gets an apostrophe before it.

    Apostrophes that already stand before such a character get one more, so that `as_it_was` finds back any text.

    Arguments
    ---------
    value : object
        What is not a str, such as a number, stays as it is.

    Returns
    -------
    object

    Example
    -------
    >>> neutral("=1+1"), neutral("'tis"), neutral(-1.5)
    ("'=1+1", "'tis", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def as_it_was(cell: str) -> str:
    """The text that `neutral` was given.

    Arguments
    ---------
    cell : str
        As it was written.

    Returns
    -------
    str

    Example
    -------
    >>> as_it_was("'=1+1"), as_it_was("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if _NEUTRALISED.match(cell) else cell
