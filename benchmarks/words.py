"""Words at every exit: how far their times drift, and what their confidences are worth.

    python benchmarks/words.py MODEL --dev runs/small/manifests/{commonvoice_dev,an4_dev}.csv \
        --test runs/small/manifests/{an4_test,commonvoice_test}.csv [--json words.json]

Times: of words that an exit has in common with the last exit (aligned by rapidfuzz), the absolute difference of their
beginnings and ends. Confidences: a word is right where a cheapest alignment with the reference matches it; expected
calibration error (ECE) in ten bins of equal width, as the heads give them and through maps fitted on the dev sets, the
last of which is that of `eeasr confidence`. Prints Markdown tables.
"""

# ruff: noqa: E402 (threads are told how to wait before torch is loaded)
import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eeasr_modules.compat import wait_passively

wait_passively()

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.manifest import audio_path, read_description, read_manifest
from eeasr_modules.exits.measure.edits import matched_words
from eeasr_modules.exits.words.confidence import LEAST_CONFIDENCE, ConfidenceMap, fit_confidence_map
from eeasr_modules.report.render.markdown import markdown_table
from eeasr_modules.runtime import EarlyExitASR, Engine, Word
from eeasr_modules.runtime.confidence import words_of_exits
from eeasr_modules.runtime.transcript import with_probabilities

N_BINS = 10
SHOWN = ("raw", "confidence map")  # in the table of confidences
MEASURES = ("ece_all", "ece_utterances", "auroc")
LEAST_IN_BIN = 20  # words of an exit, for it to be compared with the others in a bin


@dataclass(frozen=True, eq=False)
class Words:
    """All words of a set at all exits, one entry per word.

    Arguments
    ---------
    utterance, exit_index : np.ndarray of int of shape (n_words,)
        Whose, and where.
    confidence : np.ndarray of shape (n_words,)
        The head's own, 0 to 1.
    right : np.ndarray of bool of shape (n_words,)
        Whether it was said.
    probability : np.ndarray of shape (n_words,)
        By the confidence map.
    """

    utterance: np.ndarray
    exit_index: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    probability: np.ndarray


Heard = list[list[tuple[Word, ...]]]
Confidence = Callable[[Words], np.ndarray]


def hear(engine: Engine, manifests: Sequence[Path]) -> tuple[Heard, list[str]]:
    """Words of every exit for every utterance of manifests, and the references."""
    heard, references = [], []
    for manifest in manifests:
        root = read_description(manifest)["data_folder"]
        for row in read_manifest(manifest):
            heard.append(words_of_exits(engine, read_audio(audio_path(row.wav, root), engine.sample_rate)))
            references.append(row.text)
    return heard, references


def matched(words: Sequence[str], other: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the words that a cheapest alignment finds in both."""
    blocks = Levenshtein.opcodes(list(words), list(other))
    return [
        pair
        for op in blocks
        if op.tag == "equal"
        for pair in zip(range(op.src_start, op.src_end), range(op.dest_start, op.dest_end), strict=True)
    ]


def drift_rows(name: str, heard: Heard, exit_layers: Sequence[int]) -> list[dict]:
    """Per inner exit: words shared with the last exit, and how far apart they begin and end."""
    rows = []
    n_last = sum(len(exits[-1]) for exits in heard)
    for k, layer in enumerate(exit_layers[:-1]):
        starts, ends = [], []
        for exits in heard:
            here, last = exits[k], exits[-1]
            for i, j in matched([w.text for w in here], [w.text for w in last]):
                starts.append(abs(here[i].start_s - last[j].start_s))
                ends.append(abs(here[i].end_s - last[j].end_s))
        times = [1000 * float(f(values)) for values in (starts, ends) for f in (np.median, np.mean, _p95)]
        rows.append({"set": name, "exit_layer": int(layer), "shared": len(starts), "of": n_last, "ms": times})
    return rows


def _p95(values: Sequence[float]) -> float:
    return np.quantile(values, 0.95)


def flat(heard: Heard, references: Sequence[str], confidence_map: ConfidenceMap) -> Words:
    """One entry per word."""
    rows = []
    for utterance, (exits, reference) in enumerate(zip(heard, references, strict=True)):
        for k, said in enumerate(exits):
            right = matched_words(reference.split(), [w.text for w in said])[1]
            mapped = with_probabilities(said, confidence_map, exit_layer=confidence_map.exit_layers[k])
            rows += [
                (utterance, k, raw.confidence, is_right, one.confidence)
                for raw, is_right, one in zip(said, right, mapped, strict=True)
            ]
    columns = zip(*rows, strict=True)
    kinds = (int, int, float, bool, float)
    return Words(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


def fitted_maps(dev: Words, n_exits: int) -> dict[str, Confidence]:
    """Ways from confidences to shares of right words, those with numbers fitted per exit on dev."""
    odds = [LogisticRegression(C=1e6, max_iter=1000) for _ in range(n_exits)]
    steps = [IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip") for _ in range(n_exits)]
    for k in range(n_exits):
        here = dev.exit_index == k
        odds[k].fit(log_odds(dev.confidence[here])[:, None], dev.right[here])
        steps[k].fit(dev.confidence[here], dev.right[here])
    scaled = [one.predict_proba for one in odds]
    return {
        "raw": lambda words: words.confidence,
        "log odds scaled": lambda words: _by_exit(words, scaled, log_odds(words.confidence)[:, None]),
        "isotonic": lambda words: _by_exit(words, [one.predict for one in steps], words.confidence),
        "confidence map": lambda words: words.probability,
    }


def log_odds(confidence: np.ndarray) -> np.ndarray:
    """Of confidences, kept finite."""
    inside = np.clip(confidence, LEAST_CONFIDENCE, 1 - LEAST_CONFIDENCE)
    return np.log(inside / (1 - inside))


def _by_exit(words: Words, maps: Sequence[Callable], values: np.ndarray) -> np.ndarray:
    found = np.zeros(len(words.right))
    for k, one in enumerate(maps):
        here = words.exit_index == k
        if here.any():
            mapped = np.asarray(one(values[here]))
            found[here] = mapped[:, 1] if mapped.ndim == 2 else mapped
    return found


def in_bins(predicted: np.ndarray) -> np.ndarray:
    """Which of ten bins of equal width."""
    return np.minimum((predicted * N_BINS).astype(int), N_BINS - 1)


def calibration_error(predicted: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: mean distance between confidence and share of right ones, bin by bin."""
    bins = in_bins(predicted)
    gaps = [abs(float((right[bins == b] - predicted[bins == b]).sum())) for b in range(N_BINS)]
    return sum(gaps) / len(right)


def exit_gap(predicted: np.ndarray, words: Words) -> float:
    """How much a confidence means something else at another exit: mean distance, over words, between the share of right
    ones in their bin at their exit and in their bin at all exits."""
    bins, total, n = in_bins(predicted), 0.0, 0
    for b in range(N_BINS):
        everywhere = words.right[bins == b]
        for k in range(int(words.exit_index.max()) + 1):
            here = words.right[(bins == b) & (words.exit_index == k)]
            if len(here) >= LEAST_IN_BIN:
                total += len(here) * abs(here.mean() - everywhere.mean())
                n += len(here)
    return total / max(n, 1)


def of_utterances(predicted: np.ndarray, words: Words) -> tuple[np.ndarray, np.ndarray]:
    """Mean confidence and share of right words of every utterance at every exit."""
    n_exits = words.exit_index.max() + 1
    _, whose = np.unique(words.utterance * n_exits + words.exit_index, return_inverse=True)
    counts = np.bincount(whose)
    return np.bincount(whose, predicted) / counts, np.bincount(whose, words.right) / counts


def calibration_rows(name: str, words: Words, maps: dict[str, Confidence], exit_layers: Sequence[int]) -> list[dict]:
    """Per map: ECE at every exit and of utterances, what exits have in common, and how well words are told apart."""
    rows = []
    for map_name, confidence in maps.items():
        predicted = confidence(words)
        per_exit = [
            calibration_error(predicted[here], words.right[here])
            for here in (words.exit_index == k for k in range(len(exit_layers)))
        ]
        rows.append(
            {
                "set": name,
                "map": map_name,
                "ece": [100 * one for one in per_exit],
                "ece_all": 100 * calibration_error(predicted, words.right),
                "ece_utterances": 100 * calibration_error(*of_utterances(predicted, words)),
                "exit_gap": 100 * exit_gap(predicted, words),
                "auroc": 100 * float(roc_auc_score(words.right, predicted)),
            }
        )
    return rows


def reliability_rows(name: str, words: Words, maps: dict[str, Confidence], exits: Sequence[int]) -> list[dict]:
    """Per map and bin of confidence: words, and share of right ones at some exits."""
    rows = []
    for map_name, confidence in maps.items():
        bins = in_bins(confidence(words))
        for b in range(N_BINS):
            cells = []
            for k in exits:
                right = words.right[(bins == b) & (words.exit_index == k)]
                cells.append((len(right), 100 * float(right.mean()) if len(right) else None))
            rows.append({"set": name, "map": map_name, "bin": [b / N_BINS, (b + 1) / N_BINS], "exits": cells})
    return rows


def tables(found: dict) -> list[str]:
    """The Markdown tables of what was found: times at two inner exits, confidences at the first, the last and all."""
    rows = [row for row in found["drift"] if row["exit_layer"] in found["exit_layers"][3:7:2]]
    cells = [[f"{row['shared']} of {row['of']}", *(f"{one:.0f}" for one in row["ms"][:3])] for row in rows]
    times = markdown_table(
        ["set", "exit", "words shared with the last", "start: median ms", "mean", "95 %"],
        [[row["set"], str(row["exit_layer"]), *cell] for row, cell in zip(rows, cells, strict=True)],
    )
    rows = [row for row in found["calibration"] if row["map"] in SHOWN]
    numbers = [[row["ece"][0], row["ece"][-1], *(row[key] for key in MEASURES)] for row in rows]
    confidences = markdown_table(
        ["set", "confidence", "ECE at the first exit", "last", "all", "utterances", "AUROC"],
        [[row["set"], row["map"], *(f"{one:.1f}" for one in cell)] for row, cell in zip(rows, numbers, strict=True)],
        n_left=2,
    )
    return [times, confidences]


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--dev", nargs="+", required=True, metavar="MANIFEST", help="what maps are fitted on")
    parser.add_argument("--test", nargs="+", required=True, metavar="MANIFEST")
    parser.add_argument("--json", metavar="FILE", help="everything that was found, to keep")
    options = parser.parse_args()
    torch.set_num_threads(1)
    engine = EarlyExitASR.from_pretrained(options.model, policy=None, device="cpu").engine
    layers = engine.model.exit_layers
    heard, references = hear(engine, [Path(one) for one in options.dev])
    pairs = [[([w.text for w in words], [w.confidence for w in words]) for words in exits] for exits in heard]
    confidence_map = fit_confidence_map(pairs, references, exit_layers=layers)
    maps = fitted_maps(flat(heard, references, confidence_map), len(layers))
    shown = sorted({0, len(layers) // 2 - 1, len(layers) - 1})
    found: dict[str, list] = {"drift": [], "calibration": [], "reliability": []}
    for manifest in map(Path, options.test):
        heard, references = hear(engine, [manifest])
        words = flat(heard, references, confidence_map)
        found["drift"] += drift_rows(manifest.stem, heard, layers)
        found["calibration"] += calibration_rows(manifest.stem, words, maps, layers)
        found["reliability"] += reliability_rows(manifest.stem, words, maps, shown)
    found = {"exit_layers": list(layers), **found}
    if options.json:
        from saved import json_lines  # of this folder

        Path(options.json).write_text(json_lines(found, depth=3))
    print("\n\n".join(tables(found)))


if __name__ == "__main__":
    main()
