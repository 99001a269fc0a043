"""Statistics of exits: pooled error rates, overthinking by utterance and by word, the worth of a signal.

By word: which reference words an exit had right that the last one has wrong, and the reverse, by the alignment with
fewest edits; where several tie, one is taken, so such counts can be off by a few.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.policies.rules import THRESHOLD_SIGNALS
from eeasr_modules.exits.tables.table import ExitTable

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


@dataclass(frozen=True, eq=False)
class WordOutcomes:
    """What became of the reference words. Shares are of all reference words, 0 to 1.

    Arguments
    ---------
    n_words : int
        Reference words.
    exit_layers : np.ndarray of shape (n_exits - 1,)
        Of the inner exits.
    regressive, progressive : np.ndarray of shape (n_exits - 1,)
        Words right at that exit and wrong at the last; wrong there and right at the last.
    destructive : float
        Right at some inner exit, wrong at the last.
    wasteful : float
        Right at some inner exit, and still right at the last.
    never_right : float
        Wrong at every exit.
    """

    n_words: int
    exit_layers: np.ndarray
    regressive: np.ndarray
    progressive: np.ndarray
    destructive: float
    wasteful: float
    never_right: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


def word_outcomes(table: ExitTable) -> WordOutcomes:
    """Overthinking per word.

    Raises
    ------
    ValueError
        When the table has no references, or they have no words.

    Example
    -------
    >>> table = ExitTable.from_hypotheses([["a b x", "a y c"]], ["a b c"], utt_ids=["u"], exit_layers=[2, 4],
    ...                                   duration_s=[1], n_frames=[50])
    >>> outcomes = word_outcomes(table)
    >>> outcomes.regressive, outcomes.progressive, outcomes.wasteful
    (array([0.33333333]), array([0.33333333]), 0.3333333333333333)
    """
    if table.references is None:
        raise ValueError("outcomes of words need references, but the exit table has none; use one written with them")
    # (n_words, n_exits)
    right = np.concatenate(
        [
            np.stack([correct_words(reference, hypothesis) for hypothesis in row], axis=1)
            for reference, row in zip(table.references, table.hypotheses)
        ]
    )
    if len(right) == 0:
        raise ValueError("outcomes of words need reference words, but all references of the exit table are empty")
    inner, last = right[:, :-1], right[:, -1]
    before = inner.any(axis=1)
    return WordOutcomes(
        n_words=len(right),
        exit_layers=table.exit_layers[:-1],
        regressive=(inner & ~last[:, None]).mean(axis=0),
        progressive=(~inner & last[:, None]).mean(axis=0),
        destructive=float((before & ~last).mean()),
        wasteful=float((before & last).mean()),
        never_right=float((~before & ~last).mean()),
    )


def correct_words(reference: str, hypothesis: str) -> np.ndarray:
    """Which words of the reference a transcript has, in one cheapest alignment.

    Returns
    -------
    np.ndarray of bool, of shape (n_ref_words,)

    Example
    -------
    >>> correct_words("a b c", "a x c d")
    array([ True, False,  True])
    """
    words = reference.split()
    right = np.ones(len(words), dtype=bool)
    for operation in Levenshtein.editops(words, hypothesis.split()):
        if operation.tag != "insert":
            right[operation.src_pos] = False
    return right
