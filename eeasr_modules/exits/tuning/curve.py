"""Curves: a policy's cost and WER over everything that was left open in it, thresholds and windows.

Where a policy stops at the first exit whose score is at most a threshold, no threshold is replayed: as it rises, an
utterance moves from the ceiling exit down along the running minimum of its scores, and sums over thresholds are sums
over those moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits.policies.combine import Between, check_against, open_leaf, parts_of, with_threshold
from eeasr_modules.exits.policies.protocol import Policy, exits_back, reach_of
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.replay import (
    choice_point,
    mean_cost,
    models_of,
    needed_signal,
    needed_signals,
    policy_costs,
    replay,
    scored,
    with_models,
)


def swept_sums(passed_at: np.ndarray, values: np.ndarray, *, floor: int, ceiling: int, n_thresholds: int) -> np.ndarray:
    """Sum over utterances of a number at the exit chosen, for every threshold; shape (n_thresholds,).

    Arguments
    ---------
    passed_at : np.ndarray of shape (n_utterances, n_exits)
        Position, among the rising thresholds, of the first that is at least the score (`n_thresholds`: none).
    values : np.ndarray of shape (n_utterances, n_exits)
        What to sum, such as errors or costs.
    floor, ceiling : int
        First and last exit that may be chosen, from 0.

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
    """Thresholds worth trying on a table: what the policy's own `thresholds` says.

    Returns np.ndarray of shape (at most n_thresholds + 2,): rising. Empty where nothing but a window is open.

    Arguments
    ---------
    policy : policy
        With one open threshold, fitted if it is to be. For `static` the layers of the exits are returned.
    n_thresholds : int
        Most to keep, the two ends not counted.
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

    Thresholds come from the table's own values: on test data this shows what the signal could give, while a
    choice made on dev and reported on test is `calibration.choose`. What has to be fitted is fitted on the table;
    the points are then those of cross-fitted scores (`fitting.scored`), the policies carry the model of all.

    Returns Curve: by rising threshold; every window (wider ones first) within every threshold.
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
    layers, points = table.exit_layers.tolist(), []
    for first in range(0, len(filled), n_windows):
        next_stop, back = _next_stop(filled[first].policy, table)
        for one in filled[first : first + n_windows]:
            floor, ceiling = layers.index(one.floor_layer), layers.index(one.ceiling_layer)
            points.append(_point(one, table, np.minimum(next_stop[:, floor], ceiling), back, cost))
    return np.array(points)


def _point(policy: Policy, table: ExitTable, decided: np.ndarray, back: np.ndarray, cost: str) -> tuple[float, float]:
    rows = np.arange(table.n_utterances)
    costs = policy_costs(policy, table, cost=cost)[rows, decided]
    wer = 100.0 * table.errors[rows, decided - back[rows, decided]].sum() / table.n_ref_words.sum()
    return mean_cost(costs, table.duration_s), float(wer)


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
