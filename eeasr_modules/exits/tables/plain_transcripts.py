"""Exit tables from a plain file that anyone can write: a row per utterance and exit, TSV or JSON lines.

    id      exit  hypothesis      speaker  duration_s  entropy
    utt-1   6     a bg dog        ann      1.9         0.41

`exit` is the number of encoder layers run. References stand in a column `reference`, or in a file of their own with a
row per utterance (`id, reference[, speaker, duration_s]`). Every further column is a signal. Files may be compressed
(`.gz`, `.xz`). The whole format: docs/transcripts-format.md.
"""

import gzip
import json
import lzma
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.common.files import decoded
from eeasr_modules.common.normalise import composed, normalise_whisper, normalise_words, upper_case
from eeasr_modules.exits.tables.table import CHARS_PER_S, PAUSE_S, ExitTable
from eeasr_modules.exits.words.signals import TEXT_SIGNALS

FRAMES_PER_S = 50


def read_lines(path: str | Path) -> list[str]:
    """Lines of a text file, as it is or compressed (`.gz`, `.xz`); without their ends."""
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

    ValueError when a line has other columns than it should, or is no JSON object; the place is named. `path`: the file;
    `.json` and `.jsonl` are JSON lines, everything else TSV.

    Yields
    ------
    tuple of (str, dict)
        Such as ("line 7 of x.tsv", {"id": ...}). Values of a TSV are text.
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
    """An exit's layer from a cell; from 1."""
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise ValueError(f"{place}: the exit must be its number of encoder layers, from 1, got {text[:40]!r}")
    return int(text)


def complete_only(lacking: dict[str, str], *, drop_incomplete: bool, source: Path) -> list[str]:
    """Names of the utterances that are whole: nothing ("") is lacking of them.

    ValueError when some are not whole and may not be left out, or none is whole.
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
    """A finite number from a cell."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number):
        raise ValueError(f"{place}: {key} must be a finite number, got {value!r}")
    return number


NORMALISERS: dict[str, Callable[[str], str]] = {
    "none": composed,  # the same letters must not count as errors for being written in two characters
    "upper": lambda text: " ".join(upper_case(text).split()),
    "words": normalise_words,
    "whisper": normalise_whisper,  # of English, as the Open ASR Leaderboard scores
}
_PER_UTTERANCE = ("reference", "speaker", "duration_s")
_KEYS = ("id", "exit", "hypothesis")


@dataclass
class _Utterance:
    """What the rows of one utterance say."""

    hypotheses: dict[int, str] = field(default_factory=dict)
    signals: dict[int, tuple[float, ...]] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)  # reference, speaker, duration_s


def read_plain(
    path: str | Path,
    references: str | Path | None = None,
    *,
    drop_incomplete: bool = False,
    normaliser: str = "none",
    set_name: str | None = None,
) -> ExitTable:
    """An exit table from a plain file of transcripts.

    Returns ExitTable: durations that are not given are approximated from the reference's length, and the metadata says
    so. FileNotFoundError when a file is not there; ValueError when a line cannot be read (file and line are named), or
    utterances are incomplete.

    `path`: TSV with a header line (`.tsv`, `.txt`), or JSON lines (`.jsonl`, `.json`); also `.gz` or `.xz` of these.
    `references`: file of the references; None where the transcripts' file holds them. `drop_incomplete`: True leaves
    out utterances that lack exits, a reference or all transcripts, and counts them in the metadata (`n_dropped`); False
    refuses them. `normaliser`: a key of `NORMALISERS`, applied to references and transcripts alike. `set_name`: name of
    the set; None takes the file's.
    """
    path = Path(path)
    if normaliser not in NORMALISERS:
        raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}, got {normaliser!r}")
    utterances, signal_names = _read_transcripts(path)
    listed = _read_references(Path(references)) if references is not None else {}
    _join(utterances, listed, path, references)
    exit_layers = sorted({layer for one in utterances.values() for layer in one.hypotheses})
    kept = complete_only(
        {name: _lacks(one, exit_layers) for name, one in utterances.items()},
        drop_incomplete=drop_incomplete,
        source=path,
    )
    normal = NORMALISERS[normaliser]
    rows = [utterances[name] for name in kept]
    texts = [normal(one.said["reference"]) for one in rows]
    durations, approximate = _durations(rows, texts, path)
    shape = (len(rows), len(exit_layers), len(signal_names))
    signals = np.array([[one.signals[layer] for layer in exit_layers] for one in rows]).reshape(shape)
    return ExitTable.from_hypotheses(
        [[normal(one.hypotheses[layer]) for layer in exit_layers] for one in rows],
        texts,
        utt_ids=kept,
        speakers=[one.said.get("speaker", "") for one in rows],
        exit_layers=exit_layers,
        duration_s=durations,
        n_frames=np.round(FRAMES_PER_S * durations).astype(np.int64),
        signals={name: signals[:, :, j] for j, name in enumerate(signal_names)},
        metadata={
            "set_name": set_name or path.name.split(".")[0],
            "set_label": "unknown",
            "n_layers": exit_layers[-1],
            "normaliser": normaliser,
            "seed": 0,
            "duration_is_approximate": approximate,
            "n_dropped": len(utterances) - len(kept),
        },
    )


def _read_transcripts(path: Path) -> tuple[dict[str, _Utterance], list[str]]:
    """Utterances by id in the file's order, and the names of the signals."""
    utterances: dict[str, _Utterance] = {}
    signal_names: list[str] | None = None
    for place, row in read_rows(path, needed=_KEYS):
        name, layer = _text(row, "id", place), layer_of(row["exit"], place)
        if not name:
            raise ValueError(f"{place}: the id must not be empty")
        utterance = utterances.setdefault(name, _Utterance())
        if layer in utterance.hypotheses:
            raise ValueError(f"{place} says again what exit {layer} of {name!r} heard; every id and exit stand once")
        utterance.hypotheses[layer] = _text(row, "hypothesis", place)
        _note(utterance, row, name, place)
        names = [key for key in row if key not in (*_KEYS, *_PER_UTTERANCE)]
        if signal_names is None:
            signal_names = names
            if computed := [key for key in names if key in TEXT_SIGNALS]:
                raise ValueError(f"{place}: {', '.join(computed)} is computed from the transcripts; leave it out")
        elif set(names) != set(signal_names):
            odd = sorted(set(names) ^ set(signal_names))
            raise ValueError(f"{place}: every row must have the same signals, but {', '.join(odd)} is not in all")
        utterance.signals[layer] = tuple(number_of(row[key], key, place) for key in signal_names)
    return utterances, signal_names or []


def _read_references(path: Path) -> dict[str, _Utterance]:
    listed: dict[str, _Utterance] = {}
    for place, row in read_rows(path, needed=("id", "reference")):
        name = _text(row, "id", place)
        if name in listed:
            raise ValueError(f"{place}: {name!r} occurs more than once; every id stands once")
        listed[name] = _Utterance()
        _note(listed[name], row, name, place)
    return listed


def _note(utterance: _Utterance, row: dict[str, Any], name: str, place: str) -> None:
    """Keep what belongs to the utterance; empty speakers and durations are unknown."""
    for key in _PER_UTTERANCE:
        value = row.get(key)
        if value is None or (value == "" and key != "reference"):
            continue
        value = number_of(value, key, place) if key == "duration_s" else _text(row, key, place)
        if key == "duration_s" and value <= 0:
            raise ValueError(f"{place}: duration_s must be above 0, got {value:g}")
        if utterance.said.setdefault(key, value) != value:
            raise ValueError(f"{place}: the {key} of {name!r} must be the same in all of its rows, got {value!r}")


def _join(
    utterances: dict[str, _Utterance], listed: dict[str, _Utterance], path: Path, references: str | Path | None
) -> None:
    """Give every utterance what the references' file says; those without transcripts come along, to be counted."""
    for name, one in listed.items():
        utterance = utterances.setdefault(name, _Utterance())
        for key, value in one.said.items():
            if utterance.said.setdefault(key, value) != value:
                raise ValueError(f"the {key} of {name!r} differs between {path} and {references}; give it once")
    if all("reference" not in one.said for one in utterances.values()):
        raise ValueError(
            f"{path} holds no references; add a column 'reference', or give a file with id and reference "
            f"by --references"
        )


def _lacks(utterance: _Utterance, exit_layers: list[int]) -> str:
    missing = [layer for layer in exit_layers if layer not in utterance.hypotheses]
    if len(missing) == len(exit_layers):
        return "its transcripts"
    if missing:
        return f"exit {', '.join(map(str, missing))} of {exit_layers}"
    return "" if "reference" in utterance.said else "its reference"


def _durations(rows: list[_Utterance], references: list[str], path: Path) -> tuple[np.ndarray, bool]:
    """Seconds, and whether they are guessed; a mixture of measured and guessed weights would mean nothing."""
    known = ["duration_s" in one.said for one in rows]
    if not any(known):
        return approximate_duration_s(references), True
    if not all(known):
        raise ValueError(
            f"duration_s of {path} must be given for all utterances or none, got {sum(known)} of {len(known)}"
        )
    return np.array([one.said["duration_s"] for one in rows]), False


def _text(row: dict[str, Any], key: str, place: str) -> str:
    value = row[key]
    if not isinstance(value, str) and (key not in ("id", "speaker") or not isinstance(value, int)):
        raise ValueError(f"{place}: {key} must be text, got {value!r}")
    return str(value).strip() if key in ("id", "speaker") else str(value)
