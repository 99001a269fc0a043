"""Every threshold at once: what a policy of one score costs and gets wrong, without replaying each threshold.

Many policies stop at the first exit whose score is at most a threshold: signals, changes over the last k exits,
fitted scores. As the threshold rises, an utterance moves from the ceiling exit down along the running minimum of
its scores; so sums over thresholds are sums over those moves.
"""

import numpy as np

from eeasr_modules.exits.choices import needed_signal
from eeasr_modules.exits.fitted import Fitted
from eeasr_modules.exits.policies import PATIENCE_SIGNALS, THRESHOLD_SIGNALS, Patience, Policy, Random, Threshold
from eeasr_modules.exits.table import ExitTable


def stopping_scores(leaf: Policy, table: ExitTable) -> np.ndarray | None:
    """Scores such that the policy stops at the first exit where its threshold is at least the score.

    Arguments
    ---------
    leaf : policy
        Of one piece; its own threshold is not used.
    table : ExitTable
        With the signals that it needs; fitted scores recorded.

    Returns
    -------
    np.ndarray of shape (n_utterances, n_exits), or None
        Thresholds that high values pass come back negated. None where the policy has no such score.
    """
    if isinstance(leaf, Threshold):
        signal, low_stops = THRESHOLD_SIGNALS[leaf.name]
        values = np.asarray(needed_signal(table, signal, policy=leaf), dtype=np.float64)
        return values if low_stops else -values
    if isinstance(leaf, Patience) and leaf.compared == "neighbours":
        change = np.asarray(needed_signal(table, PATIENCE_SIGNALS[leaf.name], policy=leaf), dtype=np.float64)
        scores = np.full(change.shape, np.inf)
        if change.shape[1] >= leaf.k:
            windows = np.lib.stride_tricks.sliding_window_view(change, leaf.k, axis=1)
            scores[:, leaf.k - 1 :] = windows.max(axis=2)
        return scores
    if isinstance(leaf, Fitted):
        return needed_signal(table, leaf.needs[0], policy=leaf)
    # uniform < p, while all others stop on equality: the next number above settles it
    return np.nextafter(needed_signal(table, "uniform"), np.inf) if isinstance(leaf, Random) else None


def is_negated(leaf: Policy) -> bool:
    """Whether `stopping_scores` negates, so that thresholds must be negated too.

    Arguments
    ---------
    leaf : policy
        Of one piece.

    Returns
    -------
    bool
    """
    return isinstance(leaf, Threshold) and not THRESHOLD_SIGNALS[leaf.name][1]


def swept_sums(passed_at: np.ndarray, values: np.ndarray, *, floor: int, ceiling: int, n_thresholds: int) -> np.ndarray:
    """Sum over utterances of a number at the exit chosen, for every threshold.

    Arguments
    ---------
    passed_at : np.ndarray of shape (n_utterances, n_exits)
        Position, among the rising thresholds, of the first that is at least the score (`n_thresholds`: none).
    values : np.ndarray of shape (n_utterances, n_exits)
        What to sum, such as errors or costs.
    floor, ceiling : int
        First and last exit that may be chosen, from 0.
    n_thresholds : int
        How many there are.

    Returns
    -------
    np.ndarray of shape (n_thresholds,)

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
