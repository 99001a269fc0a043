"""What the overthinking study takes from run folders: numbers small enough to commit.

`benchmarks/study.py` writes them to results/study; nothing here holds a transcript.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eeasr_modules.exits import ExitTable, choose, parse_policy, read_table, replay
from eeasr_modules.exits.measure.bootstrap import bootstrap_difference
from eeasr_modules.exits.measure.exitbench import lines_of, point_numbers
from eeasr_modules.exits.measure.fusion import FusionModel, fuse, fused_table

KEPT = (
    *("label", "n_utterances", "n_speakers", "n_ref_words", "n_layers", "exit_layers", "wer_per_exit"),
    *("wer_interval_per_exit", "intervals", "overthinking", "oracle_a", "oracle_b", "words", "corpus"),
)
KEPT_OF_POLICY = (
    *("budget", "depth", "emitted_depth", "depth_share", "macs_share", "wer", "interval", "static", "oracle_c"),
    *("minus_static", "minus_last", "gap_closed"),
)
KEPT_OF_RUN = ("date", "budget", "chosen_policy", "dev")


def trimmed(summary: dict) -> dict:
    """What the study and the pages of runs read of a run's summary; at several budgets, of the first."""
    sets = {}
    for name, one in summary["sets"].items():
        policies = {}
        for text, found in one["policies"].items():
            at = found["at_budgets"][0] if "at_budgets" in found else found["at_budget"]
            calibrated = at.get("calibrated", found["calibrated"])
            policies[text] = {"calibrated": calibrated, "at_budget": {k: at[k] for k in KEPT_OF_POLICY if k in at}}
        sets[name] = {**{key: one[key] for key in KEPT if key in one}, "policies": policies}
    return {**{key: summary[key] for key in KEPT_OF_RUN}, "sets": sets}


def compared(run: Path, other: Path) -> dict:
    """Per set and exit layer that both have: WER of `run` minus WER of `other`, with its interval over speakers."""
    found = {}
    for name, ours, theirs in same_sets(run, other):
        found[name] = []
        for k, layer in enumerate(ours.exit_layers):
            if layer not in theirs.exit_layers:
                continue
            others = theirs.errors[:, list(theirs.exit_layers).index(layer)]
            one = minus(ours.errors[:, k], others, n_ref_words=ours.n_ref_words, speakers=ours.speakers)
            other_wer = rounded(100 * others.sum() / ours.n_ref_words.sum())
            found[name].append({"layer": int(layer), "wer": one.pop("wer"), "other_wer": other_wer, **one})
    return found


def same_sets(run: Path, other: Path) -> Iterator[tuple[str, ExitTable, ExitTable]]:
    """Name and both tables of every set that both runs have.

    Raises
    ------
    ValueError
        If they do not hold the same utterances in the same order.
    """
    for path in sorted((run / "tables").glob("*.parquet")):
        if not (other / "tables" / path.name).is_file():
            continue
        ours, theirs = read_table(path), read_table(other / "tables" / path.name)
        if list(ours.utt_ids) != list(theirs.utt_ids):
            raise ValueError(f"{path.name} of {run} and {other} must hold the same utterances in the same order")
        yield path.stem, ours, theirs


def minus(errors: np.ndarray, others: np.ndarray, *, n_ref_words: np.ndarray, speakers: np.ndarray) -> dict:
    """WER of `errors` (utterances,), and its difference from that of `others` with the interval over speakers."""
    one = bootstrap_difference(errors, others, n_ref_words=n_ref_words, speakers=speakers, rng=np.random.default_rng(0))
    ends = {"difference": "estimate", "low": "low", "high": "high"}
    wer = 100 * errors.sum() / n_ref_words.sum()
    return {"wer": rounded(wer), **{key: rounded(getattr(one, of)) for key, of in ends.items()}}


def fused(run: Path, *, budgets: tuple[float, ...] = (0.5, 0.75)) -> dict:
    """Per test set: every exit fused with those before it by trees fitted on dev, and a policy on top.

    The policy's thresholds are chosen on dev tables of fused transcripts, each speaker fused by trees of the others.
    """
    dev = next(path for path in sorted((run / "tables").glob("*_dev.parquet")))
    model, (dev_fused,) = FusionModel.fit_fused([read_table(dev)])
    policies = {budget: choose(dev_fused, parse_policy("between(entropy)"), budget=budget).policy for budget in budgets}
    found = {}
    for path in sorted((run / "tables").glob("*.parquet")):
        if path == dev:
            continue
        table = read_table(path)
        fuse(table.select(np.arange(min(20, table.n_utterances))), model)  # loads what spells words
        begun = time.process_time()
        texts = fuse(table, model)
        aligning_ms = 1000 * (time.process_time() - begun)
        errors, lines = fused_table(table, texts).errors, lines_of(table)

        def numbers(exit_index, name: str, *, table=table, errors=errors, lines=lines) -> dict:
            rows = np.arange(table.n_utterances)
            one = point_numbers(table, exit_index, lines=lines, errors=errors[rows, exit_index])
            alone = 100 * table.errors[rows, exit_index].sum() / table.n_ref_words.sum()
            kept = {key: rounded(value) for key, value in one.items() if key != "saved"}
            return {"what": name, "alone": rounded(alone), **kept}

        everybody = [np.full(table.n_utterances, k) for k in range(table.n_exits)]
        words = {"n_ref_words": table.n_ref_words, "speakers": table.speakers}
        minus_last = minus(errors[:, -1], table.errors[:, -1], **words)
        minus_last.pop("wer")
        found[path.stem] = {
            "minus_last": minus_last,
            "aligning_ms_per_s": round(aligning_ms / table.duration_s.sum(), 3),
            "exits": [
                numbers(index, f"layer {layer}") for layer, index in zip(table.exit_layers, everybody, strict=True)
            ],
            "policies": [
                numbers(replay(policy, table), str(policy)) | {"budget": budget} for budget, policy in policies.items()
            ],
        }
    return found


@dataclass(frozen=True)
class AgainstSingle:
    """Errors of a multi-exit model and of a single-exit one on the same utterances.

    Arguments
    ---------
    table : ExitTable
        Of the multi-exit model.
    macs_share : np.ndarray of shape (n_exits,)
        Multiply-accumulates up to each exit, all heads on the way included, over those of the single-exit model.
    fused : np.ndarray of shape (n_utterances, n_exits)
        Errors of each exit fused with those before it, by trees fitted on dev; of one exit, its own.
    single : np.ndarray of shape (n_utterances,)
        Errors of the single-exit model's last exit.
    """

    table: ExitTable
    macs_share: np.ndarray
    fused: np.ndarray
    single: np.ndarray


def against_single(run: Path, single: Path) -> dict[str, AgainstSingle]:
    """Per test set: `run` beside the single-exit model `single`."""
    dev = next(path for path in sorted((run / "tables").glob("*_dev*.parquet")))
    dev_table = read_table(dev)
    model = FusionModel.fit_fused([dev_table])[0] if dev_table.n_exits > 1 else None
    found = {}
    for name, ours, theirs in same_sets(run, single):
        if name == dev.stem:
            continue
        full = float((theirs.cost_macs[:, -1] + theirs.head_macs[:, -1]).sum())
        spent = ours.cost_macs + np.cumsum(ours.head_macs, axis=1)  # fusion reads every head on the way
        fused_errors = ours.errors if model is None else fused_table(ours, fuse(ours, model)).errors
        found[name] = AgainstSingle(ours, spent.sum(axis=0) / full, fused_errors, theirs.errors[:, -1])
    return found


def taxed(pairs: Sequence[AgainstSingle]) -> dict:
    """Every exit, alone and fused, minus the single-exit model's last, with intervals over speakers.

    Arguments
    ---------
    pairs : sequence of AgainstSingle
        Of one set: one, or one for each training seed, pooled; the same utterances in the same order.
    """
    table, last = pairs[0].table, np.sum([one.single for one in pairs], axis=0)
    n_ref_words = table.n_ref_words * len(pairs)
    alone, mixed = (
        np.sum([errors(one) for one in pairs], axis=0) for errors in (lambda a: a.table.errors, lambda a: a.fused)
    )
    return {
        "single": rounded(100 * last.sum() / n_ref_words.sum()),
        "exits": [
            {
                "layer": int(layer),
                "macs_share": rounded(float(np.mean([one.macs_share[k] for one in pairs]))),
                "alone": minus(alone[:, k], last, n_ref_words=n_ref_words, speakers=table.speakers),
                "fused": minus(mixed[:, k], last, n_ref_words=n_ref_words, speakers=table.speakers),
            }
            for k, layer in enumerate(table.exit_layers)
        ],
    }


def rounded(value: float | list[float] | None) -> float | list[float] | None:
    """To six decimals: those who print it round again."""
    if isinstance(value, list | tuple):
        return [round(float(one), 6) for one in value]
    return None if value is None else round(float(value), 6)
