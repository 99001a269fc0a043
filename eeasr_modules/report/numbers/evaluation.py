"""What a policy does on a test set, its open parts calibrated elsewhere, in the costs that a report can speak of.

Costs are depth, MACs and seconds; these come from `metadata["cost_profile"]`, measured on one machine:
`{"machine": "...", "time_ms": {"front_end": 30.0, "layer": 3.9, "head": 0.02}}`, milliseconds per second of audio
(`layer` may be a list). A dev table calibrates; without one, speakers are dealt into folds and each is judged by what
was chosen on the others; below `MIN_SPEAKERS` speakers the evaluated set itself calibrates, which flatters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eeasr_modules.exits import (
    Curve,
    ExitTable,
    Frontier,
    budget_cost,
    check_against,
    decide,
    exit_costs,
    mean_cost,
    parse_policy,
    policy_costs,
    policy_curve,
)
from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tables.table import is_derived, speaker_folds
from eeasr_modules.exits.tuning.calibration import best_within
from eeasr_modules.exits.tuning.replay import RecordedScores, models_of, scored, with_models


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
    `policies`: open ones are filled in in all ways. `n_inner_folds`: folds of speakers where something has to be
    fitted.
    """
    with_cost, column = priced(table, cost)
    options = {"cost": column, "n_folds": n_inner_folds}
    curves = {str(policy): policy_curve(policy, with_cost, **options).frontier() for policy in policies}
    return {text: Curve(one.policies, one.cost / COSTS[cost].scale, one.wer) for text, one in curves.items()}


def budget_limit(budget: float, table: ExitTable, *, cost: str = "depth") -> float:
    """What a budget allows, in the unit shown."""
    with_cost, column = priced(table, cost)
    return budget_cost(budget, with_cost, cost=column) / COSTS[cost].scale


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
    meet the first budget the reason. `table`: the set; never the calibration data. `dev_grids`: of `grids` on dev;
    needed where there is a dev. `calibrated`: policies (or their texts, where nothing is fitted) already calibrated on
    dev to the first budget, by the text that was asked for.
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
            point = mean_cost(paid, dev.duration_s), dev.wer_of(chosen.emitted)
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
        whole = _Part(np.arange(self.table.n_utterances), self.table, Curve((), np.empty(0), np.empty(0)))
        parts = self.parts if len(policies) == len(self.parts) else [whole]
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


def _paid(policy: Policy, table: ExitTable, exit_index: np.ndarray, cost: str) -> np.ndarray:
    with_cost, column = priced(table, cost)
    costs = policy_costs(policy, with_cost, cost=column)
    return costs[np.arange(len(costs)), exit_index] / COSTS[cost].scale


def point_of(exit_index: np.ndarray, table: ExitTable, *, emitted: np.ndarray | None = None) -> tuple[float, float]:
    """Duration-weighted mean depth in layers of chosen exits, and pooled WER in percent of them or of those emitted."""
    chosen = np.arange(table.n_utterances), exit_index
    wer = table.wer_of(exit_index if emitted is None else emitted)
    return mean_cost(table.cost_layers[chosen], table.duration_s), wer


def curve_points(outcome: Outcome, table: ExitTable, *, cost: str) -> np.ndarray:
    """The line that a policy draws on a set; shape (n_points, 2), mean cost in the unit shown, and WER in percent."""
    points = [(mean_cost(one.paid[cost], table.duration_s), table.wer_of(one.emitted)) for one in outcome.curve]
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
