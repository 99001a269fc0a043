"""Exit tables in files: our own, and other people's recorded transcripts.

Ours are Parquet, a row per utterance and exit, metadata as JSON in the file's header. Of others two formats are read.
`plain`: a file of rows that anyone can write (`eeasr_modules.exits.tables.plain_transcripts`).
`exit-traces`: what the authors of a six-exit wav2vec2-base published for all of LibriSpeech test-clean and test-other.
A folder for each model holds `test.clean_results.txt` and `test.other_results.txt`, and may hold `entropy_<layer>.txt`
and `posterior_<layer>.txt` (a line per utterance, clean then other); each file as it is or compressed (`.xz`). Blocks
of the results look so:

    file: 6930-75918-0000.flac
    expected: concord returned to its place amidst the tents
        layer_2: koncord re turnedt w iths place amidts the tens
        layer_12: concord returned to its place amidst the tents

The traces hold no durations. They are approximated from the reference's length, said so in the metadata
(`duration_is_approximate`), and used for weights only.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.common.files import write_aside
from eeasr_modules.exits.tables.checks import AVERAGED
from eeasr_modules.exits.tables.plain_transcripts import (
    FRAMES_PER_S,
    approximate_duration_s,
    complete_only,
    number_of,
    read_lines,
    read_plain,
)
from eeasr_modules.exits.tables.table import SCHEMA_VERSION, ExitTable

_PREFIX = b"eeasr."
_TEXTS = ("utt_id", "speaker", "reference", "hypothesis", "averaged_hypothesis")
_UTTERANCE_COUNTS = ("n_ref_words", "n_ref_chars", "n_frames", "duration_s")
_EXIT_COUNTS = ("n_sub", "n_del", "n_ins", "n_char_errors", "cost_layers")
_OPTIONAL = ("cost_macs", "head_macs", "decoder_macs")
_AVERAGED = {"averaged_" + name.replace("hypotheses", "hypothesis"): name for name in AVERAGED}  # column -> key
_REQUIRED = ("utt_id", "speaker", "exit_layer", "hypothesis", *_UTTERANCE_COUNTS, *_EXIT_COUNTS)


def write_table(table: ExitTable, path: str | Path) -> None:
    """Write an exit table; the file appears only when it is whole.

    ValueError when its errors are those of `emitted` transcripts, which a file does not hold.
    """
    if table.emitted is not None:
        raise ValueError("a table with emitted transcripts is not written: write the one that it was made from")
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {"schema_version": SCHEMA_VERSION, "n_layers": table.n_layers}
    metadata |= {**table.metadata, "exit_layers": table.exit_layers.tolist()}
    header = {_PREFIX + key.encode(): json.dumps(value).encode() for key, value in metadata.items()}
    columns = pa.table(_columns(table)).replace_schema_metadata(header)
    write_aside(path, lambda aside: pq.write_table(columns, aside, compression="zstd"))


def read_table(path: str | Path) -> ExitTable:
    """Read an exit table and check it.

    FileNotFoundError when there is no such file. ValueError when it is not an exit table, or not one of this version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no exit table at {path}; give a .parquet file that a test pass or an import wrote")
    try:
        # through an open file: a folder named a=b in the path must not become a column
        with path.open("rb") as file:
            stored = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as err:
        raise ValueError(f"{path} is not a readable Parquet file, so not an exit table ({err})") from err
    header = stored.schema.metadata or {}
    metadata = {
        key.removeprefix(_PREFIX).decode(): json.loads(value)
        for key, value in header.items()
        if key.startswith(_PREFIX)
    }
    version = metadata.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path} must be an exit table of schema version {SCHEMA_VERSION}, got {version}")
    columns = {name: stored.column(name) for name in stored.column_names}
    for name, column in columns.items():
        cell = column.type.value_type if _is_list(column) else column.type
        numeric = pa.types.is_integer(cell) or pa.types.is_floating(cell)
        if name not in _TEXTS and not numeric:
            raise ValueError(
                f"column {name} of {path} must hold numbers, as signals do, or lists of them, got {column.type}"
            )
        if column.null_count and name != "reference":
            raise ValueError(f"column {name} of {path} must have no gaps, got {column.null_count} empty cells")
    arrays = {name: _array(name, column) for name, column in columns.items()}
    try:
        return table_from_columns(arrays, metadata)
    except ValueError as err:
        raise ValueError(f"{path}: {err}") from err


def _is_list(column: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(column.type) or pa.types.is_large_list(column.type)


def _array(name: str, column: Any) -> np.ndarray:
    """A column's cells; those of a list column are arrays."""
    if name in _TEXTS:
        return np.array(column.to_pylist(), dtype=object)
    if not _is_list(column):
        return column.to_numpy()
    lists = np.empty(len(column), dtype=object)
    lists[:] = [np.asarray(cell, dtype=np.float32) for cell in column.to_pylist()]
    return lists


def table_from_columns(columns: Mapping[str, Sequence[Any]], metadata: Mapping[str, Any]) -> ExitTable:
    """An exit table from flat columns, a row per utterance and exit, in any order.

    Returns ExitTable: utterances in the order in which they first occur. ValueError when a column is missing, an
    utterance lacks an exit or has one twice, or a number that belongs to the utterance differs between its exits.
    `columns`: the table's columns; any further one is a signal, or a word list where its cells are lists or arrays.
    """
    missing = [name for name in _REQUIRED if name not in columns]
    averaged = set(_AVERAGED) & set(columns)
    missing += [name for name in _AVERAGED if averaged and name not in columns]
    if missing:
        raise ValueError(f"an exit table needs the columns {', '.join(missing)}, which are not there")
    arrays = {name: _cells(values) for name, values in columns.items()}
    order, exit_layers = _row_order(arrays["utt_id"], arrays["exit_layer"])
    shaped = {name: values[order] for name, values in arrays.items()}  # (n_rows,) -> (n_utterances, n_exits)
    utt_ids = shaped["utt_id"][:, 0]
    for name in ("speaker", "reference", *_UTTERANCE_COUNTS):
        if name in shaped and (differs := (shaped[name] != shaped[name][:, :1]).any(axis=1)).any():
            raise ValueError(f"{name} must be the same at every exit, but differs for {str(utt_ids[differs][0])!r}")
    references = shaped.get("reference")
    if references is not None:
        absent = np.array([text is None for text in references[:, 0]])
        references = None if absent.all() else references[:, 0]
    further = set(shaped) - {"exit_layer", *_TEXTS, *_UTTERANCE_COUNTS, *_EXIT_COUNTS, *_OPTIONAL, *_AVERAGED}
    word_lists = {name for name in further if shaped[name].dtype == object}
    return ExitTable(
        utt_ids=utt_ids,
        speakers=shaped["speaker"][:, 0],
        exit_layers=exit_layers,
        hypotheses=shaped["hypothesis"],
        references=references,
        **{name: shaped[name][:, 0] for name in _UTTERANCE_COUNTS},
        **{name: shaped[name] for name in _EXIT_COUNTS},
        **{name: shaped.get(name) for name in _OPTIONAL},
        signals={name: shaped[name] for name in arrays if name in further - word_lists},
        word_lists={name: shaped[name] for name in arrays if name in word_lists},
        averaged={key: shaped[name] for name, key in _AVERAGED.items()} if averaged else None,
        metadata=dict(metadata),
    )


def _cells(values: Sequence[Any]) -> np.ndarray:
    """One entry per row; lists stay whole, even where all are of one length."""
    if len(values) == 0 or np.ndim(values[0]) == 0:
        return np.asarray(values)
    lists = np.empty(len(values), dtype=object)
    lists[:] = [*values]
    return lists


def _row_order(utt_ids: np.ndarray, layers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers as (n_utterances, n_exits), and the exit layers."""
    if len(utt_ids) == 0:
        raise ValueError("an exit table needs at least one row, got none")
    exit_layers = np.unique(layers)
    first_seen = {utt_id: i for i, utt_id in enumerate(dict.fromkeys(utt_ids.tolist()))}
    utterance = np.array([first_seen[utt_id] for utt_id in utt_ids.tolist()])
    cell = utterance * len(exit_layers) + np.searchsorted(exit_layers, layers)
    counts = np.bincount(cell, minlength=len(first_seen) * len(exit_layers)).reshape(len(first_seen), -1)
    if (counts != 1).any():
        i, k = np.argwhere(counts != 1)[0]
        raise ValueError(
            f"every utterance needs a row for each exit layer of {exit_layers.tolist()}, "
            f"but {list(first_seen)[i]!r} has {counts[i, k]} of layer {exit_layers[k]}"
        )
    return np.argsort(cell, kind="stable").reshape(counts.shape), exit_layers


def _columns(table: ExitTable) -> dict[str, Any]:
    """The table as flat columns."""
    n_exits = table.n_exits

    def repeated(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, n_exits)

    columns: dict[str, Any] = {
        "utt_id": repeated(table.utt_ids),
        "speaker": repeated(table.speakers),
        "exit_layer": np.tile(table.exit_layers, table.n_utterances),
        "hypothesis": table.hypotheses.reshape(-1),
    }
    if table.references is not None:
        columns["reference"] = repeated(table.references)
    columns |= {name: repeated(getattr(table, name)) for name in _UTTERANCE_COUNTS}
    columns |= {name: getattr(table, name).reshape(-1) for name in _EXIT_COUNTS}
    columns |= {name: getattr(table, name).reshape(-1) for name in _OPTIONAL if getattr(table, name) is not None}
    if table.averaged is not None:
        columns |= {name: table.averaged[key].reshape(-1) for name, key in _AVERAGED.items()}
    columns |= {name: values.reshape(-1) for name, values in table.signals.items()}
    return columns | {name: _list_column(lists) for name, lists in table.word_lists.items()}


def _list_column(lists: np.ndarray) -> Any:
    """Arrays (n_utterances, n_exits) as a Parquet column of lists of 32-bit floats."""
    import pyarrow as pa

    return pa.array(lists.reshape(-1).tolist(), type=pa.list_(pa.float32()))


N_SYMBOLS = 32  # the entropy files average over frames and symbols
SPLITS = ("clean", "other")
FORMATS = ("exit-traces", "plain")


def import_transcripts(
    path: str | Path,
    split: str | None = None,
    *,
    model: str | None = None,
    format: str = "exit-traces",
    references: str | Path | None = None,
    drop_incomplete: bool = False,
    normaliser: str = "none",
    set_name: str | None = None,
) -> ExitTable:
    """An exit table from recorded transcripts.

    FileNotFoundError when folder or file are not there; ValueError when the format is unknown, an option belongs to
    another format, or what is read is not as it should be.

    `path`: the folder of the recordings (`exit-traces`), or the file of transcripts (`plain`). `split`: for
    `exit-traces`: "clean" or "other". `model`: for `exit-traces`: subfolder of the model, "ee40" if None; not used
    where the folder holds the results itself. `references`: for `plain`: file of the references, where the transcripts'
    file does not hold them. `drop_incomplete`: True leaves out, and counts in the metadata (`n_dropped`), utterances
    that are not whole; False refuses them. `set_name`: for `plain`: name of the set; None takes the file's.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    foreign = {"split": split, "model": model}
    if format == "exit-traces":
        foreign = {"references": references, "set_name": set_name, "normaliser": None if normaliser == "none" else 1}
    given = [name for name, value in foreign.items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)} cannot be given with format {format}")
    if format == "plain":
        return read_plain(path, references, drop_incomplete=drop_incomplete, normaliser=normaliser, set_name=set_name)
    return read_exit_traces(path, split or "", model=model or "ee40", drop_incomplete=drop_incomplete)


def read_exit_traces(
    folder: str | Path, split: str, *, model: str = "ee40", drop_incomplete: bool = False
) -> ExitTable:
    """An exit table from a folder in the format of the public exit traces; see the module's text.

    Returns ExitTable: with signals `entropy` (nats per frame) and `nbest_posterior` (of the best of an N-best list;
    about another decode than the transcripts) where their files are there, and the text signals.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if _find(folder, _results(split)) is None:
        folder = folder / model
    blocks = {name: _blocks(folder, name) for name in SPLITS if name == split or _find(folder, _results(name))}
    exit_layers = sorted({layer for utterance in blocks[split] for layer in utterance["layers"]})
    results = _find(folder, _results(split))
    lacking = {utterance["id"]: _lacks(utterance, exit_layers) for utterance in blocks[split]}
    kept = set(complete_only(lacking, drop_incomplete=drop_incomplete, source=results))
    rows = [i for i, utterance in enumerate(blocks[split]) if utterance["id"] in kept]
    utterances = [blocks[split][i] for i in rows]
    references = [utterance["reference"] for utterance in utterances]
    durations = approximate_duration_s(references)
    signals = _signals(folder, exit_layers, split=split, n_utterances={k: len(v) for k, v in blocks.items()})
    return ExitTable.from_hypotheses(
        [[utterance["layers"][layer] for layer in exit_layers] for utterance in utterances],
        references,
        utt_ids=[utterance["id"] for utterance in utterances],
        speakers=[utterance["id"].split("-")[0] for utterance in utterances],
        exit_layers=exit_layers,
        duration_s=durations,
        n_frames=[round(FRAMES_PER_S * duration) for duration in durations],
        signals={name: values[rows] for name, values in signals.items()},
        metadata={
            "set_name": f"test-{split}",
            "set_label": "unknown",
            "corpus": "LibriSpeech",
            "model_name": folder.name,
            "n_layers": exit_layers[-1],
            "normaliser": "as published",
            "seed": 0,
            "duration_is_approximate": True,
            "n_dropped": len(blocks[split]) - len(utterances),
        },
    )


def _results(split: str) -> str:
    return f"test.{split}_results.txt"


def _find(folder: Path, name: str) -> Path | None:
    """The file as it is, or compressed."""
    return next((path for path in (folder / name, folder / f"{name}.xz") if path.is_file()), None)


def _blocks(folder: Path, split: str) -> list[dict]:
    """Name, reference and transcripts by layer of each utterance, in the file's order."""
    path = _find(folder, _results(split))
    if path is None:
        raise FileNotFoundError(
            f"expected {_results(split)} (or .xz) in {folder}: give the folder of the traces, "
            f"with a subfolder for each model"
        )
    utterances: list[dict] = []
    seen: set[str] = set()
    for number, line in enumerate(read_lines(path), start=1):
        key, _, text = line.strip("\r\n").partition(":")
        text = text.removeprefix(" ")
        layer = re.fullmatch(r"\tlayer_(\d+)", key)
        if key == "file":
            name = Path(text.strip()).stem
            if name in seen:
                raise ValueError(f"line {number} of {path} begins {name!r} again; every file must have one block")
            seen.add(name)
            utterances.append({"id": name, "reference": None, "layers": {}})
        elif not line.strip():
            continue
        elif utterances and key == "expected" and utterances[-1]["reference"] is None:
            utterances[-1]["reference"] = text
        elif utterances and (layer or key == "\tpredicted"):
            # predicted: a model with a single exit, after its twelve layers
            at = int(layer[1]) if layer else 12
            if at in utterances[-1]["layers"]:
                raise ValueError(
                    f"line {number} of {path} says again what layer {at} heard in {utterances[-1]['id']!r}"
                )
            utterances[-1]["layers"][at] = text
        else:
            raise ValueError(f"line {number} of {path} must begin with file, expected or a layer, got {line[:40]!r}")
    if not utterances:
        raise ValueError(f"{path} must hold blocks that begin with 'file:', but it is empty")
    return utterances


def _lacks(utterance: dict, exit_layers: list[int]) -> str:
    """What a block does not hold; "" where it is whole."""
    if utterance["reference"] is None:
        return "its line 'expected'"
    missing = [layer for layer in exit_layers if layer not in utterance["layers"]]
    return f"layer {', '.join(map(str, missing))} of {exit_layers}" if missing else ""


def _signals(
    folder: Path, exit_layers: list[int], *, split: str, n_utterances: dict[str, int]
) -> dict[str, np.ndarray]:
    """Signals whose files are there for every exit; a line per utterance, clean before other."""
    sources = {"entropy": ("entropy", -float(N_SYMBOLS)), "nbest_posterior": ("posterior", 1.0)}
    signals = {}
    for name, (stem, factor) in sources.items():
        paths = [_find(folder, f"{stem}_{layer}.txt") for layer in exit_layers]
        if all(paths):
            columns = [_values(path, split=split, n_utterances=n_utterances) for path in paths]
            signals[name] = factor * np.stack(columns, axis=1)
    return signals


def _values(path: Path, *, split: str, n_utterances: dict[str, int]) -> np.ndarray:
    places = [(f"line {number} of {path}", line) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    expected = sum(n_utterances.values())
    if len(n_utterances) < len(SPLITS) or len(places) != expected:
        raise ValueError(
            f"{path} must have a line for each utterance of both splits ({expected} in the results that are "
            f"there), got {len(places)}"
        )
    first = 0 if split == "clean" else n_utterances["clean"]
    wanted = places[first : first + n_utterances[split]]
    return np.array([number_of(line.split()[0], "the value", place) for place, line in wanted])
