"""The numbers of one set: its exits, its bounds, and what policies do on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eeasr_modules.exits import (
    ExitTable,
    Frontier,
    Interval,
    bootstrap_above_static,
    bootstrap_difference,
    bootstrap_wer,
    exit_costs,
    gap_closed,
    mean_cost,
    oracle_a,
    oracle_b,
    oracle_c,
    overthinking,
    static_line,
)
from eeasr_modules.exits.measure.bounds import signal_aurocs, word_outcomes
from eeasr_modules.exits.measure.edits import edit_counts
from eeasr_modules.exits.measure.fusion import FusionModel, fuse
from eeasr_modules.report.numbers.evaluation import (
    COSTS,
    Choice,
    Outcome,
    Rules,
    curve_points,
    every_head,
    exit_means,
    known_costs,
    point_of,
    priced,
    refuse_below_oracle,
)

BUDGET_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
N_ORACLE_POINTS = 50
N_DRAWS = 1000
KEPT_METADATA = ("corpus", "shift", "model_digest", "manifest_digest", "normaliser", "commit", "seed")


def set_numbers(
    table: ExitTable,
    outcomes: Mapping[str, Outcome],
    *,
    rules: Rules,
    single: ExitTable | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """All numbers of one set: `sets.<name>` of docs/summary-schema.md.

    `single`: the set by a model trained with one exit only, utterances in the same order.
    """
    errors = table.errors
    lines = {name: _Lines.of(table, name) for name in dict.fromkeys(("depth", *rules.costs))}
    main, deep = lines[rules.cost], lines["depth"]
    draws = {"speakers": table.speakers, "rng": rng, "n_draws": N_DRAWS}
    intervals = [bootstrap_wer(errors[:, k], table.n_ref_words, **draws) for k in range(table.n_exits)]
    shares = overthinking(errors)
    return {
        "label": table.metadata.get("set_label", "unknown"),
        **{key: table.metadata.get(key) for key in KEPT_METADATA},
        "duration_is_approximate": bool(table.metadata.get("duration_is_approximate", False)),
        "n_utterances": table.n_utterances,
        "n_speakers": len(set(table.speakers) - {""}),
        "n_ref_words": table.n_ref_words.sum(),
        "duration_s": table.duration_s.sum(),
        "n_layers": table.n_layers,
        "exit_layers": table.exit_layers,
        "errors_per_exit": errors.sum(axis=0),
        "wer_per_exit": table.wer_per_exit,
        "wer_interval_per_exit": [[one.low, one.high] for one in intervals],
        "intervals": {
            "level": intervals[0].level,
            "n_draws": N_DRAWS,
            "resampled": intervals[0].blocks,
            "n_blocks": intervals[0].n_blocks,
        },
        "cer_per_exit": table.cer_per_exit,
        "overthinking": {
            "inner_better_share": shares.better,
            "destructive_share": shares.destructive,
            "wasteful_share": shares.wasteful,
        },
        "oracle_a": _oracle(oracle_a(errors), table, draws),
        "oracle_b": _oracle(oracle_b(errors, table.cost_layers), table, draws),
        "exit_costs": main.exits,
        "static_line": np.stack([main.static.cost, main.static.wer], axis=1),
        "oracle_c": _thinned(main.oracle),
        "costs": {
            name: {
                "unit": COSTS[name].unit,
                "exits": one.exits,
                "static_line": np.stack([one.static.cost, one.static.wer], axis=1),
                "oracle_c": _thinned(one.oracle),
                "machine": table.metadata["cost_profile"].get("machine") if name == "time" else None,
            }
            for name, one in lines.items()
        },
        "at_budgets": [_at(share * table.exit_layers[-1], table, deep) for share in BUDGET_SHARES],
        "at_layers": [_at(layer, table, deep) for layer in range(table.exit_layers[0], table.exit_layers[-1] + 1)],
        "words": None if table.references is None or table.n_exits < 2 else word_outcomes(table).as_dict(),
        "signals": signal_numbers(table),
        "policies": {
            text: _policy_numbers(outcome, table, lines=lines, rules=rules, draws=draws)
            for text, outcome in outcomes.items()
        },
        "single_exit": _single_numbers(single, table, rules=rules, draws=draws) if single is not None else None,
    }


@dataclass(frozen=True, eq=False)
class _Lines:
    """What the exits of a set cost, and the two lines that bound every policy, in one cost."""

    cost: str
    exits: np.ndarray
    per_utterance: np.ndarray
    static: Frontier
    oracle: Frontier

    @classmethod
    def of(cls, table: ExitTable, cost: str) -> "_Lines":
        """The lines of a table."""
        with_cost, column = priced(table, cost)
        costs = exit_costs(with_cost, column) / COSTS[cost].scale
        words = {"n_ref_words": table.n_ref_words, "weights": table.duration_s}
        static, oracle = static_line(table.errors, costs, **words), oracle_c(table.errors, costs, **words)
        return cls(cost, exit_means(table, cost), costs, static, oracle)


def _policy_numbers(
    outcome: Outcome, table: ExitTable, *, lines: dict[str, _Lines], rules: Rules, draws: dict[str, Any]
) -> dict[str, Any]:
    curves = {name: curve_points(outcome, table, cost=name) for name in rules.costs}
    for name, points in curves.items():
        refuse_below_oracle(points, lines[name].oracle, policy=outcome.policy, set_name=table.metadata["set_name"])
    at = [
        _choice_numbers(choice, table, policy=outcome.policy, lines=lines, cost=rules.cost, draws=draws)
        for choice in outcome.choices
    ]
    first = outcome.choices[0]
    return {
        "calibrated": _joined(first.calibrated),
        "calibrated_on": outcome.calibrated_on,
        "calibration_cost": first.calibration_point[0],
        "calibration_wer": first.calibration_point[1],
        "curve": curves[rules.cost],
        "curves": curves,
        "curve_texts": [_joined(choice.calibrated) for choice in outcome.curve],
        "at_budget": at[0],
        "at_budgets": at,
    }


def _choice_numbers(
    choice: Choice,
    table: ExitTable,
    *,
    policy: str,
    lines: dict[str, _Lines],
    cost: str,
    draws: dict[str, Any],
    fused: np.ndarray | None = None,
) -> dict[str, Any]:
    """Numbers of one choice; `fused` are the errors of what came out, where that is no exit's own transcript."""
    depth, wer = point_of(choice.exit_index, table, emitted=choice.emitted)
    errors, fixed, source = table.errors, lines[cost].per_utterance, choice.emitted
    if fused is not None:  # stands as one more exit, too dear for any static mixture to use
        wer = float(100.0 * fused.sum() / table.n_ref_words.sum())
        errors, source = np.column_stack([errors, fused]), np.full(len(fused), table.n_exits)
        fixed = np.column_stack([fixed, np.full(len(fused), 1e9 * fixed.max())])
    emitted = errors[np.arange(table.n_utterances), source]
    costs = {}
    for name, paid in choice.paid.items():
        mean, one = mean_cost(paid, table.duration_s), lines[name]
        if fused is None:
            where = np.array([[mean, wer]])
            refuse_below_oracle(where, one.oracle, policy=policy, set_name=table.metadata["set_name"])
        costs[name] = {
            "mean": mean,
            "share": mean / one.exits[-1],
            "static": one.static.at(mean),
            "oracle_c": one.oracle.at(mean),
            "gap_closed": gap_closed(mean, wer, static=one.static, oracle=one.oracle),
        }
    interval = bootstrap_wer(emitted, table.n_ref_words, **draws)
    above = bootstrap_above_static(
        source,
        errors,
        costs=fixed,
        chosen_costs=choice.paid[cost],
        n_ref_words=table.n_ref_words,
        weights=table.duration_s,
        **draws,
    )
    last = bootstrap_difference(emitted, table.errors[:, -1], n_ref_words=table.n_ref_words, **draws)
    main = costs[cost]
    return {
        "budget": choice.budget,
        "calibrated": _joined(choice.calibrated),
        "depth": depth,
        "emitted_depth": point_of(choice.emitted, table)[0],
        "depth_share": depth / table.exit_layers[-1],
        "macs_share": costs["macs"]["share"] if "macs" in costs else None,
        "wer": wer,
        "interval": [interval.low, interval.high],
        "cost": main["mean"],
        "cost_share": main["share"],
        "static": main["static"],
        "oracle_c": main["oracle_c"],
        "minus_static": _difference(above),
        "minus_last": _difference(last),
        "gap_closed": main["gap_closed"],
        "costs": costs,
        "exits_chosen": np.bincount(choice.exit_index, minlength=table.n_exits),
    }


def fused_numbers(
    chosen: Outcome, table: ExitTable, fusion: FusionModel, *, rules: Rules, rng: np.random.Generator
) -> dict[str, Any]:
    """What the chosen policy's words are worth fused, at the exits where it stops.

    Returns dict: `sets.<name>.fused` of docs/summary-schema.md. Every head on the way is charged.
    """
    draws = {"speakers": table.speakers, "rng": rng, "n_draws": N_DRAWS}
    counts = edit_counts(fuse(table, fusion), table.references)
    errors = counts["n_sub"] + counts["n_del"] + counts["n_ins"]
    first, rows = chosen.choices[0], np.arange(table.n_utterances)
    paid = {name: every_head(table, name)[rows, first.exit_index] for name in rules.costs}
    lines = {name: _Lines.of(table, name) for name in rules.costs}
    fused, own = errors[rows, first.exit_index], table.errors[rows, first.emitted]
    how = {"policy": chosen.policy, "lines": lines, "cost": rules.cost, "draws": draws, "fused": fused}
    words = {"n_ref_words": table.n_ref_words, **draws}
    return {
        "policy": chosen.policy,
        "at_budget": _choice_numbers(replace(first, paid=paid), table, **how),
        "minus_exit": _difference(bootstrap_difference(fused, own, **words)),
        "wer_per_exit": 100.0 * errors.sum(axis=0) / table.n_ref_words.sum(),
        "full_depth_minus_last": _difference(bootstrap_difference(errors[:, -1], table.errors[:, -1], **words)),
    }


def _joined(texts: Sequence[str]) -> str:
    """Texts of one or two calibrations; of more the first, and how many others there are."""
    return " / ".join(texts) if len(texts) <= 2 else f"{texts[0]} / {len(texts) - 1} others"


def signal_numbers(table: ExitTable) -> dict[str, Any]:
    """How well each signal tells that an inner exit is no worse than the last: AUROCs by signal, the best first."""
    if table.n_exits < 2:
        return {}
    known = {name: one for name, one in signal_aurocs(table).items() if one["pooled"] is not None}
    return dict(sorted(known.items(), key=lambda item: -item[1]["pooled"]))


def _single_numbers(single: ExitTable, table: ExitTable, *, rules: Rules, draws: dict[str, Any]) -> dict[str, Any]:
    """The price of exits: last exit against the same encoder trained with one exit only."""
    errors = single.errors[:, -1]
    interval = bootstrap_wer(errors, table.n_ref_words, **draws)
    tax = bootstrap_difference(table.errors[:, -1], errors, n_ref_words=table.n_ref_words, **draws)
    known = [name for name in rules.costs if name in known_costs([single])]
    return {
        "exit_layer": single.exit_layers[-1],
        "model_digest": single.metadata.get("model_digest"),
        "wer": interval.estimate,
        "interval": [interval.low, interval.high],
        "exit_tax": tax.estimate,
        "exit_tax_interval": [tax.low, tax.high],
        "costs": {name: exit_means(single, name)[-1] for name in known},
    }


def _oracle(exit_index: np.ndarray, table: ExitTable, draws: dict[str, Any]) -> dict[str, Any]:
    depth, wer = point_of(exit_index, table)
    interval = bootstrap_wer(table.errors[np.arange(table.n_utterances), exit_index], table.n_ref_words, **draws)
    return {"wer": wer, "interval": [interval.low, interval.high], "depth": depth}


def _at(depth: float, table: ExitTable, lines: _Lines) -> dict[str, float]:
    return {
        "share": float(depth) / float(table.exit_layers[-1]),
        "depth": float(depth),
        "static": lines.static.at(float(depth)),
        "oracle_c": lines.oracle.at(float(depth)),
    }


def _thinned(line: Frontier) -> np.ndarray:
    """At most `N_ORACLE_POINTS` points of a line, (n_points, 2)."""
    if len(line.cost) <= N_ORACLE_POINTS:
        return np.stack([line.cost, line.wer], axis=1)
    depths = np.linspace(line.cost[0], line.cost[-1], N_ORACLE_POINTS)
    return np.stack([depths, line.at(depths)], axis=1)


def _difference(interval: Interval) -> dict[str, float]:
    return {"difference": interval.estimate, "low": interval.low, "high": interval.high}
