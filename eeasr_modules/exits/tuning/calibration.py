"""Calibration: fill in what a policy left open, on dev, to a budget, to a WER, or to a WER above the last exit's.

A *curve* is a policy's cost and WER over all that was left open in it. Where a policy stops at the first exit whose
score is at most a threshold, no threshold is replayed: as it rises, an utterance moves from the ceiling exit down along
the running minimum of its scores, and sums over thresholds are sums over those moves.

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

from eeasr_modules.exits.policies.combine import (
    Between,
    check_against,
    leaves_choice,
    open_leaf,
    parts_of,
    with_threshold,
)
from eeasr_modules.exits.policies.protocol import Policy, exits_back, reach_of
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds
from eeasr_modules.exits.tuning.replay import (
    choice_point,
    decide,
    exit_costs,
    mean_cost,
    models_of,
    needed_signal,
    needed_signals,
    policy_costs,
    replay,
    scored,
    with_models,
)
from eeasr_modules.exits.tuning.watches import DriftReference


def swept_sums(passed_at: np.ndarray, values: np.ndarray, *, floor: int, ceiling: int, n_thresholds: int) -> np.ndarray:
    """Sum over utterances of a number at the exit chosen, for every threshold; shape (n_thresholds,).

    `passed_at` (n_utterances, n_exits) is the position, among the rising thresholds, of the first that is at least the
    score (`n_thresholds`: none); `values`, of that shape, are summed; `floor` and `ceiling` are the first and the last
    exit that may be chosen, from 0.

    Example
    -------
    >>> swept_sums(np.array([[1, 0, 2]]), np.array([[5.0, 3.0, 1.0]]), floor=0, ceiling=2, n_thresholds=2)
    array([3., 5.])
    """
    least = np.minimum.accumulate(passed_at[:, floor:ceiling], axis=1)
    # added[t]: what changes for the utterances that move when the threshold reaches t
    added = np.zeros(n_thresholds + 1)
    held = values[:, ceiling].astype(np.float64)
    for i in reversed(range(least.shape[1])):
        # an exit is chosen only from where it is passed until an earlier one is passed at the same threshold
        moves = np.ones(len(least), dtype=bool) if i == 0 else least[:, i] < least[:, i - 1]
        here = values[moves, floor + i]
        added += np.bincount(least[moves, i], here - held[moves], minlength=n_thresholds + 1)
        held[moves] = here
    return values[:, ceiling].sum() + np.cumsum(added[:-1])


@dataclass(frozen=True, eq=False)
class Curve:
    """Points of a policy, one for each way of filling in what it left open."""

    policies: Sequence  # filled in
    cost: np.ndarray  # (n_points,), mean cost
    wer: np.ndarray  # (n_points,), in percent

    def take(self, index: np.ndarray) -> "Curve":
        """Some of the points, in the order given."""
        return Curve(tuple(self.policies[i] for i in index), self.cost[index], self.wer[index])

    def frontier(self) -> "Curve":
        """The points that no other beats in both cost and WER, by rising cost."""
        order = np.lexsort((self.wer, self.cost))
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], self.wer[order][:-1]]))
        return self.take(order[self.wer[order] < best_before])


def thresholds_of(policy: Policy, table: ExitTable, *, n_thresholds: int = 200) -> np.ndarray:
    """Thresholds worth trying on a table, as the policy's own `thresholds` gives them: rising, at most two more than
    asked for. Empty where nothing but a window is open; for `static` the layers of the exits.
    """
    policy, table, _ = scored(policy, table)
    leaf = open_leaf(policy)
    return np.empty(0) if leaf is None else leaf.thresholds(_signals_of(leaf, table), n_thresholds)


def _signals_of(leaf: Policy, table: ExitTable) -> dict[str, np.ndarray]:
    return {name: needed_signal(table, name, policy=leaf) for name in leaf.needs}


def policy_curve(
    policy: Policy, table: ExitTable, *, cost: str = "cost_layers", n_thresholds: int = 200, n_folds: int = 10
) -> Curve:
    """Cost and WER of an open policy over its thresholds, and over its windows where those are open too.

    By rising threshold; every window (wider ones first) within every threshold. Thresholds come from the table's own
    values: on test data this shows what the signal could give. What has to be fitted is fitted on the table; the points
    are then those of cross-fitted scores (`replay.scored`), the policies carry the model of all.
    """
    check_against(policy, table.exit_layers)
    _refuse_inner_windows(policy)
    recorded, table, models = scored(policy, table, n_folds=n_folds)
    thresholds = thresholds_of(recorded, table, n_thresholds=n_thresholds)
    policy = with_models(policy, models)
    filled = [with_threshold(policy, t) for t in thresholds] if len(thresholds) else [policy]
    has_open_window = isinstance(policy, Between) and policy.has_open_window
    if has_open_window:
        layers = [int(layer) for layer in table.exit_layers]
        windows = [(f, c) for f in range(len(layers)) for c in reversed(range(f, len(layers)))]
        filled = [Between(layers[f], layers[c], one.policy) for one in filled for f, c in windows]
    points = _swept_points(recorded, filled, thresholds, table, cost)
    if points is None:
        stand_ins = [with_models(one, models_of(recorded)) for one in filled]
        points = _replayed_points(stand_ins, table, cost, n_windows=len(windows) if has_open_window else 1)
    return Curve(tuple(filled), points[:, 0], points[:, 1])


def _refuse_inner_windows(policy: Policy) -> None:
    for part in parts_of(policy):
        if isinstance(part, Between) and part.has_open_window:
            raise ValueError(f"only an outermost between can have its layers calibrated, got {policy}")
        _refuse_inner_windows(part)


def _swept_points(
    policy: Policy, filled: list[Policy], thresholds: np.ndarray, table: ExitTable, cost: str
) -> np.ndarray | None:
    """(cost, WER) of every policy, (n, 2), all thresholds at once; None where the policy is not one of one score."""
    leaf = policy.policy if isinstance(policy, Between) else policy
    has_scores = len(thresholds) and not reach_of(leaf) and leaf is open_leaf(policy)
    scores = leaf.stopping_scores(_signals_of(leaf, table)) if has_scores else None
    if scores is None:
        return None
    _check_scores(leaf, scores, thresholds, table)
    n, n_windows = len(thresholds), len(filled) // len(thresholds)
    sign = 1 if leaf.low_stops else -1
    passed_at = np.searchsorted(np.sort(sign * thresholds), sign * scores, side="left")
    points = np.empty((n, n_windows, 2))
    errors, layers = table.errors, table.exit_layers.tolist()
    for i, one in enumerate(filled[:n_windows]):
        window = (0, table.n_exits - 1)
        if isinstance(one, Between):
            window = layers.index(one.floor_layer), layers.index(one.ceiling_layer)
        bounds = {"floor": window[0], "ceiling": window[1], "n_thresholds": n}
        paid = swept_sums(passed_at, policy_costs(one, table, cost=cost), **bounds) / table.duration_s.sum()
        wrong = swept_sums(passed_at, errors, **bounds) * (100.0 / table.n_ref_words.sum())
        points[:, i] = np.stack([paid, wrong], axis=1)[::sign]
    return points.reshape(-1, 2)


def _check_scores(leaf: Policy, scores: np.ndarray, thresholds: np.ndarray, table: ExitTable) -> None:
    """Refuse scores that do not belong to the policy's own `step`, by replaying one threshold of the middle."""
    threshold = thresholds[len(thresholds) // 2]
    stops = scores <= threshold if leaf.low_stops else scores >= threshold
    stops[:, -1] = True
    wrong = np.flatnonzero(stops.argmax(axis=1) != replay(leaf.with_threshold(threshold), table))
    if len(wrong):
        raise ValueError(
            f"stopping_scores of {leaf} must stop where its step does, but at threshold {threshold:g} they differ for "
            f"{len(wrong)} of {len(scores)} utterances: mend one of the two in its class"
        )


def _replayed_points(filled: list[Policy], table: ExitTable, cost: str, *, n_windows: int) -> np.ndarray:
    """(cost, WER) of every policy, (n, 2); windows of one threshold share what the inner policy says."""
    if n_windows == 1:
        return np.array([choice_point(one, table, cost=cost) for one in filled])
    layers, rows, points = table.exit_layers.tolist(), np.arange(table.n_utterances), []
    for first in range(0, len(filled), n_windows):
        next_stop, back = _next_stop(filled[first].policy, table)
        for one in filled[first : first + n_windows]:
            floor, ceiling = layers.index(one.floor_layer), layers.index(one.ceiling_layer)
            decided = np.minimum(next_stop[:, floor], ceiling)
            costs = policy_costs(one, table, cost=cost)[rows, decided]
            points.append((mean_cost(costs, table.duration_s), table.wer_of(decided - back[rows, decided])))
    return np.array(points)


def _next_stop(policy: Policy, table: ExitTable) -> tuple[np.ndarray, np.ndarray]:
    """First exit at or after each exit where the policy would stop who is still there, and how many exits back the
    transcript of who is stopped at each exit comes from; both (n, exits).
    """
    signals = needed_signals(policy, table)
    state = policy.start(table.n_utterances)
    last = table.n_exits - 1
    stops = np.full((table.n_utterances, table.n_exits), last)
    back = np.zeros_like(stops)
    for k in range(table.n_exits if reach_of(policy) else last):
        stop, state = policy.step({name: values[:, k] for name, values in signals.items()}, state)
        stops[stop, k] = k
        back[:, k] = exits_back(policy, state, k)
    return np.minimum.accumulate(stops[:, ::-1], axis=1)[:, ::-1], back


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

    ValueError when the budget or WER cannot be met on dev; the sentence says what can. `dev_table`: calibration data;
    never what results are reported on. `open_policy`: with one open threshold, an open window, or both. With nothing
    open it is returned as it is. `budget`: largest mean cost: up to 1 a share of the last exit's, above 1 layers (for
    `cost_layers` only). `wer`: largest WER in percent. `excess`: most WER points above the last exit's. Exactly one of
    budget, wer and excess must be given.

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
        calibrated_on=described_set(dev_table),
    )


def described_set(table: ExitTable) -> dict[str, Any]:
    """What is kept of calibration data: set_name, manifest_digest, model_digest, n_utterances."""
    kept = {key: table.metadata.get(key) for key in ("set_name", "manifest_digest", "model_digest")}
    return {**kept, "n_utterances": table.n_utterances}


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
    """The rule for a budget, wherever one is kept: position in the curve of the lowest WER within it, then of the
    lowest cost; None where nothing is that cheap.
    """
    cost, wer = np.asarray(curve.cost), np.asarray(curve.wer)
    # sums in another order must not put a policy that costs exactly the budget outside it
    rows = np.flatnonzero(cost <= limit * (1 + 1e-9))
    return int(rows[np.lexsort((cost[rows], wer[rows]))[0]]) if len(rows) else None


def best_within_budget(curve: Curve, limit: float, policy: Policy, *, budget: float) -> int:
    """`best_within`, or a ValueError where nothing is that cheap."""
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

    The threshold of a fitted policy is chosen by out-of-fold scores of `n_inner_folds` within the other folds.
    `on_fold` is called with how many folds are done and how many there are, first with 0. ValueError when a budget
    cannot be met on some folds.

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
        needed_signal(table, name, policy=open_policy)  # a derived one is kept then, and folds take their part of it
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
    return CrossFit(
        budgets=tuple(float(budget) for budget in budgets),
        fold=fold,
        policies=tuple(tuple(per_fold) for per_fold in policies),
        exit_index=exit_index,
        emitted=emitted,
        cost=np.array([mean_cost(one, table.duration_s) for one in paid]),
        wer=np.array([table.wer_of(one) for one in emitted]),
    )
