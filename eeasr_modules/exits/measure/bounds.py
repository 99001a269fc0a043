"""The lines that give a policy its meaning, the static line below and the oracles above; overthinking; signals' worth.

All work on plain arrays of shape (n_utterances, n_exits): word `errors`, and `costs` as totals per utterance;
`n_ref_words` and `weights` (seconds of audio) are of shape (n_utterances,). A mean cost is summed cost over summed
`weights`; with `cost_layers` and seconds that is the duration-weighted mean depth in layers, with `cost_macs` and
seconds MACs per second. WERs are pooled and in percent.

Oracles know the reference. They are optimistic by selection: the minimum of several noisy counts.

Overthinking by word: which reference words an exit had right that the last one has wrong, and the reverse, by the
alignment with fewest edits; where several tie, one is taken, so such counts can be off by a few.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from eeasr_modules.exits.measure.edits import matched_words
from eeasr_modules.exits.policies.rules import THRESHOLD_SIGNALS
from eeasr_modules.exits.tables.table import ExitTable


@dataclass(frozen=True, eq=False)
class Frontier:
    """A convex, non-increasing line of lowest WER by mean cost."""

    cost: np.ndarray  # (n_points,), mean costs of the corners, rising
    wer: np.ndarray  # (n_points,), WER in percent at the corners, falling

    def at(self, budget: float | np.ndarray) -> float | np.ndarray:
        """Lowest WER in percent at a mean cost of at most the budget; nan where nothing is that cheap."""
        # a budget that equals the cheapest cost may have been summed in another order
        budgets = np.where(np.isclose(budget, self.cost[0], rtol=1e-9, atol=0.0), self.cost[0], budget)
        line = np.interp(budgets, self.cost, self.wer, left=np.nan)
        return line if np.ndim(budget) else float(line)


def static_line(errors: np.ndarray, costs: np.ndarray, *, n_ref_words: np.ndarray, weights: np.ndarray) -> Frontier:
    """The best that mixing fixed exits at random can do: any policy above it is useless.

    Lower convex hull of (mean cost, WER) of the fixed exits, made non-increasing: where an inner exit has the
    lowest WER, the line is flat beyond it.

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
    """Earliest exit with the fewest word errors, per utterance: `exit_index`, from 0.

    Example
    -------
    >>> oracle_a(np.array([[3, 1, 1], [0, 2, 0]]))
    array([1, 0])
    """
    return np.argmin(errors, axis=1)


def oracle_b(errors: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Cheapest exit that is no worse than the last one, per utterance: `exit_index`, from 0.

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

    Returns Frontier: from everybody's cheapest exit to everybody's best.

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
    """How much of the way from the static line to the frontier a policy of this mean cost and WER (%) has gone.

    Returns float: 1 at the frontier, 0 on the static line, below 0 where mixing exits at random does better; nan where
    the two lines meet or nothing is that cheap.
    """
    room = static.at(budget) - oracle.at(budget)
    return float((static.at(budget) - wer) / room) if room > 0 else float("nan")


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
    """Shares of utterances, 0 to 1, at which going on did not pay (Kaya et al. 2019 name the last two)."""

    better: float  # some inner exit has strictly fewer errors than the last
    destructive: float  # some inner exit is right (no error), the last is wrong
    wasteful: float  # some inner exit is right, and the last still is


def pooled_wer(errors: np.ndarray, n_ref_words: np.ndarray) -> float:
    """Summed errors over summed reference words, both (n_utterances,), in percent; with characters, the CER.

    Example
    -------
    >>> pooled_wer(np.array([1, 0]), np.array([1, 9]))
    10.0
    """
    return float(100.0 * np.sum(errors) / np.sum(n_ref_words))


def overthinking(errors: np.ndarray) -> Overthinking:
    """How often going on did not pay, by word errors (n_utterances, n_exits); all 0 where there is one exit only.

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

    Scores and labels are of shape (n,); 0.5 is chance, and nan comes where all labels are the same.

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
    """How well a signal tells, at each inner exit, whether that exit is no worse than the last; shape (n_exits - 1,).

    AUROC; nan where all utterances agree. Signals in `HIGH_IS_GOOD` predict by high values, all others by low ones.
    """
    sign = 1.0 if name in HIGH_IS_GOOD else -1.0
    values, errors = sign * table.signal(name), table.errors
    return np.array([auroc(values[:, k], errors[:, k] <= errors[:, -1]) for k in range(table.n_exits - 1)])


def pooled_auroc(table: ExitTable, name: str) -> float:
    """The same with all inner exits together: also how well a signal tells an early exit from a late one;
    nan where all agree.
    """
    sign = 1.0 if name in HIGH_IS_GOOD else -1.0
    inner = table.errors[:, :-1]
    return auroc((sign * table.signal(name)[:, :-1]).ravel(), (inner <= table.errors[:, -1:]).ravel())


def signal_aurocs(table: ExitTable) -> dict[str, dict[str, Any]]:
    """AUROC of every stored signal.

    Returns dict of str to dict: by signal: "per_exit", a list by inner exit, and "pooled"; None where undefined, so
    that it can be JSON.
    """
    worth = {}
    for name in sorted(table.signals):
        per_exit = [None if np.isnan(value) else float(value) for value in signal_auroc(table, name)]
        pooled = pooled_auroc(table, name)
        worth[name] = {"per_exit": per_exit, "pooled": None if np.isnan(pooled) else pooled}
    return worth


@dataclass(frozen=True, eq=False)
class WordOutcomes:
    """What became of the reference words. Shares are of all reference words, 0 to 1."""

    n_words: int  # reference words
    exit_layers: np.ndarray  # (n_exits - 1,), of the inner exits
    # regressive, progressive: (n_exits - 1,), words right at that exit and wrong at the last; wrong there and right at
    # the last
    regressive: np.ndarray
    progressive: np.ndarray
    destructive: float  # right at some inner exit, wrong at the last
    wasteful: float  # right at some inner exit, and still right at the last
    never_right: float  # wrong at every exit

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


def word_outcomes(table: ExitTable) -> WordOutcomes:
    """Overthinking per word. ValueError when the table has no references, or they have no words.

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
            np.stack([matched_words(reference.split(), text.split())[0] for text in row], axis=1)
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
