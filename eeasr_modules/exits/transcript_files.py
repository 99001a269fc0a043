"""What readers of recorded transcripts share: lines, rows with their places, durations where none are known."""

import gzip
import json
import lzma
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.text_files import decoded

# where durations are not known; on LibriSpeech's test sets this gives totals of 5.41 h (clean) and 5.30 h (other),
# while the recordings last 5.40 h and 5.34 h
PAUSE_S = 0.5
CHARS_PER_S = 15.5
FRAMES_PER_S = 50


def read_lines(path: str | Path) -> list[str]:
    """Lines of a text file, as it is or compressed (`.gz`, `.xz`).

    Arguments
    ---------
    path : str or Path
        UTF-8.

    Returns
    -------
    list of str
        Without their ends.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of transcripts or references at {path}")
    try:
        content = path.read_bytes()
        content = {".xz": lzma.decompress, ".gz": gzip.decompress}.get(path.suffix, bytes)(content)
    except (lzma.LZMAError, OSError, EOFError) as err:
        raise ValueError(f"{path} cannot be read as text ({err})") from err
    return decoded(content, path).split("\n")


def read_rows(path: Path, *, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a TSV with a header or of JSON lines, each with its place.

    Arguments
    ---------
    path : Path
        The file; `.json` and `.jsonl` are JSON lines, everything else TSV.
    needed : sequence of str
        Columns that every row must have.

    Yields
    ------
    tuple of (str, dict)
        Such as ("line 7 of x.tsv", {"id": ...}). Values of a TSV are text.

    Raises
    ------
    ValueError
        When a line has other columns than it should, or is no JSON object; the place is named.
    """
    lines = [(f"line {i} of {path}", line.rstrip("\r")) for i, line in enumerate(read_lines(path), 1) if line.strip()]
    as_json = {".json", ".jsonl"} & set(path.suffixes)
    if not lines:
        raise ValueError(f"{path} must hold rows with {', '.join(needed)}, but it is empty")
    header: list[str] = []
    for place, line in lines:
        if as_json:
            row = _json_row(place, line)
        elif not header:
            header = [name.strip() for name in line.split("\t")]
            twice = [name for name in header if header.count(name) > 1]
            missing = [name for name in needed if name not in header]
            if missing or twice:
                wrong = f"{', '.join(missing)} not there" if missing else f"{twice[0]!r} occurs more than once"
                raise ValueError(
                    f"{place} must be a header with the columns {', '.join(needed)}, separated by tabs; {wrong}"
                )
            continue
        else:
            cells = line.split("\t")
            if len(cells) != len(header):
                raise ValueError(f"{place} must have {len(header)} cells, as the header has, got {len(cells)}")
            row = dict(zip(header, cells))
        missing = [name for name in needed if row.get(name) is None]
        if missing:
            raise ValueError(f"{place} must have {', '.join(needed)}, but {', '.join(missing)} is not there")
        yield place, row


def layer_of(value: Any, place: str) -> int:
    """An exit's layer from a cell.

    Arguments
    ---------
    value : Any
        Number or text.
    place : str
        File and line, for the message.

    Returns
    -------
    int
        From 1.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise ValueError(f"{place}: the exit must be its number of encoder layers, from 1, got {text[:40]!r}")
    return int(text)


def complete_only(lacking: dict[str, str], *, drop_incomplete: bool, source: Path) -> list[str]:
    """Names of the utterances that are whole.

    Arguments
    ---------
    lacking : dict of str to str
        What each utterance lacks; "" where it is whole.
    drop_incomplete : bool
        Whether the others may be left out.
    source : Path
        Where they come from, for the message.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        When some are not whole and may not be left out, or none is whole.
    """
    kept = [name for name, lack in lacking.items() if not lack]
    incomplete = [name for name, lack in lacking.items() if lack]
    if incomplete and not drop_incomplete:
        raise ValueError(
            f"{len(incomplete)} of {len(lacking)} utterances of {source} are not whole, the first {incomplete[0]!r}, "
            f"which lacks {lacking[incomplete[0]]}; complete them, or leave them out with --drop-incomplete"
        )
    if not kept:
        raise ValueError(f"{source} must hold at least one whole utterance, got none of {len(lacking)}")
    return kept


def approximate_duration_s(references: Sequence[str]) -> np.ndarray:
    """Seconds of speech guessed from the references' lengths; weights for costs only, no policy may read them.

    Arguments
    ---------
    references : sequence of str, n_utterances long
        What was said.

    Returns
    -------
    np.ndarray of shape (n_utterances,)

    Example
    -------
    >>> approximate_duration_s(["a big dog"]).round(2)
    array([1.08])
    """
    return PAUSE_S + np.array([len(reference) for reference in references]) / CHARS_PER_S


def _json_row(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as err:
        raise ValueError(f"{place} must be a JSON object, got {line[:40]!r} ({err.msg})") from err
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be a JSON object, got {line[:40]!r}")
    return row


def number_of(value: Any, key: str, place: str) -> float:
    """A finite number from a cell.

    Arguments
    ---------
    value : Any
        Number or text.
    key : str
        What it is, for the message.
    place : str
        File and line, for the message.

    Returns
    -------
    float
    """
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number):
        raise ValueError(f"{place}: {key} must be a finite number, got {value!r}")
    return number
