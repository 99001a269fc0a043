"""Calibration: fill in what a policy left open, on dev, to a budget, to a WER, or to a WER above the last exit's.

The rule for a budget: among the thresholds (and windows, where those are open) whose mean cost on dev is within it, the
lowest WER, then the lowest cost. The rule for a WER: the lowest cost within it, then the lowest WER. Neither promises
anything about other data. For tables without a dev set there is cross-fitting: speakers are dealt into folds, and
everything that decides a fold's utterances comes from the other folds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eeasr_modules.exits.policies.combine import Between, leaves_choice
from eeasr_modules.exits.policies.protocol import Policy, reach_of
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds
from eeasr_modules.exits.tuning.curve import Curve, policy_curve
from eeasr_modules.exits.tuning.replay import (
    choice_point,
    decide,
    exit_costs,
    mean_cost,
    needed_signal,
    policy_costs,
    replay,
)
from eeasr_modules.exits.tuning.watches import DriftReference


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A policy with nothing open, and how it was chosen."""

    policy: Policy  # ready to decide; `static(layer)` where everybody on dev leaves at one exit
    open_policy: Policy  # as it was asked for
    rule: str  # such as "exit_budget 0.75"; "as given" where nothing was open
    cost: str  # what `dev_cost` counts: "cost_layers" or "cost_macs"
    # dev_cost, dev_wer: mean cost, and WER in percent, on the calibration data
    dev_cost: float
    dev_wer: float
    grid: Curve  # every threshold that was tried; with a window, what any budget buys of all windows and thresholds
    calibrated_on: dict[str, Any]  # set_name, manifest_digest, model_digest, n_utterances of the calibration data
    # what the calibration data looked like under the policy, for a watch over live speech
    drift: DriftReference | None = None
    # of a certificate, or of why there is none: "certified", "statement", "assumptions", eps, delta, clip, tail and
    # more, as `exits.tuning.risk` writes it; None where nothing was to be promised
    promise: dict[str, Any] | None = None


def choose(
    dev_table: ExitTable,
    open_policy: Policy,
    *,
    budget: float | None = None,
    wer: float | None = None,
    excess: float | None = None,
    cost: str = "cost_layers",
    n_thresholds: int = 200,
) -> Calibrated:
    """Calibrate a policy on dev.

    ValueError when the budget or WER cannot be met on dev; the sentence says what can.

    Arguments
    ---------
    dev_table : ExitTable
        Calibration data; never what results are reported on.
    open_policy : policy
        With one open threshold, an open window, or both. With nothing open it is returned as it is.
    budget : float or None
        Largest mean cost: up to 1 a share of the last exit's, above 1 layers (for `cost_layers` only).
    wer : float or None
        Largest WER in percent.
    excess : float or None
        Most WER points above the last exit's. Exactly one of budget, wer and excess must be given.

    Example
    -------
    >>> from eeasr_modules.exits.policies.text import parse_policy
    >>> table = ExitTable.from_hypotheses([["a c", "a b"], ["d e", "d e"]], ["a b", "d e"],
    ...                                   utt_ids=["u", "v"], exit_layers=[2, 4],
    ...                                   duration_s=[1, 1], n_frames=[50, 50],
    ...                                   signals={"entropy": [[0.8, 0.1], [0.2, 0.1]]})
    >>> calibrated = choose(table, parse_policy("entropy"), budget=0.75)
    >>> print(calibrated.policy, calibrated.dev_cost, calibrated.dev_wer)
    entropy(0.5) 3.0 0.0
    """
    if sum(one is not None for one in (budget, wer, excess)) != 1:
        given = f"budget {budget}, wer {wer} and excess {excess}"
        raise ValueError(f"give exactly one of budget, wer and excess to calibrate, got {given}")
    curve = policy_curve(open_policy, dev_table, cost=cost, n_thresholds=n_thresholds)
    if not leaves_choice(open_policy):
        best, rule = 0, "as given"
    elif budget is not None:
        limit = budget_cost(budget, dev_table, cost=cost)
        best, rule = best_within_budget(curve, limit, open_policy, budget=budget), f"exit_budget {budget:g}"
    elif wer is not None:
        best, rule = within_wer(curve, wer, open_policy), f"exit_wer {wer:g}"
    else:
        best, rule = within_wer(curve, dev_table.wer_per_exit[-1] + excess, open_policy), f"exit_excess {excess:g}"
    policy, point = curve.policies[best], (float(curve.cost[best]), float(curve.wer[best]))
    if leaves_choice(open_policy) and (plain := _named_plainly(policy, dev_table)) is not policy:
        policy = plain
        point = choice_point(policy, dev_table, cost=cost)  # no head is read to decide what is decided already
    return Calibrated(
        policy=policy,
        open_policy=open_policy,
        rule=rule,
        cost=cost,
        dev_cost=point[0],
        dev_wer=point[1],
        grid=curve.frontier() if isinstance(open_policy, Between) else curve,
        calibrated_on={
            "set_name": dev_table.metadata.get("set_name"),
            "manifest_digest": dev_table.metadata.get("manifest_digest"),
            "model_digest": dev_table.metadata.get("model_digest"),
            "n_utterances": dev_table.n_utterances,
        },
    )


def _named_plainly(policy: Policy, dev_table: ExitTable) -> Policy:
    """`static(layer)` where everybody on dev leaves at one exit: whatever rule it was, it decided nothing.

    A rule that emits an earlier exit than it stops at stays what it is: it says something else than `static`.
    """
    if reach_of(policy):
        return policy
    chosen = np.unique(replay(policy, dev_table))
    return Static(int(dev_table.exit_layers[chosen[0]])) if len(chosen) == 1 else policy


def budget_cost(budget: float, table: ExitTable, *, cost: str = "cost_layers") -> float:
    """What a budget allows, as a `mean_cost`: up to 1 a share of the last exit's cost, above 1 layers.

    ValueError when the budget is not above 0, above the encoder's layers, or in layers where the cost is MACs.
    """
    if not math.isfinite(budget) or budget <= 0:
        raise ValueError(f"exit_budget must be above 0 (to 1 a share of full cost, above 1 layers), got {budget}")
    full = mean_cost(exit_costs(table, cost)[:, -1], table.duration_s)
    if budget > 1 and cost != "cost_layers":
        raise ValueError(f"exit_budget above 1 counts layers; for {cost} give a share up to 1, got {budget:g}")
    if budget > 1 and budget > table.n_layers:
        raise ValueError(f"exit_budget must not exceed the encoder's {table.n_layers} layers, got {budget:g}")
    return allowed_cost(budget, full)


def refuse_same_set(calibrated_on: dict[str, Any], table: ExitTable) -> None:
    """Refuse to report a calibrated policy on the data that it was calibrated on.

    ValueError when both have the same manifest digest or, where one of them has none, the same set name.
    """
    for key in ("manifest_digest", "set_name"):
        ours, theirs = calibrated_on.get(key), table.metadata.get(key)
        if ours is not None and theirs is not None:
            if ours == theirs:
                raise ValueError(
                    f"the policy was calibrated on {calibrated_on.get('set_name')!r}, so results on it would "
                    f"flatter; report on another set"
                )
            return


def allowed_cost(budget: float, full: float) -> float:
    """A budget as a mean cost: up to 1 a share of full cost, above 1 the cost itself.

    Example
    -------
    >>> allowed_cost(0.5, 12), allowed_cost(1, 12), allowed_cost(8, 12)
    (6.0, 12.0, 8.0)
    """
    return float(budget * full if budget <= 1 else budget)


def best_within(curve: Curve, limit: float) -> int | None:
    """The rule for a budget, wherever one is kept: lowest WER within it, then lowest cost.

    Returns int or None: position in the curve; None where nothing is that cheap.
    """
    cost, wer = np.asarray(curve.cost), np.asarray(curve.wer)
    # sums in another order must not put a policy that costs exactly the budget outside it
    rows = np.flatnonzero(cost <= limit * (1 + 1e-9))
    return int(rows[np.lexsort((cost[rows], wer[rows]))[0]]) if len(rows) else None


def best_within_budget(curve: Curve, limit: float, policy: Policy, *, budget: float) -> int:
    """Which point a budget buys: lowest WER within it, then lowest cost; position in the curve.

    ValueError when nothing is that cheap.
    """
    best = best_within(curve, limit)
    if best is None:
        raise ValueError(
            f"exit_budget {budget:g} (a mean cost of {limit:g}) cannot be met by {policy} on dev: "
            f"the cheapest it reaches is {curve.cost.min():g}; give a larger budget or an earlier exit"
        )
    return best


def within_wer(curve: Curve, wer: float, policy: Policy) -> int:
    """Which point has the lowest cost within a WER in percent, then the lowest WER; a `ValueError` where none has."""
    rows = np.flatnonzero(curve.wer <= wer * (1 + 1e-9))
    if len(rows) == 0:
        raise ValueError(
            f"exit_wer {wer:g} cannot be met by {policy} on dev: the lowest WER it reaches is {curve.wer.min():.2f} %"
        )
    return int(rows[np.lexsort((curve.wer[rows], curve.cost[rows]))[0]])


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Choices of a cross-fitted policy, for each budget."""

    budgets: tuple[float, ...]  # what was allowed
    fold: np.ndarray  # (n_utterances,), fold of each utterance, from 0
    policies: tuple[tuple[Policy, ...], ...]  # for each budget, the policy that decided each fold
    exit_index: np.ndarray  # (n_budgets, n_utterances), exits at which it was decided, from 0: what is paid for
    emitted: np.ndarray  # (n_budgets, n_utterances), exits whose transcripts came out, from 0
    cost: np.ndarray  # (n_budgets,), mean cost of these choices
    wer: np.ndarray  # (n_budgets,), their pooled WER in percent


def cross_fit(
    table: ExitTable,
    open_policy: Policy,
    *,
    budgets: Sequence[float],
    cost: str = "cost_layers",
    n_folds: int = 10,
    n_inner_folds: int = 5,
    n_thresholds: int = 400,
    seed: int = 0,
    on_fold: Callable[[int, int], None] | None = None,
) -> CrossFit:
    """Choices for all utterances of a table, by policies of other speakers.

    ValueError when a budget cannot be met on some folds.

    Arguments
    ---------
    table : ExitTable
        Fitted, calibrated and judged on, but never on the same speakers.
    n_inner_folds : int
        Folds, within the other folds, whose out-of-fold scores the threshold of a fitted policy is chosen by.
    on_fold : callable or None
        Called with how many folds are done and how many there are, first with 0.

    Example
    -------
    >>> from eeasr_modules.exits.policies.text import parse_policy
    >>> table = ExitTable.from_hypotheses([["a c", "a b"], ["d e", "d e"]], ["a b", "d e"],
    ...                                   utt_ids=["u", "v"], speakers=["x", "y"], exit_layers=[2, 4],
    ...                                   duration_s=[1, 1], n_frames=[50, 50])
    >>> cross_fit(table, parse_policy("static"), budgets=[2, 4]).cost
    array([2., 3.])
    """
    fold = speaker_folds(table, n_folds, seed=seed)
    for name in open_policy.needs:
        needed_signal(
            table, name, policy=open_policy
        )  # derived ones are then kept, and the folds take their part of them
    exit_index = np.empty((len(budgets), table.n_utterances), dtype=np.int64)
    emitted, paid = np.empty_like(exit_index), np.empty(exit_index.shape)
    policies: list[list[Policy]] = [[] for _ in budgets]
    for i in range(fold.max() + 1):
        if on_fold is not None:
            on_fold(i, int(fold.max()) + 1)
        others, own = table.select(fold != i), table.select(fold == i)
        curve = policy_curve(open_policy, others, cost=cost, n_thresholds=n_thresholds, n_folds=n_inner_folds)
        for b, budget in enumerate(budgets):
            limit = budget_cost(budget, others, cost=cost)
            policy = curve.policies[best_within_budget(curve, limit, open_policy, budget=budget)]
            chosen = decide(policy, own)
            exit_index[b, fold == i], emitted[b, fold == i] = chosen.decided, chosen.emitted
            paid[b, fold == i] = policy_costs(policy, own, cost=cost)[np.arange(own.n_utterances), chosen.decided]
            policies[b].append(policy)
    rows = np.arange(table.n_utterances)
    return CrossFit(
        budgets=tuple(float(budget) for budget in budgets),
        fold=fold,
        policies=tuple(tuple(per_fold) for per_fold in policies),
        exit_index=exit_index,
        emitted=emitted,
        cost=np.array([mean_cost(one, table.duration_s) for one in paid]),
        wer=np.array([100.0 * table.errors[rows, one].sum() / table.n_ref_words.sum() for one in emitted]),
    )
