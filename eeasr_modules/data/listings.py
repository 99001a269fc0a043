"""Listings of recordings (CSV, TSV, JSON lines): their rows, and what a row says, under the names that others use.

Preparation and the commands that take listings (`transcribe`, `benchmark`, `confidence`) read by this module alone: a
row means the same stretch of the same file in all of them.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eeasr_modules.common.files import lines_of, read_text
from eeasr_modules.data.audio_files import split_segment

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv", ".jsonl")
# names that other tools give the same column, first come first taken
AUDIO_COLUMNS = ("wav", "audio", "path", "file", "audio_filepath", "file_name")
TEXT_COLUMNS = ("wrd", "text", "sentence", "transcript", "transcription", "reference")
ID_COLUMNS = ("ID", "id", "utt_id", "key")
SPEAKER_COLUMNS = ("spk_id", "speaker", "speaker_id", "client_id")
START_COLUMNS = ("start", "start_s", "start_time", "offset")
END_COLUMNS = ("end", "end_s", "end_time", "stop")
DATA_ROOT = "$data_root"  # how manifests of this program begin paths within a corpus


@dataclass(frozen=True)
class Row:
    """One row of a listing."""

    place: str  # such as "line 7 of x.tsv"
    audio: str  # path as listed, without its stretch; "" where the cell is empty
    text: str | None  # as listed, "" where the cell is empty; None where the listing has no column of texts
    # utt_id, speaker: None where nothing is said
    utt_id: str | None
    speaker: str | None
    segment: tuple[float, float] | None  # start and end in the file, seconds; the end may be infinite


def read_listing(path: Path, *, needs_text: bool = False) -> Iterator[Row]:
    """Rows of a listing, in its order.

    FileNotFoundError without the file; ValueError, in one sentence with file and line: what is not understood, or which
    column there is not. `needs_text`: refuse rows without a column of texts; an empty cell in one is taken.
    """
    rows = _json_rows(path) if path.suffix.lower() == ".jsonl" else table_rows(path)
    for number, row in rows:
        place = f"line {number} of {path}"
        _check_columns(row, place, needs_text=needs_text)
        audio = (value_of(row, AUDIO_COLUMNS) or "").strip()
        file, listed = split_segment(audio) if audio else ("", None)
        segment = _segment(row, place)
        has_text = any(name in row for name in TEXT_COLUMNS)
        text = (value_of(row, TEXT_COLUMNS) or "") if has_text else None
        utt_id, speaker = value_of(row, ID_COLUMNS), value_of(row, SPEAKER_COLUMNS)
        yield Row(place, str(file), text, utt_id, speaker, listed if segment is None else segment)


def _check_columns(row: Mapping[str, Any], place: str, *, needs_text: bool) -> None:
    for what, columns in (("audio", AUDIO_COLUMNS), ("text", TEXT_COLUMNS if needs_text else ())):
        if columns and not any(name in row for name in columns):
            there = ", ".join(map(str, row))
            raise ValueError(f"{place} must say its {what} under one of {', '.join(columns)}, it has {there}")


def value_of(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of the cells that is not empty, as text; nothing, null and NaN are empty.

    Example
    -------
    >>> value_of({"id": "", "key": 7}, ("id", "key")), value_of({"id": float("nan")}, ("id",))
    ('7', None)
    """
    values = (row.get(name) for name in names)
    return next((str(one) for one in values if one not in (None, "") and one == one), None)


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV, or of a `.tsv` with tabs between its cells, with a header; each with its line number.

    In a CSV, quotation marks enclose cells. A TSV may be written either way: with cells in quotation marks (pandas), or
    with marks that belong to the text (Common Voice); the file decides, and the log says which.

    ValueError with file and line: more cells than the header has, or quotation marks that do not
    close.
    """
    text = read_text(path)
    if path.suffix.lower() != ".tsv":
        rows = _csv_rows(text, path)
    elif '"' not in text:
        rows = _plain_rows(text)
    else:
        quoted = _quoted_tsv(text)
        rows = _plain_rows(text) if quoted is None else quoted
        how = "belong to its texts" if quoted is None else "enclose cells, as pandas writes them"
        logger.info("%s: quotation marks %s", path, how)
    header = [name.strip() for name in rows[0][1]] if rows else []
    for number, cells in rows[1:]:
        if any(cell.strip() for cell in cells[len(header) :]):
            remedy = "" if path.suffix.lower() == ".tsv" else ": put texts that hold a comma in quotation marks"
            raise ValueError(f"line {number} of {path} has {len(cells)} cells, its header {len(header)}{remedy}")
        yield number, dict(zip(header, cells, strict=False)) | dict.fromkeys(header[len(cells) :], "")


def _plain_rows(text: str) -> list[tuple[int, list[str]]]:
    """Lines cut at tabs, with their numbers; quotation marks mean nothing."""
    return [(number, line.split("\t")) for number, line in enumerate(lines_of(text), start=1) if line.strip()]


def _quoted_tsv(text: str) -> list[tuple[int, list[str]]] | None:
    """Rows whose cells may be in quotation marks; None where the file is not written so.

    A mark that opens a cell in one row and one that happens to close a cell further down would merge rows: where lines
    are rows as they stand, a reading that makes fewer of them is not taken.
    """
    try:
        rows = _parsed(text, "\t")
    except csv.Error:
        return None
    plain = _plain_rows(text)
    n_cells = len(rows[0][1])
    if any(len(cells) != n_cells for _, cells in rows):
        return None
    merges = len(rows) != len(plain) and all(len(cells) == len(plain[0][1]) for _, cells in plain)
    return None if merges else rows


def _csv_rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    try:
        rows = _parsed(text, ",")
    except csv.Error as err:
        line = err.line if isinstance(err, _NotClosed) else 1
        raise ValueError(
            f"line {line} of {path} must close the quotation marks of its cells, and double those within ({err})"
        ) from err
    lines = lines_of(text)
    for (number, cells), (after, _) in zip(rows, [*rows[1:], (len(lines) + 1, [])], strict=True):
        within = [line for line in lines[number - 1 : after - 1] if line.strip()]
        if len(within) > 1 and all(line.count(",") + 1 == len(rows[0][1]) for line in within):
            raise ValueError(
                f"lines {number} to {after - 1} of {path} are one row by their quotation marks and {len(within)} by "
                f"their commas, got {cells}: double the marks that belong to a text"
            )
    return rows


class _NotClosed(csv.Error):
    """As `csv.Error`, with the line where the row began."""

    def __init__(self, err: csv.Error, line: int):
        super().__init__(str(err))
        self.line = line


def _parsed(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Rows that are not empty, each with the line where it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, begins = [], 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as err:
            raise _NotClosed(err, begins) from err
        if cells is None:
            return rows
        if any(cell.strip() for cell in cells):
            rows.append((begins, cells))
        begins = reader.line_num + 1


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as err:
            raise ValueError(f"line {number} of {path} must be a JSON object: {err}") from err
        if not isinstance(row, dict):
            raise ValueError(f"line {number} of {path} must be a JSON object, got {line.strip()[:40]}")
        yield number, row


def _segment(row: Mapping[str, Any], place: str) -> tuple[float, float] | None:
    """The stretch that a row names; an end of -1 is the end of the file."""
    start, end = value_of(row, START_COLUMNS), value_of(row, END_COLUMNS)
    if start is None:
        return None
    lasts = value_of(row, ("duration",)) if end is None else None
    try:
        begins = float(start)
        ends = float(end) if end is not None else begins + float(lasts)
    except (TypeError, ValueError):
        raise ValueError(f"{place} must give start and end (or duration) in seconds, got {start} and {end}") from None
    return checked_stretch(begins, ends, place)


def checked_stretch(start: float, end: float, place: str) -> tuple[float, float]:
    """A stretch (seconds) as listed, an end of -1 made infinite; ValueError unless 0 <= start < end.

    Example
    -------
    >>> checked_stretch(2.5, -1, "line 1 of segments")
    (2.5, inf)
    """
    found = (start, math.inf if end == -1 else end)
    if not 0 <= start < found[1]:
        raise ValueError(f"{place} must begin at 0 s or later and before it ends, got {start} to {end} s")
    return found
