"""Statistics of exits: pooled error rates, overthinking, and the worth of a signal."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from eeasr_modules.exits.policies import THRESHOLD_SIGNALS
from eeasr_modules.exits.table import ExitTable

# signals that are high where the transcript is good; all others are taken to be low there
HIGH_IS_GOOD = frozenset(signal for signal, low_stops in THRESHOLD_SIGNALS.values() if not low_stops) | {
    "nbest_posterior",
    "path_log_prob",
    "gibbs_confidence",
    "tsallis_confidence",
    "tsallis_min",
    "tsallis_product",
    "renyi_confidence",
}


@dataclass(frozen=True)
class Overthinking:
    """Shares of utterances, 0 to 1, at which going on did not pay (Kaya et al. 2019 name the last two).

    Arguments
    ---------
    better : float
        Some inner exit has strictly fewer errors than the last.
    destructive : float
        Some inner exit is right (no error), the last is wrong.
    wasteful : float
        Some inner exit is right, and the last still is.
    """

    better: float
    destructive: float
    wasteful: float


def pooled_wer(errors: np.ndarray, n_ref_words: np.ndarray) -> float:
    """Summed errors over summed reference words, in percent; with characters, the CER.

    Arguments
    ---------
    errors : np.ndarray of shape (n_utterances,)
        Errors of what was emitted.
    n_ref_words : np.ndarray of shape (n_utterances,)
        Reference words.

    Returns
    -------
    float

    Example
    -------
    >>> pooled_wer(np.array([1, 0]), np.array([1, 9]))
    10.0
    """
    return float(100.0 * np.sum(errors) / np.sum(n_ref_words))


def overthinking(errors: np.ndarray) -> Overthinking:
    """How often going on did not pay.

    Arguments
    ---------
    errors : np.ndarray of shape (n_utterances, n_exits)
        Word errors.

    Returns
    -------
    Overthinking
        All 0 where there is one exit only.

    Example
    -------
    >>> overthinking(np.array([[1, 0, 2], [0, 0, 0], [3, 2, 1], [2, 1, 2]]))
    Overthinking(better=0.5, destructive=0.25, wasteful=0.25)
    """
    inner, last = errors[:, :-1], errors[:, -1]
    right_before = (inner == 0).any(axis=1)
    return Overthinking(
        better=float((inner < last[:, None]).any(axis=1).mean()),
        destructive=float((right_before & (last > 0)).mean()),
        wasteful=float((right_before & (last == 0)).mean()),
    )


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that a score of a true case exceeds one of a false case; ties count half.

    Arguments
    ---------
    scores : np.ndarray of shape (n,)
        Any numbers.
    labels : np.ndarray of shape (n,)
        True or False.

    Returns
    -------
    float
        0.5 is chance; nan where all labels are the same.

    Example
    -------
    >>> auroc(np.array([1.0, 2.0, 3.0, 2.0]), np.array([False, True, True, False]))
    0.875
    """
    from scipy.stats import rankdata

    labels = np.asarray(labels, dtype=bool)
    n_true, n_false = int(labels.sum()), int((~labels).sum())
    if n_true == 0 or n_false == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[labels].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


def signal_auroc(table: ExitTable, name: str) -> np.ndarray:
    """How well a signal tells, at each inner exit, whether that exit is no worse than the last.

    Arguments
    ---------
    table : ExitTable
        What was recorded.
    name : str
        A signal. Those in `HIGH_IS_GOOD` predict by high values, all others by low ones.

    Returns
    -------
    np.ndarray of shape (n_exits - 1,)
        AUROC; nan where all utterances agree.
    """
    sign = 1.0 if name in HIGH_IS_GOOD else -1.0
    values, errors = sign * table.signal(name), table.errors
    return np.array([auroc(values[:, k], errors[:, k] <= errors[:, -1]) for k in range(table.n_exits - 1)])


def pooled_auroc(table: ExitTable, name: str) -> float:
    """The same with all inner exits together: also how well a signal tells an early exit from a late one.

    Arguments
    ---------
    table : ExitTable
        What was recorded.
    name : str
        A signal, as for `signal_auroc`.

    Returns
    -------
    float
        nan where all agree.
    """
    sign = 1.0 if name in HIGH_IS_GOOD else -1.0
    inner = table.errors[:, :-1]
    return auroc((sign * table.signal(name)[:, :-1]).ravel(), (inner <= table.errors[:, -1:]).ravel())


def signal_aurocs(table: ExitTable) -> dict[str, dict[str, Any]]:
    """AUROC of every stored signal.

    Arguments
    ---------
    table : ExitTable
        What was recorded.

    Returns
    -------
    dict of str to dict
        By signal: "per_exit", a list by inner exit, and "pooled"; None where undefined, so that it can be JSON.
    """
    worth = {}
    for name in sorted(table.signals):
        per_exit = [None if np.isnan(value) else float(value) for value in signal_auroc(table, name)]
        pooled = pooled_auroc(table, name)
        worth[name] = {"per_exit": per_exit, "pooled": None if np.isnan(pooled) else pooled}
    return worth
