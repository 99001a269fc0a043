"""Exit tables from other people's recorded transcripts.

Two formats. `plain`: a file of rows that anyone can write (`eeasr_modules.exits.tables.plain_transcripts`).
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

import re
from pathlib import Path

import numpy as np

from eeasr_modules.exits.tables.plain_transcripts import (
    FRAMES_PER_S,
    approximate_duration_s,
    complete_only,
    number_of,
    read_lines,
    read_plain,
)
from eeasr_modules.exits.tables.table import ExitTable

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

    Arguments
    ---------
    path : str or Path
        The folder of the recordings (`exit-traces`), or the file of transcripts (`plain`).
    split : str or None
        For `exit-traces`: "clean" or "other".
    model : str or None
        For `exit-traces`: subfolder of the model, "ee40" if None; not used where the folder holds the results itself.
    format : str
        One of `FORMATS`.
    references : str or Path, or None
        For `plain`: file of the references, where the transcripts' file does not hold them.
    drop_incomplete : bool
        True leaves out, and counts in the metadata (`n_dropped`), utterances that are not whole; False refuses them.
    normaliser : str
        For `plain`: see `read_plain`.
    set_name : str or None
        For `plain`: name of the set; None takes the file's.

    Raises
    ------
    FileNotFoundError
        When folder or file are not there.
    ValueError
        When the format is unknown, an option belongs to another format, or what is read is not as it should be.
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

    Returns
    -------
    ExitTable
        With signals `entropy` (nats per frame) and `nbest_posterior` (of the best of an N-best list; about
        another decode than the transcripts) where their files are there, and the text signals.
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
