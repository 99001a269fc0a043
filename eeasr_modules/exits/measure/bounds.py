"""The lines that give a policy its meaning: the static line below it, the oracles above.

All work on plain arrays of shape (n_utterances, n_exits): word errors, and costs as totals per utterance. A
mean cost is summed cost over summed `weights`; with `cost_layers` and seconds that is the duration-weighted
mean depth in layers, with `cost_macs` and seconds MACs per second. WERs are pooled and in percent.

Oracles know the reference. They are optimistic by selection: the minimum of several noisy counts.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Frontier:
    """A convex, non-increasing line of lowest WER by mean cost.

    Arguments
    ---------
    cost : np.ndarray of shape (n_points,)
        Mean costs of the corners, rising.
    wer : np.ndarray of shape (n_points,)
        WER in percent at the corners, falling.
    """

    cost: np.ndarray
    wer: np.ndarray

    def at(self, budget: float | np.ndarray) -> float | np.ndarray:
        """Lowest WER at a mean cost of at most the budget.

        Arguments
        ---------
        budget : float or np.ndarray
            In the unit of `cost`.

        Returns
        -------
        float or np.ndarray
            In percent; nan where nothing is that cheap.
        """
        # a budget that equals the cheapest cost may have been summed in another order
        budgets = np.where(np.isclose(budget, self.cost[0], rtol=1e-9, atol=0.0), self.cost[0], budget)
        line = np.interp(budgets, self.cost, self.wer, left=np.nan)
        return line if np.ndim(budget) else float(line)

    def cost_at(self, wer: float) -> float:
        """Lowest mean cost with at most this WER.

        Arguments
        ---------
        wer : float
            In percent.

        Returns
        -------
        float
            nan where the line never gets that low.
        """
        return float(np.interp(wer, self.wer[::-1], self.cost[::-1], left=np.nan))


def static_line(errors: np.ndarray, costs: np.ndarray, *, n_ref_words: np.ndarray, weights: np.ndarray) -> Frontier:
    """The best that mixing fixed exits at random can do: any policy above it is useless.

    Lower convex hull of (mean cost, WER) of the fixed exits, made non-increasing: where an inner exit has the
    lowest WER, the line is flat beyond it.

    Arguments
    ---------
    errors : np.ndarray of shape (n_utterances, n_exits)
        Word errors.
    costs : np.ndarray of shape (n_utterances, n_exits)
        Cost of each exit.
    n_ref_words : np.ndarray of shape (n_utterances,)
        Reference words.
    weights : np.ndarray of shape (n_utterances,)
        Seconds of audio.

    Example
    -------
    >>> line = static_line(np.array([[4, 3, 0]]), np.array([[2.0, 4.0, 6.0]]), n_ref_words=np.array([4]),
    ...                    weights=np.array([2.0]))
    >>> line.cost, line.wer, line.at(2.0)
    (array([1., 3.]), array([100.,   0.]), 50.0)
    """
    summed = np.sum(errors, axis=0, keepdims=True), np.sum(costs, axis=0, keepdims=True)
    return oracle_c(*summed, n_ref_words=n_ref_words, weights=weights)


def oracle_a(errors: np.ndarray) -> np.ndarray:
    """Earliest exit with the fewest word errors, per utterance.

    Arguments
    ---------
    errors : np.ndarray of shape (n_utterances, n_exits)
        Word errors.

    Returns
    -------
    np.ndarray of shape (n_utterances,)
        `exit_index`, from 0.

    Example
    -------
    >>> oracle_a(np.array([[3, 1, 1], [0, 2, 0]]))
    array([1, 0])
    """
    return np.argmin(errors, axis=1)


def oracle_b(errors: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Cheapest exit that is no worse than the last one, per utterance.

    Arguments
    ---------
    errors : np.ndarray of shape (n_utterances, n_exits)
        Word errors.
    costs : np.ndarray of shape (n_utterances, n_exits)
        Cost of each exit.

    Returns
    -------
    np.ndarray of shape (n_utterances,)
        `exit_index`, from 0.

    Example
    -------
    >>> oracle_b(np.array([[3, 1, 0, 1]]), np.array([[1.0, 2.0, 3.0, 4.0]]))
    array([1])
    """
    return np.argmin(np.where(errors <= errors[:, -1:], costs, np.inf), axis=1)


def oracle_c(errors: np.ndarray, costs: np.ndarray, *, n_ref_words: np.ndarray, weights: np.ndarray) -> Frontier:
    """The frontier that nothing which emits a single exit's transcript may cross.

    The least total errors over all choices of exits at a mean cost of at most b is a multiple-choice
    knapsack; this is its linear-programming bound, exact but for at most one utterance: every
    utterance contributes the segments of its own lower convex hull of (cost, errors), and the steepest of all
    come first (that is argmin of errors + lambda * cost per utterance, for every lambda at once).

    Arguments
    ---------
    errors : np.ndarray of shape (n_utterances, n_exits)
        Word errors.
    costs : np.ndarray of shape (n_utterances, n_exits)
        Cost of each exit.
    n_ref_words : np.ndarray of shape (n_utterances,)
        Reference words.
    weights : np.ndarray of shape (n_utterances,)
        Seconds of audio.

    Returns
    -------
    Frontier
        From everybody's cheapest exit to everybody's best.

    Example
    -------
    >>> frontier = oracle_c(np.array([[2, 0], [1, 1]]), np.array([[1.0, 2.0], [1.0, 2.0]]),
    ...                     n_ref_words=np.array([2, 2]), weights=np.array([1.0, 1.0]))
    >>> frontier.cost, frontier.wer
    (array([1. , 1.5]), array([75., 25.]))
    """
    errors, costs = np.asarray(errors, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if errors.shape != costs.shape:
        raise ValueError(f"errors and costs must have the same shape, got {errors.shape} and {costs.shape}")
    start, added_cost, removed_errors = _hull_segments(errors, costs)
    order = np.argsort(-removed_errors / added_cost, kind="stable")
    rows = np.arange(len(errors))
    cost = costs[rows, start].sum() + np.concatenate([[0.0], np.cumsum(added_cost[order])])
    wrong = errors[rows, start].sum() - np.concatenate([[0.0], np.cumsum(removed_errors[order])])
    return Frontier(cost / np.sum(weights), 100.0 * wrong / np.sum(n_ref_words))


def _hull_segments(errors: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Falling part of each row's lower convex hull.

    Returns the exit it begins at (n,), and for the segments of all rows together what each adds in cost and
    removes in errors, both above 0.
    """
    cheapest = costs == costs.min(axis=1, keepdims=True)
    start = np.argmin(np.where(cheapest, errors, np.inf), axis=1)
    here, rows = start, np.arange(len(errors))
    added, removed = [], []
    for _ in range(errors.shape[1] - 1):
        more = costs[rows] - costs[rows, here, None]
        fewer = errors[rows, here, None] - errors[rows]
        useful = (more > 0) & (fewer > 0)
        slope = np.divide(fewer, more, out=np.zeros_like(more), where=useful)
        following = np.argmax(slope, axis=1)
        on = useful[np.arange(len(rows)), following]
        rows, following = rows[on], following[on]
        added.append(more[on, following])
        removed.append(fewer[on, following])
        here = following
    return start, np.concatenate(added or [np.empty(0)]), np.concatenate(removed or [np.empty(0)])


def gap_closed(budget: float, wer: float, *, static: Frontier, oracle: Frontier) -> float:
    """How much of the way from the static line to the frontier a policy has gone.

    Arguments
    ---------
    budget : float
        The mean cost that the policy used.
    wer : float
        Its WER in percent.
    static : Frontier
        Of `static_line`.
    oracle : Frontier
        Of `oracle_c`.

    Returns
    -------
    float
        1 at the frontier, 0 on the static line, below 0 where mixing exits at random does better; nan where
        the two lines meet or nothing is that cheap.
    """
    room = static.at(budget) - oracle.at(budget)
    return float((static.at(budget) - wer) / room) if room > 0 else float("nan")
