"""What a report's budgets mean: the costs it can speak of, and what calibrates a test set.

Costs are depth, MACs and seconds; these come from `metadata["cost_profile"]`, measured on one machine:
`{"machine": "...", "time_ms": {"front_end": 30.0, "layer": 3.9, "head": 0.02}}`, milliseconds per second of audio
(`layer` may be a list). A dev table calibrates; without one, speakers are dealt into folds and each is judged by what
was chosen on the others; below `MIN_SPEAKERS` speakers the evaluated set itself calibrates, which flatters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eeasr_modules.exits import Curve, ExitTable, budget_cost, exit_costs, mean_cost, policy_curve
from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tables.table import is_derived, speaker_folds


@dataclass(frozen=True)
class Cost:
    """How a cost is named and shown."""

    name: str  # as on the command line
    title: str  # for an axis
    unit: str  # for a number
    scale: float  # what sums are divided by before they are shown
    digits: int  # after the point


COSTS = {
    "depth": Cost("depth", "mean depth (layers, weighted by duration)", "layers", 1.0, 2),
    "macs": Cost("macs", "GMACs per second of audio (front end and heads included)", "GMACs/s", 1e9, 4),
    "time": Cost("time", "computing time (ms per second of audio, measured)", "ms/s", 1.0, 1),
}


def known_costs(tables: Sequence[ExitTable]) -> list[str]:
    """Names of the costs that every table knows; "depth" first."""
    known = ["depth"]
    if all(table.cost_macs is not None and table.head_macs is not None for table in tables):
        known.append("macs")
    if all("cost_profile" in table.metadata for table in tables):
        known.append("time")
    return known


def check_cost(name: str, tables: Sequence[ExitTable], *, budgets: Sequence[float]) -> None:
    """Refuse a cost that a table does not know, and budgets that it cannot mean.

    ValueError saying what the tables lack, or which budget is wrong.
    """
    if name not in COSTS:
        raise ValueError(f"cost must be one of {', '.join(COSTS)}, got {name!r}")
    for table in tables:
        if name not in known_costs([table]):
            lacks = "MACs (columns cost_macs, head_macs)" if name == "macs" else "measured times (cost_profile)"
            raise ValueError(
                f"the exit table of {table.metadata.get('set_name')!r} does not know {lacks}, so cost {name} cannot "
                f"be reported; collect it anew or use depth"
            )
    if not budgets:
        raise ValueError("a report needs at least one budget, got none")
    wrong = [budget for budget in budgets if not np.isfinite(budget) or budget <= 0 or (name != "depth" and budget > 1)]
    if wrong:
        meant = "a share up to 1 or layers above 1" if name == "depth" else "a share of the last exit's cost, up to 1"
        raise ValueError(f"a budget for cost {name} must be {meant}, got {wrong[0]:g}")


def priced(table: ExitTable, name: str) -> tuple[ExitTable, str]:
    """A table, for "time" with milliseconds where MACs stood, and the column by which `exits` charges a cost.

    ValueError when the profile of times is not as the module says.
    """
    if name == "depth":
        return table, "cost_layers"
    if name == "macs":
        return table, "cost_macs"
    front_end, layers, head = _milliseconds(table)
    up_to = front_end + np.cumsum(layers)[table.exit_layers - 1]
    seconds = table.duration_s[:, None]
    in_time = {"cost_macs": seconds * up_to, "head_macs": seconds * np.full(table.n_exits, head)}
    return replace(table, **in_time, decoder_macs=None), "cost_macs"


def every_head(table: ExitTable, name: str) -> np.ndarray:
    """Cost of stopping at each exit where every head on the way is read, as fused words need.

    Returns np.ndarray of shape (n_utterances, n_exits): in the unit shown, times seconds of audio; aligning words is
    not in it.
    """
    with_cost, column = priced(table, name)
    costs = exit_costs(with_cost, column)
    if column != "cost_layers":
        costs = costs + np.cumsum(with_cost.head_macs, axis=1) - with_cost.head_macs
    return costs / COSTS[name].scale


def exit_means(table: ExitTable, name: str) -> np.ndarray:
    """What each exit costs on average, in the unit shown (for depth its layer); shape (n_exits,)."""
    with_cost, column = priced(table, name)
    costs = exit_costs(with_cost, column) / COSTS[name].scale
    return np.array([mean_cost(costs[:, k], table.duration_s) for k in range(table.n_exits)])


def _milliseconds(table: ExitTable) -> tuple[float, np.ndarray, float]:
    """Front end, each layer and a head, in milliseconds per second of audio."""
    profile: Any = table.metadata["cost_profile"]
    try:
        times = profile["time_ms"]
        layers = np.broadcast_to(np.asarray(times["layer"], dtype=np.float64), (table.n_layers,))
        values = float(times["front_end"]), layers, float(times["head"])
    except (KeyError, TypeError, ValueError) as err:
        raise ValueError(
            f"cost_profile of {table.metadata.get('set_name')!r} must hold time_ms with front_end, layer (one number "
            f"or {table.n_layers}) and head in milliseconds per second of audio, got {profile!r}"
        ) from err
    if not (np.isfinite([values[0], values[2]]).all() and np.isfinite(layers).all() and layers.min() >= 0):
        raise ValueError(f"times of cost_profile must be finite and not negative, got {times!r}")
    return values


CROSS_FIT = "cross-fit over speakers"
N_HALVES = 2


@dataclass(frozen=True, eq=False)
class Side:
    """Utterances that one calibration decides."""

    rows: np.ndarray  # which of the evaluated set
    table: ExitTable  # the evaluated set at these rows
    calibrating: ExitTable  # what thresholds are chosen on


def lacking_signals(policy: Policy, tables: Sequence[ExitTable]) -> list[str]:
    """Signals that a policy needs and not every table has."""
    needed = [name for name in policy.needs if not is_derived(name)]
    return [name for name in needed if any(name not in table.signals for table in tables)]


def sides(table: ExitTable, dev: ExitTable | None, *, n_folds: int = N_HALVES) -> tuple[list[Side], str | None]:
    """What calibrates which utterances, and the name of the calibration; None where the set calibrates itself."""
    everyone = np.arange(table.n_utterances)
    if dev is not None:
        return [Side(everyone, table, dev)], str(dev.metadata.get("set_name", "dev"))
    if len(set(table.speakers)) < MIN_SPEAKERS or "" in table.speakers:
        return [Side(everyone, table, table)], None
    fold = folds_of(table) if n_folds == N_HALVES else speaker_folds(table, n_folds)
    kept = [Side(np.flatnonzero(fold == i), table.select(fold == i), table.select(fold != i)) for i in np.unique(fold)]
    return kept, f"{CROSS_FIT} ({len(kept)} folds)"


def folds_of(table: ExitTable) -> np.ndarray:
    """Two folds of about equal duration, no speaker in both, 0 or 1; the same on every call."""
    speakers, speaker = np.unique(table.speakers.astype(str), return_inverse=True)
    seconds = np.bincount(speaker, table.duration_s)
    fold_of_speaker, total = np.zeros(len(speakers), dtype=np.int64), [0.0, 0.0]
    for i in np.argsort(-seconds, kind="stable"):  # longest first, each to the lighter fold
        lighter = int(total[1] < total[0])
        fold_of_speaker[i] = lighter
        total[lighter] += seconds[i]
    return fold_of_speaker[speaker]


def grids(
    policies: Sequence[Policy], table: ExitTable, *, cost: str = "depth", n_inner_folds: int = 10
) -> dict[str, Curve]:
    """What each policy can do on calibration data: points that no other beats in both cost and WER.

    Returns dict of str to Curve: by the policy's text, each by rising cost (in the unit shown) and falling WER.

    Arguments
    ---------
    policies : sequence of policies
        Open ones are filled in in all ways.
    n_inner_folds : int
        Folds of speakers where something has to be fitted.
    """
    with_cost, column = priced(table, cost)
    options = {"cost": column, "n_folds": n_inner_folds}
    curves = {str(policy): policy_curve(policy, with_cost, **options).frontier() for policy in policies}
    return {text: Curve(one.policies, one.cost / COSTS[cost].scale, one.wer) for text, one in curves.items()}


def budget_limit(budget: float, table: ExitTable, *, cost: str = "depth") -> float:
    """What a budget allows, in the unit shown."""
    with_cost, column = priced(table, cost)
    return budget_cost(budget, with_cost, cost=column) / COSTS[cost].scale
