"""What a policy does on a test set, its open parts calibrated elsewhere.

Where a dev table is given, it calibrates. Without one, speakers are dealt into two folds and each fold is
judged by what was chosen on the other (a cross-fit); below `MIN_SPEAKERS` speakers the evaluated set itself
calibrates, which flatters, and `Outcome.calibrated_on` is None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits import (
    Curve,
    ExitTable,
    Frontier,
    budget_cost,
    check_against,
    choice_point,
    exit_costs,
    mean_cost,
    parse_policy,
    policy_costs,
    policy_curve,
    replay,
)
from eeasr_modules.exits.bootstrap import MIN_SPEAKERS
from eeasr_modules.exits.policies import Policy
from eeasr_modules.exits.table import DERIVED_SIGNALS

CROSS_FIT = "cross-fit over speakers (2 folds)"
AS_GIVEN = "as given"
SHARES = np.linspace(0.02, 1.0, 50)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A policy on one set, at the budget and over all budgets.

    Arguments
    ---------
    policy : str
        Text as it was asked for.
    calibrated : tuple of str
        Texts that decided: one, or one per fold.
    calibrated_on : str or None
        Name of the dev set, `CROSS_FIT`, `AS_GIVEN`, or None where the evaluated set calibrated.
    calibration_point : tuple of float
        (mean depth in layers, WER in percent) on the calibration data; of a cross-fit the folds' means.
    exit_index : np.ndarray of shape (n_utterances,)
        Chosen exits, from 0.
    macs_share : float or None
        MACs, heads that were read included, over those of the last exit; None where the table has none.
    curve : np.ndarray of shape (n_points, 2)
        Depth and WER on this set of what was chosen for each of `SHARES`, by rising budget.
    """

    policy: str
    calibrated: tuple[str, ...]
    calibrated_on: str | None
    calibration_point: tuple[float, float]
    exit_index: np.ndarray
    macs_share: float | None
    curve: np.ndarray


@dataclass(frozen=True, eq=False)
class _Part:
    """Utterances that one calibration decides: their rows, their table, and what calibrated them."""

    rows: np.ndarray
    table: ExitTable
    grid: Curve


def lacking_signals(policy: Policy, tables: Sequence[ExitTable]) -> list[str]:
    """Signals that a policy needs and not every table has.

    Arguments
    ---------
    policy : policy
        Open or not.
    tables : sequence of ExitTable
        All that it would run on.

    Returns
    -------
    list of str
    """
    needed = [name for name in policy.needs if name not in DERIVED_SIGNALS]
    return [name for name in needed if any(name not in table.signals for table in tables)]


def folds_of(table: ExitTable) -> np.ndarray:
    """Two folds of about equal duration, no speaker in both.

    Arguments
    ---------
    table : ExitTable
        With speakers.

    Returns
    -------
    np.ndarray of shape (n_utterances,)
        0 or 1; the same on every call.
    """
    speakers, speaker = np.unique(table.speakers.astype(str), return_inverse=True)
    seconds = np.bincount(speaker, table.duration_s)
    fold_of_speaker, total = np.zeros(len(speakers), dtype=np.int64), [0.0, 0.0]
    for i in np.argsort(-seconds, kind="stable"):  # longest first, each to the lighter fold
        lighter = int(total[1] < total[0])
        fold_of_speaker[i] = lighter
        total[lighter] += seconds[i]
    return fold_of_speaker[speaker]


def grids(policies: Sequence[Policy], table: ExitTable) -> dict[str, Curve]:
    """What each policy can do on calibration data: points that no other beats in both depth and WER.

    Arguments
    ---------
    policies : sequence of policies
        Open ones are filled in in all ways.
    table : ExitTable
        Calibration data.

    Returns
    -------
    dict of str to Curve
        By the policy's text, each by rising depth and falling WER.
    """
    return {str(policy): policy_curve(policy, table).frontier() for policy in policies}


def chosen_within(grid: Curve, limit: float) -> int | None:
    """Which point a budget allows: lowest WER, then lowest depth (the rule of `exits.choose`).

    Arguments
    ---------
    grid : Curve
        Of `grids`.
    limit : float
        Mean depth in layers.

    Returns
    -------
    int or None
        Index into the grid; None where nothing is that cheap.
    """
    within = int(np.searchsorted(grid.cost, limit * (1 + 1e-9), side="right"))
    return within - 1 if within else None


def evaluate(
    policies: Sequence[Policy],
    table: ExitTable,
    *,
    dev: ExitTable | None,
    dev_grids: Mapping[str, Curve] | None,
    budget: float,
    calibrated: Mapping[str, str] | None = None,
) -> tuple[dict[str, Outcome], dict[str, str]]:
    """All policies on one set.

    Arguments
    ---------
    policies : sequence of policies
        Open or not.
    table : ExitTable
        The set; never the calibration data.
    dev : ExitTable or None
        Calibration data.
    dev_grids : mapping of str to Curve, or None
        Of `grids` on dev; needed where there is a dev.
    budget : float
        As for `exits.choose`.
    calibrated : mapping of str to str, or None
        Texts already calibrated on dev, by the text that was asked for.

    Returns
    -------
    tuple of (dict of str to Outcome, dict of str to str)
        By the policy's text; and for policies that cannot meet the budget the reason.
    """
    sides, calibrated_on = _sides(table, dev)
    outcomes, unmet = {}, {}
    for policy in policies:
        check_against(policy, table.exit_layers)
        text, closed = str(policy), (calibrated or {}).get(str(policy))
        source = calibrated_on if policy.is_open else AS_GIVEN
        if dev is None and policy.is_open:
            parts = [_Part(rows, part, grids([policy], side)[text]) for rows, part, side in sides]
        else:
            everyone = np.arange(table.n_utterances)
            grid = dev_grids[text] if dev is not None else grids([policy], table)[text]
            parts = [_Part(everyone, table, grid)]
        try:
            outcomes[text] = _outcome(policy, table, parts, budget=budget, source=source, closed=closed, dev=dev)
        except _UnmetError as err:
            unmet[text] = str(err)
    return outcomes, unmet


class _UnmetError(ValueError):
    """The budget is below all that a policy can do."""


def _sides(table: ExitTable, dev: ExitTable | None) -> tuple[list, str | None]:
    """(rows, their table, calibrating table) of each part, and the name of the calibration."""
    everyone = np.arange(table.n_utterances)
    if dev is not None:
        return [(everyone, table, dev)], str(dev.metadata.get("set_name", "dev"))
    if len(set(table.speakers)) < MIN_SPEAKERS or "" in table.speakers:
        return [(everyone, table, table)], None
    fold = folds_of(table)
    halves = [table.select(fold == 0), table.select(fold == 1)]
    rows = [np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)]
    return [(rows[0], halves[0], halves[1]), (rows[1], halves[1], halves[0])], CROSS_FIT


def _outcome(
    policy: Policy,
    table: ExitTable,
    parts: list[_Part],
    *,
    budget: float,
    source: str | None,
    closed: str | None,
    dev: ExitTable | None,
) -> Outcome:
    limit = budget_cost(budget, table)
    if closed is not None:
        deciding = [parse_policy(closed)]
        check_against(deciding[0], table.exit_layers)
        point = choice_point(deciding[0], dev) if dev is not None else (float("nan"), float("nan"))
    else:
        # a policy with nothing open is reported wherever it lies
        chosen = [chosen_within(part.grid, limit) if policy.is_open else 0 for part in parts]
        if None in chosen:
            cheapest = max(part.grid.cost.min() for part in parts)
            raise _UnmetError(
                f"{policy} cannot meet the budget of {limit:.4g} layers where it is calibrated: "
                f"the cheapest it reaches is {cheapest:.4g}"
            )
        deciding = [part.grid.policies[i] for part, i in zip(parts, chosen)]
        point = tuple(
            float(np.mean([getattr(part.grid, name)[i] for part, i in zip(parts, chosen)])) for name in ("cost", "wer")
        )
    return Outcome(
        policy=str(policy),
        calibrated=tuple(dict.fromkeys(str(one) for one in deciding)),
        calibrated_on=source,
        calibration_point=point,
        exit_index=_choices(parts, deciding, table.n_utterances),
        macs_share=_macs_share(parts, deciding, table),
        curve=_curve(parts, table),
    )


def _choices(parts: list[_Part], deciding: Sequence[Policy], n_utterances: int) -> np.ndarray:
    exit_index = np.empty(n_utterances, dtype=np.int64)
    for part, policy in zip(parts, deciding):
        exit_index[part.rows] = replay(policy, part.table)
    return exit_index


def _macs_share(parts: list[_Part], deciding: Sequence[Policy], table: ExitTable) -> float | None:
    if table.cost_macs is None or table.head_macs is None:
        return None
    paid = 0.0
    for part, policy in zip(parts, deciding):
        costs = policy_costs(policy, part.table, cost="cost_macs")
        paid += costs[np.arange(len(costs)), replay(policy, part.table)].sum()
    return float(paid / exit_costs(table, "cost_macs")[:, -1].sum())


def _curve(parts: list[_Part], table: ExitTable) -> np.ndarray:
    """Depth and WER for each share of full depth that every part can meet; equal choices once."""
    limits = [budget_cost(float(share), table) for share in SHARES]
    chosen = [tuple(chosen_within(part.grid, limit) for part in parts) for limit in limits]
    kept = [one for one in dict.fromkeys(chosen) if None not in one]
    points = [
        point_of(_choices(parts, [p.grid.policies[i] for p, i in zip(parts, one)], table.n_utterances), table)
        for one in kept
    ]
    return np.array(points).reshape(-1, 2)


def point_of(exit_index: np.ndarray, table: ExitTable) -> tuple[float, float]:
    """Mean depth and WER of chosen exits.

    Arguments
    ---------
    exit_index : np.ndarray of shape (n_utterances,)
        From 0.
    table : ExitTable
        What was recorded.

    Returns
    -------
    tuple of float
        (duration-weighted mean depth in layers, pooled WER in percent)
    """
    chosen = np.arange(table.n_utterances), exit_index
    depth = mean_cost(table.cost_layers[chosen], table.duration_s)
    return depth, float(100.0 * table.errors[chosen].sum() / table.n_ref_words.sum())


def refuse_below_oracle(points: np.ndarray, oracle: Frontier, *, policy: str, set_name: str) -> None:
    """Refuse numbers that cannot be: better than the frontier of all that emits one exit's transcript.

    Arguments
    ---------
    points : np.ndarray of shape (n_points, 2)
        Depth and WER.
    oracle : Frontier
        Oracle C of the same table.
    policy, set_name : str
        For the sentence.

    Raises
    ------
    ValueError
        Where a point lies more than 1e-6 below.
    """
    for depth, wer in points:
        if wer < oracle.at(float(depth)) - 1e-6:
            raise ValueError(
                f"{policy} on {set_name} has a WER of {wer:.4f} % at {depth:.4f} layers, below the oracle's "
                f"{oracle.at(float(depth)):.4f} %, which no choice of exits can reach: the exit table is broken"
            )
