"""The numbers of one set: its exits, its bounds, and what policies do on it."""

from collections.abc import Mapping
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
    oracle_a,
    oracle_b,
    oracle_c,
    overthinking,
    static_line,
)
from eeasr_modules.report.evaluation import Outcome, point_of, refuse_below_oracle

BUDGET_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
N_ORACLE_POINTS = 50
N_DRAWS = 1000
KEPT_METADATA = ("corpus", "shift", "model_digest", "manifest_digest", "normaliser", "commit", "seed")


def set_numbers(
    table: ExitTable,
    outcomes: Mapping[str, Outcome],
    *,
    single: ExitTable | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """All numbers of one set.

    Arguments
    ---------
    table : ExitTable
        The set.
    outcomes : mapping of str to Outcome
        Policies on it.
    single : ExitTable or None
        The set by a model trained with one exit only, utterances in the same order.
    rng : np.random.Generator
        For the bootstrap.

    Returns
    -------
    dict
        `sets.<name>` of docs/summary-schema.md.
    """
    errors, costs = table.errors, exit_costs(table)
    lines = {"n_ref_words": table.n_ref_words, "weights": table.duration_s}
    static, oracle = static_line(errors, costs, **lines), oracle_c(errors, costs, **lines)
    intervals = [
        bootstrap_wer(errors[:, k], table.n_ref_words, speakers=table.speakers, rng=rng, n_draws=N_DRAWS)
        for k in range(table.n_exits)
    ]
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
        "oracle_a": _point(oracle_a(errors), table),
        "oracle_b": _point(oracle_b(errors, costs), table),
        "static_line": np.stack([static.cost, static.wer], axis=1),
        "oracle_c": _thinned(oracle),
        "at_budgets": [_at(share * table.exit_layers[-1], table, static, oracle) for share in BUDGET_SHARES],
        "at_layers": [
            _at(layer, table, static, oracle) for layer in range(table.exit_layers[0], table.exit_layers[-1] + 1)
        ],
        "policies": {
            text: _policy_numbers(outcome, table, static=static, oracle=oracle, rng=rng)
            for text, outcome in outcomes.items()
        },
        "single_exit": _single_numbers(single, table, rng=rng) if single is not None else None,
    }


def _policy_numbers(
    outcome: Outcome, table: ExitTable, *, static: Frontier, oracle: Frontier, rng: np.random.Generator
) -> dict[str, Any]:
    depth, wer = point_of(outcome.exit_index, table)
    points = np.array([*outcome.curve.tolist(), (depth, wer)])
    name = table.metadata["set_name"]
    refuse_below_oracle(points, oracle, policy=outcome.policy, set_name=name)
    emitted = table.errors[np.arange(table.n_utterances), outcome.exit_index]
    paired = {"n_ref_words": table.n_ref_words, "speakers": table.speakers, "rng": rng, "n_draws": N_DRAWS}
    interval = bootstrap_wer(emitted, table.n_ref_words, speakers=table.speakers, rng=rng, n_draws=N_DRAWS)
    above = bootstrap_above_static(
        outcome.exit_index, table.errors, costs=exit_costs(table), weights=table.duration_s, **paired
    )
    last = bootstrap_difference(emitted, table.errors[:, -1], **paired)
    return {
        "calibrated": " / ".join(outcome.calibrated),
        "calibrated_on": outcome.calibrated_on,
        "calibration_depth": outcome.calibration_point[0],
        "calibration_wer": outcome.calibration_point[1],
        "curve": outcome.curve,
        "at_budget": {
            "depth": depth,
            "depth_share": depth / table.exit_layers[-1],
            "macs_share": outcome.macs_share,
            "wer": wer,
            "interval": [interval.low, interval.high],
            "static": static.at(depth),
            "oracle_c": oracle.at(depth),
            "minus_static": _difference(above),
            "minus_last": _difference(last),
            "gap_closed": gap_closed(depth, wer, static=static, oracle=oracle),
            "exits_chosen": np.bincount(outcome.exit_index, minlength=table.n_exits),
        },
    }


def _single_numbers(single: ExitTable, table: ExitTable, *, rng: np.random.Generator) -> dict[str, Any]:
    """The price of exits: last exit against the same encoder trained with one exit only."""
    errors = single.errors[:, -1]
    options = {"speakers": table.speakers, "rng": rng, "n_draws": N_DRAWS}
    interval = bootstrap_wer(errors, table.n_ref_words, **options)
    tax = bootstrap_difference(table.errors[:, -1], errors, n_ref_words=table.n_ref_words, **options)
    return {
        "exit_layer": single.exit_layers[-1],
        "model_digest": single.metadata.get("model_digest"),
        "wer": interval.estimate,
        "interval": [interval.low, interval.high],
        "exit_tax": tax.estimate,
        "exit_tax_interval": [tax.low, tax.high],
    }


def _point(exit_index: np.ndarray, table: ExitTable) -> dict[str, float]:
    depth, wer = point_of(exit_index, table)
    return {"wer": wer, "depth": depth}


def _at(depth: float, table: ExitTable, static: Frontier, oracle: Frontier) -> dict[str, float]:
    share = float(depth) / float(table.exit_layers[-1])
    return {
        "share": share,
        "depth": float(depth),
        "static": static.at(float(depth)),
        "oracle_c": oracle.at(float(depth)),
    }


def _thinned(line: Frontier) -> np.ndarray:
    """At most `N_ORACLE_POINTS` points of a line, (n_points, 2)."""
    if len(line.cost) <= N_ORACLE_POINTS:
        return np.stack([line.cost, line.wer], axis=1)
    depths = np.linspace(line.cost[0], line.cost[-1], N_ORACLE_POINTS)
    return np.stack([depths, line.at(depths)], axis=1)


def _difference(interval: Interval) -> dict[str, float]:
    return {"difference": interval.estimate, "low": interval.low, "high": interval.high}
