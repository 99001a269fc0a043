"""Exit tables from other people's recorded transcripts.

One format so far, `exit-traces`: what the authors of a six-exit wav2vec2-base published for all of
LibriSpeech test-clean and test-other. A folder for each model holds `test.clean_results.txt` and
`test.other_results.txt`, and may hold `entropy_<layer>.txt` and `posterior_<layer>.txt` (a line per
utterance, clean then other); each file as it is or compressed (`.xz`). Blocks of the results look so:

    file: 6930-75918-0000.flac
    expected: concord returned to its place amidst the tents
        layer_2: koncord re turnedt w iths place amidts the tens
        layer_12: concord returned to its place amidst the tents

The traces hold no durations. They are approximated from the reference's length, said so in the metadata
(`duration_is_approximate`), and used for weights only.
"""

import lzma
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eeasr_modules.exits.table import ExitTable

# gives totals of 5.41 h (clean) and 5.30 h (other); the recordings last 5.40 h and 5.34 h
PAUSE_S = 0.5
CHARS_PER_S = 15.5
FRAMES_PER_S = 50
N_SYMBOLS = 32  # the entropy files average over frames and symbols
SPLITS = ("clean", "other")


def import_transcripts(
    folder: str | Path, split: str, *, model: str = "ee40", format: str = "exit-traces"
) -> ExitTable:
    """An exit table from recorded transcripts.

    Arguments
    ---------
    folder : str or Path
        The folder of the recordings.
    split : str
        For `exit-traces`, "clean" or "other".
    model : str
        Subfolder of the model; not used where the folder holds the results itself.
    format : str
        A key of `FORMATS`.

    Returns
    -------
    ExitTable

    Raises
    ------
    FileNotFoundError
        When the folder is not what the format says.
    ValueError
        When format or split are unknown, or files disagree with each other.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return FORMATS[format](Path(folder), split, model=model)


def read_exit_traces(folder: str | Path, split: str, *, model: str = "ee40") -> ExitTable:
    """An exit table from a folder in the format of the public exit traces; see the module's text.

    Arguments
    ---------
    folder : str or Path
        Holds a subfolder for each model, or the results of one model.
    split : str
        "clean" or "other".
    model : str
        Subfolder of the model.

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
    utterances = blocks[split]
    exit_layers = sorted(utterances[0]["layers"])
    for utterance in utterances:
        if sorted(utterance["layers"]) != exit_layers:
            raise ValueError(
                f"every utterance in {folder / _results(split)} must have layers {exit_layers}, "
                f"but {utterance['id']!r} has {sorted(utterance['layers'])}"
            )
    references = [utterance["reference"] for utterance in utterances]
    durations = [PAUSE_S + len(reference) / CHARS_PER_S for reference in references]
    return ExitTable.from_hypotheses(
        [[utterance["layers"][layer] for layer in exit_layers] for utterance in utterances],
        references,
        utt_ids=[utterance["id"] for utterance in utterances],
        speakers=[utterance["id"].split("-")[0] for utterance in utterances],
        exit_layers=exit_layers,
        duration_s=durations,
        n_frames=[round(FRAMES_PER_S * duration) for duration in durations],
        signals=_signals(folder, exit_layers, split=split, n_utterances={k: len(v) for k, v in blocks.items()}),
        metadata={
            "set_name": f"test-{split}",
            "set_label": "unknown",
            "corpus": "LibriSpeech",
            "model_name": folder.name,
            "n_layers": exit_layers[-1],
            "normaliser": "as published",
            "seed": 0,
            "duration_is_approximate": True,
        },
    )


FORMATS: dict[str, Callable[..., ExitTable]] = {"exit-traces": read_exit_traces}


def _results(split: str) -> str:
    return f"test.{split}_results.txt"


def _find(folder: Path, name: str) -> Path | None:
    """The file as it is, or compressed."""
    return next((path for path in (folder / name, folder / f"{name}.xz") if path.is_file()), None)


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        return (lzma.decompress(content) if path.suffix == ".xz" else content).decode("utf-8").split("\n")
    except (lzma.LZMAError, UnicodeDecodeError) as err:
        raise ValueError(f"{path} cannot be read as text ({err})") from err


def _blocks(folder: Path, split: str) -> list[dict]:
    """Name, reference and transcripts by layer of each utterance, in the file's order."""
    path = _find(folder, _results(split))
    if path is None:
        raise FileNotFoundError(
            f"expected {_results(split)} (or .xz) in {folder}: give the folder of the traces, "
            f"with a subfolder for each model"
        )
    utterances: list[dict] = []
    for number, line in enumerate(_lines(path), start=1):
        key, _, text = line.strip("\r\n").partition(":")
        text = text.removeprefix(" ")
        layer = re.fullmatch(r"\tlayer_(\d+)", key)
        if key == "file":
            utterances.append({"id": Path(text.strip()).stem, "reference": None, "layers": {}})
        elif not line.strip():
            continue
        elif utterances and key == "expected":
            utterances[-1]["reference"] = text
        elif utterances and layer:
            utterances[-1]["layers"][int(layer[1])] = text
        elif utterances and key == "\tpredicted":  # a model with a single exit, after its twelve layers
            utterances[-1]["layers"][12] = text
        else:
            raise ValueError(f"line {number} of {path} must begin with file, expected or a layer, got {line[:40]!r}")
    whole = [utterance["reference"] is not None and utterance["layers"] for utterance in utterances]
    if not utterances or not all(whole):
        raise ValueError(f"every utterance of {path} must have a reference and transcripts; the file is not whole")
    return utterances


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
    rows = [line.split() for line in _lines(path) if line.strip()]
    expected = sum(n_utterances.values())
    if len(n_utterances) < len(SPLITS) or len(rows) != expected:
        raise ValueError(
            f"{path} must have a line for each utterance of both splits ({expected} in the results that are "
            f"there), got {len(rows)}"
        )
    first = 0 if split == "clean" else n_utterances["clean"]
    return np.array([float(row[0]) for row in rows[first : first + n_utterances[split]]])
