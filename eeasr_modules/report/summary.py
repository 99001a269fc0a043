"""The numbers of a report as plain values, ready for JSON; docs/summary-schema.md says what each one is.

Pages and pictures are made from these numbers alone, so that they cannot disagree with them.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from eeasr_modules.exits import (
    ExitTable,
    Frontier,
    bootstrap_above_static,
    bootstrap_difference,
    bootstrap_wer,
    budget_cost,
    exit_costs,
    gap_closed,
    oracle_a,
    oracle_b,
    oracle_c,
    overthinking,
    parse_policies,
    static_line,
)
from eeasr_modules.report.calibrating import grids, lacking_signals
from eeasr_modules.report.checks import check_tables, match_single_exits, ordered
from eeasr_modules.report.evaluation import Outcome, evaluate, point_of, refuse_below_oracle

SUMMARY_VERSION = 1
BUDGET_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
N_ORACLE_POINTS = 50
N_DRAWS = 1000
KEPT_METADATA = ("corpus", "shift", "model_digest", "manifest_digest", "normaliser", "commit", "seed")


def summarise(
    tables: Sequence[ExitTable],
    *,
    dev: ExitTable | None,
    policies: Sequence[str],
    policy: str | None,
    budget: float,
    rng: np.random.Generator,
    single_exit: Sequence[ExitTable] = (),
    calibrated: Mapping[str, str] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """All numbers of a report.

    Arguments
    ---------
    tables : sequence of ExitTable
        The test sets.
    dev : ExitTable or None
        Calibration data, of the same model.
    policies : sequence of str
        Texts, open or not. Those whose signals a table lacks are left out, and it is said.
    policy : str or None
        The chosen one. None takes the lowest WER at the budget on dev or, without dev, the first open one
        that is not random.
    budget : float
        Mean cost allowed: up to 1 a share of full depth, above 1 layers.
    rng : np.random.Generator
        For the bootstrap.
    single_exit : sequence of ExitTable
        The same sets by models trained with one exit only.
    calibrated : mapping of str to str, or None
        Texts already calibrated on dev, by the text that was asked for.
    command : str or None
        What made the report.

    Returns
    -------
    dict
        See docs/summary-schema.md. WERs in percent, depths in layers, shares from 0 to 1.

    Raises
    ------
    ValueError
        When a table is the calibration data, sets have no distinct names, tables are not of one model, or the
        chosen policy cannot decide on them.
    """
    check_tables(tables, dev=dev, single_exit=single_exit)
    tables = ordered(tables)
    every = [*tables, *([dev] if dev is not None else [])]
    asked = {str(one): one for one in parse_policies([*policies, *([policy] if policy else [])])}
    chosen = str(parse_policies(policy)[0]) if policy else None
    left_out = {}
    if all(table.n_exits == 1 for table in tables):
        left_out = dict.fromkeys(asked, "one exit only, so there is nothing to decide")
        chosen = None
    else:
        for text, one in asked.items():
            if lacking := lacking_signals(one, every):
                left_out[text] = f"the tables have no signal {', '.join(lacking)}"
        if chosen in left_out:
            raise ValueError(f"the policy {chosen} cannot be reported: {left_out[chosen]}")
    kept = [one for text, one in asked.items() if text not in left_out]
    dev_grids = grids(kept, dev) if dev is not None else None
    sets = {}
    for table in tables:
        outcomes, unmet = evaluate(kept, table, dev=dev, dev_grids=dev_grids, budget=budget, calibrated=calibrated)
        left_out |= unmet
        sets[table.metadata["set_name"]] = (table, outcomes)
    if chosen in left_out:
        raise ValueError(left_out[chosen])
    reported = {text: one for text, one in next(iter(sets.values()))[1].items() if text not in left_out}
    singles, unpaired = match_single_exits(tables, single_exit, dev=dev)
    left_out |= unpaired
    content = {
        "schema_version": SUMMARY_VERSION,
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "budget": budget,
        "budget_layers": budget_cost(budget, tables[0]),
        "chosen_policy": chosen or _default_choice(reported, has_dev=dev is not None),
        "dev": _dev_numbers(dev) if dev is not None else None,
        "left_out": left_out,
        "sets": {
            name: set_numbers(table, outcomes, single=singles.get(name), rng=rng)
            for name, (table, outcomes) in sets.items()
        },
    }
    return _plain(content)


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


def _default_choice(outcomes: Mapping[str, Outcome], *, has_dev: bool) -> str | None:
    """The best on dev; the first that can be called a heuristic where nothing may be compared."""
    deciding = {text: one for text, one in outcomes.items() if not text.startswith("random")}
    if has_dev and deciding:
        return min(deciding, key=lambda text: deciding[text].calibration_point[::-1])
    return next(iter(deciding or outcomes), None)


def _dev_numbers(dev: ExitTable) -> dict[str, Any]:
    return {
        "set_name": dev.metadata.get("set_name"),
        "model_digest": dev.metadata.get("model_digest"),
        "manifest_digest": dev.metadata.get("manifest_digest"),
        "n_utterances": dev.n_utterances,
        "n_speakers": len(set(dev.speakers) - {""}),
        "n_ref_words": dev.n_ref_words.sum(),
        "duration_s": dev.duration_s.sum(),
        "wer_per_exit": dev.wer_per_exit,
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


def _difference(interval: Any) -> dict[str, float]:
    return {"difference": interval.estimate, "low": interval.low, "high": interval.high}


def _plain(value: Any) -> Any:
    """Values that JSON can hold: floats with 4 decimals, None for what is not a number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if math.isfinite(value) else None
    return value
