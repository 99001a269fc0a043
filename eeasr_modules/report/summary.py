"""The numbers of a report as plain values, ready for JSON; docs/summary-schema.md says what each one is.

Pages and pictures are made from these numbers alone, so that they cannot disagree with them.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from eeasr_modules.exits import ExitTable, budget_cost, parse_policies
from eeasr_modules.report.calibrating import grids, lacking_signals
from eeasr_modules.report.checks import check_tables, match_single_exits, ordered
from eeasr_modules.report.evaluation import Outcome, evaluate
from eeasr_modules.report.set_numbers import set_numbers

SUMMARY_VERSION = 1


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


def _default_choice(outcomes: Mapping[str, Outcome], *, has_dev: bool) -> str | None:
    """The best on dev; the first that can be called a heuristic where nothing may be compared."""
    deciding = {text: one for text, one in outcomes.items() if "random" not in text}
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
