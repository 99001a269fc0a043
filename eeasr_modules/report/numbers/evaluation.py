"""What a policy does on a test set, its open parts calibrated elsewhere.

Policies against each other on the same utterances, and policies under a promise about risk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eeasr_modules.exits import (
    Curve,
    ExitTable,
    Frontier,
    check_against,
    decide,
    mean_cost,
    parse_policy,
    policy_costs,
)
from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS, compare_choices, holm
from eeasr_modules.exits.policies.combine import Between
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tuning.calibration import best_within
from eeasr_modules.exits.tuning.replay import RecordedScores, models_of, scored, with_models
from eeasr_modules.exits.tuning.risk import RiskTarget, control_risk, risk_outcome
from eeasr_modules.report.numbers.budgets import COSTS, N_HALVES, budget_limit, folds_of, grids, priced, sides

N_INNER_FOLDS = 5  # of fits inside a cross-fit, which is costly enough
AS_GIVEN = "as given"
SHARES = np.linspace(0.02, 1.0, 50)


@dataclass(frozen=True)
class Rules:
    """How every policy of a report is chosen and charged."""

    budgets: tuple[float, ...]  # the one that the report stresses first. Up to 1 a share of full cost, above 1 layers
    cost: str = "depth"  # what budgets count, a key of `COSTS`
    costs: tuple[str, ...] = ("depth",)  # all costs to be reported; `cost` among them
    n_folds: int = N_HALVES  # of a cross-fit, where there is no dev


@dataclass(frozen=True, eq=False)
class Choice:
    """What a policy chose for one budget."""

    budget: float | None  # as asked for; None for a policy with nothing open
    calibrated: tuple[str, ...]  # texts that decided: one, or one per fold
    # (mean cost in the unit shown, WER in percent) on the calibration data; of a cross-fit the folds' means
    calibration_point: tuple[float, float]
    exit_index: np.ndarray  # (n_utterances,), exits at which it was decided, from 0: what is charged
    emitted: np.ndarray  # (n_utterances,), exits whose transcripts came out, from 0: what is right or wrong
    # (n_utterances,), by cost, in the unit shown times seconds, every head that was read included
    paid: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A policy on one set, at each budget and over all costs."""

    policy: str  # text as it was asked for
    # name of the dev set, of the cross-fit, `AS_GIVEN`, or None where the evaluated set calibrated
    calibrated_on: str | None
    choices: tuple[Choice, ...]  # for the stressed budget first, then for the others that can be met
    curve: tuple[Choice, ...]  # for each of `SHARES`, by rising budget; equal choices once


@dataclass(frozen=True, eq=False)
class _Part:
    """Utterances that one calibration decides: their rows, their table, and what calibrated them."""

    rows: np.ndarray
    table: ExitTable
    grid: Curve


class _UnmetError(ValueError):
    """The budget is below all that a policy can do."""


def evaluate(
    policies: Sequence[Policy],
    table: ExitTable,
    *,
    dev: ExitTable | None,
    dev_grids: Mapping[str, Curve] | None,
    rules: Rules,
    calibrated: Mapping[str, Policy | str] | None = None,
) -> tuple[dict[str, Outcome], dict[str, str]]:
    """All policies on one set.

    Returns tuple of (dict of str to Outcome, dict of str to str): by the policy's text; and for policies that cannot
    meet the first budget the reason.

    Arguments
    ---------
    table : ExitTable
        The set; never the calibration data.
    dev_grids : mapping of str to Curve, or None
        Of `grids` on dev; needed where there is a dev.
    calibrated : mapping of str to policy or str, or None
        Policies (or their texts, where nothing is fitted) already calibrated on dev to the first budget, by the
        text that was asked for.
    """
    halves, calibrated_on = sides(table, dev, n_folds=rules.n_folds)
    outcomes, unmet = {}, {}
    for policy in policies:
        check_against(policy, table.exit_layers)
        text, closed = str(policy), (calibrated or {}).get(str(policy))
        source = calibrated_on if policy.is_open and (dev is not None or closed is None) else AS_GIVEN
        if dev is None and policy.is_open:
            parts = [
                _Part(
                    one.rows,
                    one.table,
                    grids([policy], one.calibrating, cost=rules.cost, n_inner_folds=N_INNER_FOLDS)[text],
                )
                for one in halves
            ]
        else:
            everyone = np.arange(table.n_utterances)
            grid = dev_grids[text] if dev is not None else grids([policy], table, cost=rules.cost)[text]
            parts = [_Part(everyone, table, grid)]
        deciding = _Deciding(policy, table, [_with_scores(part) for part in parts], rules)
        try:
            first = deciding.within(rules.budgets[0]) if closed is None else deciding.as_closed(closed, dev)
        except _UnmetError as err:
            unmet[text] = str(err)
            continue
        outcomes[text] = Outcome(text, source, (first, *deciding.others()), deciding.curve())
    return outcomes, unmet


@dataclass(frozen=True, eq=False)
class _Deciding:
    """A policy on a table, its parts calibrated; makes the choices for any budget."""

    policy: Policy
    table: ExitTable
    parts: list[_Part]
    rules: Rules

    def within(self, budget: float) -> Choice:
        """The choice for a budget; a policy with nothing open is reported wherever it lies."""
        chosen = self._points(budget)
        if None in chosen:
            cheapest = max(part.grid.cost.min() for part in self.parts)
            unit = COSTS[self.rules.cost].unit
            limit = budget_limit(budget, self.table, cost=self.rules.cost)
            raise _UnmetError(
                f"{self.policy} cannot meet the budget of {limit:.4g} {unit} where it is calibrated: "
                f"the cheapest it reaches is {cheapest:.4g}"
            )
        return self._choice(chosen, budget=budget if self.policy.is_open else None)

    def as_closed(self, closed: Policy | str, dev: ExitTable | None) -> Choice:
        """The choice of a policy, or its text, that was calibrated before."""
        policy = parse_policy(closed) if isinstance(closed, str) else closed
        check_against(policy, self.table.exit_layers)
        point = (float("nan"), float("nan"))
        if dev is not None:
            chosen = decide(policy, dev)
            paid = _paid(policy, dev, chosen.decided, self.rules.cost)
            point = mean_cost(paid, dev.duration_s), _wer(chosen.emitted, dev)
        return self._made([policy], point, budget=self.rules.budgets[0])

    def others(self) -> list[Choice]:
        """The choices for the budgets after the first, where they can be met."""
        if not self.policy.is_open:
            return []
        return [self.within(budget) for budget in self.rules.budgets[1:] if None not in self._points(budget)]

    def curve(self) -> tuple[Choice, ...]:
        """The choices for each share of full cost that every part can meet; equal ones once."""
        points = dict.fromkeys(self._points(float(share)) for share in SHARES)
        return tuple(self._choice(one, budget=None) for one in points if None not in one)

    def _points(self, budget: float) -> tuple[int | None, ...]:
        if not self.policy.is_open:
            return (0,) * len(self.parts)
        limit = budget_limit(budget, self.table, cost=self.rules.cost)
        return tuple(best_within(part.grid, limit) for part in self.parts)

    def _choice(self, points: tuple[int, ...], *, budget: float | None) -> Choice:
        policies = [part.grid.policies[i] for part, i in zip(self.parts, points)]
        where = [(part.grid.cost[i], part.grid.wer[i]) for part, i in zip(self.parts, points)]
        cost, wer = np.mean(where, axis=0)
        return self._made(policies, (float(cost), float(wer)), budget=budget)

    def _made(self, policies: Sequence[Policy], point: tuple[float, float], *, budget: float | None) -> Choice:
        exit_index = np.empty(self.table.n_utterances, dtype=np.int64)
        emitted = np.empty_like(exit_index)
        paid = {name: np.empty(self.table.n_utterances) for name in self.rules.costs}
        parts = self.parts if len(policies) == len(self.parts) else [_whole(self.table)]
        for part, policy in zip(parts, policies):
            chosen = decide(policy, part.table)
            exit_index[part.rows], emitted[part.rows] = chosen.decided, chosen.emitted
            for name, costs in paid.items():
                costs[part.rows] = _paid(policy, part.table, exit_index[part.rows], name)
        return Choice(budget, tuple(dict.fromkeys(str(one) for one in policies)), point, exit_index, emitted, paid)


def _with_scores(part: _Part) -> _Part:
    """The same, with what fitted models say worked out once and not for every threshold anew."""
    models = models_of(part.grid.policies[0])
    if not models:
        return part
    _, table, _ = scored(part.grid.policies[0], part.table)
    layers = tuple(int(layer) for layer in table.exit_layers)
    recorded = {name: RecordedScores(name, layers) for name in models}
    policies = tuple(with_models(policy, recorded) for policy in part.grid.policies)
    return _Part(part.rows, table, Curve(policies, part.grid.cost, part.grid.wer))


def _whole(table: ExitTable) -> _Part:
    return _Part(np.arange(table.n_utterances), table, Curve((), np.empty(0), np.empty(0)))


def _paid(policy: Policy, table: ExitTable, exit_index: np.ndarray, cost: str) -> np.ndarray:
    with_cost, column = priced(table, cost)
    costs = policy_costs(policy, with_cost, cost=column)
    return costs[np.arange(len(costs)), exit_index] / COSTS[cost].scale


def _wer(exit_index: np.ndarray, table: ExitTable) -> float:
    return float(100.0 * table.errors[np.arange(table.n_utterances), exit_index].sum() / table.n_ref_words.sum())


def point_of(exit_index: np.ndarray, table: ExitTable, *, emitted: np.ndarray | None = None) -> tuple[float, float]:
    """Duration-weighted mean depth in layers of chosen exits, and pooled WER in percent of them or of those emitted."""
    chosen = np.arange(table.n_utterances), exit_index
    wer = _wer(exit_index if emitted is None else emitted, table)
    return mean_cost(table.cost_layers[chosen], table.duration_s), wer


def curve_points(outcome: Outcome, table: ExitTable, *, cost: str) -> np.ndarray:
    """The line that a policy draws on a set; shape (n_points, 2), mean cost in the unit shown, and WER in percent."""
    points = [(mean_cost(one.paid[cost], table.duration_s), _wer(one.emitted, table)) for one in outcome.curve]
    return np.array(points).reshape(-1, 2)


def refuse_below_oracle(points: np.ndarray, oracle: Frontier, *, policy: str, set_name: str) -> None:
    """Refuse numbers that cannot be: better than the frontier of all that emits one exit's transcript.

    ValueError where a point lies more than 1e-6 below.
    """
    for cost, wer in points:
        if wer < oracle.at(float(cost)) - 1e-6:
            raise ValueError(
                f"{policy} on {set_name} has a WER of {wer:.4f} % at {cost:.4f} layers, below the oracle's "
                f"{oracle.at(float(cost)):.4f} %, which no choice of exits can reach: the exit table is broken"
            )


def compared(
    sets: Mapping[str, tuple[ExitTable, Mapping[str, Outcome]]],
    *,
    chosen: str | None,
    cost: str,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The chosen policy against every other, on every set, for every budget that both meet: `summary.comparisons`.

    "holm_p" is adjusted over the whole list.

    Arguments
    ---------
    chosen : str or None
        The policy that the others are compared with.
    """
    rows = []
    for name, (table, outcomes) in sets.items():
        if chosen not in outcomes:
            continue
        ours = {choice.budget: choice for choice in outcomes[chosen].choices}
        for text, other in outcomes.items():
            for theirs in other.choices if text != chosen else ():
                if theirs.budget in ours:
                    found = _pair(ours[theirs.budget], theirs, table, cost=cost, rng=rng)
                    rows.append({"set": name, "budget": theirs.budget, "policy": chosen, "other": text, **found})
    adjusted = holm([row["bootstrap_p"] for row in rows]) if rows else []
    return [{**row, "holm_p": float(p)} for row, p in zip(rows, adjusted)]


def _pair(ours: Any, theirs: Any, table: ExitTable, *, cost: str, rng: np.random.Generator) -> dict[str, Any]:
    rows = np.arange(table.n_utterances)
    errors = [table.errors[rows, choice.emitted] for choice in (ours, theirs)]
    paid = [mean_cost(choice.paid[cost], table.duration_s) for choice in (ours, theirs)]
    comparison = compare_choices(*errors, n_ref_words=table.n_ref_words, speakers=table.speakers, rng=rng)
    return {**comparison.as_dict(), "cost_difference": paid[0] - paid[1]}


def risk_numbers(
    policies: Sequence[Policy], table: ExitTable, *, dev: ExitTable | None, target: RiskTarget
) -> list[dict[str, Any]]:
    """What each policy saves under a promise about its errors above the last exit's, and how that went on the set.

    Windows are not calibrated here: a guarantee is given for one threshold, so `between(entropy)` stands as
    `entropy`. Without dev, one half of the speakers certifies and the other is what is judged.

    Returns list of dict: of `sets.<name>.risk`.
    """
    certifying, judged = (dev, table) if dev is not None else _halves(table)
    if certifying is None:
        return []
    inner = {str(_without_window(policy)): _without_window(policy) for policy in policies if policy.is_open}
    rows = []
    for text, policy in inner.items():
        if not policy.is_open or text in ("static", "random"):
            continue
        try:
            controlled = control_risk(certifying, policy, target=target)
        except ValueError as err:
            rows.append({"policy": text, "certified": False, "reason": str(err)})
            continue
        scale = {"block_words": controlled.block_words, "tail": controlled.tail, "exits": controlled.exits}
        outcome = risk_outcome(controlled.policy, judged, target=target, **scale).as_dict()
        kept = {key: value for key, value in controlled.as_dict().items() if key not in ("grid", "policy")}
        rows.append({"policy": text, "calibrated": str(controlled.policy), **kept, "outcome": outcome})
    return rows


def _without_window(policy: Policy) -> Policy:
    return policy.policy if isinstance(policy, Between) and policy.has_open_window else policy


def _halves(table: ExitTable) -> tuple[ExitTable | None, ExitTable | None]:
    if len(set(table.speakers)) < MIN_SPEAKERS or "" in table.speakers:
        return None, None
    fold = folds_of(table)
    return table.select(fold == 0), table.select(fold == 1)
