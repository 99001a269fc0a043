"""What a policy does on a test set, its open parts calibrated elsewhere."""

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
    replay,
)
from eeasr_modules.exits.policies import Policy
from eeasr_modules.report.calibrating import chosen_within, grids, sides

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
    halves, calibrated_on = sides(table, dev)
    outcomes, unmet = {}, {}
    for policy in policies:
        check_against(policy, table.exit_layers)
        text, closed = str(policy), (calibrated or {}).get(str(policy))
        source = calibrated_on if policy.is_open and (dev is not None or closed is None) else AS_GIVEN
        if dev is None and policy.is_open:
            parts = [_Part(one.rows, one.table, grids([policy], one.calibrating)[text]) for one in halves]
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
