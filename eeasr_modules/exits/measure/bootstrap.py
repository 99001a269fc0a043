"""Intervals by resampling speakers, and paired tests of one choice of exits against another.

Utterances of one speaker are alike, so whole speakers are resampled. Below `MIN_SPEAKERS` speakers nothing is to be
concluded from an interval (`Interval.conclusive`). Where some speakers are unknown, or there is a single one,
utterances are resampled, and the interval says so: it is then too narrow for new speakers. All WERs are pooled and in
percent. Comparisons are paired: both sides see the same resampled utterances, and a difference is below 0 where the
first is better.

Everywhere `errors` and `other_errors` (n_utterances,) are those of what was emitted, `n_ref_words` (n_utterances,) the
reference words, `speakers` (n_utterances,) names, "" where unknown, and `rng` the source of `n_draws` draws; no p-value
is much below one over it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_SPEAKERS = 8  # fewer are too few for a conclusion
_MAX_CELLS = 20_000_000  # of the matrix of draws and blocks that is held at once


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile bootstrap interval."""

    # estimate, low, high: on all the data, and the interval's ends
    estimate: float
    low: float
    high: float
    blocks: str  # what was resampled: "speakers" or "utterances"
    n_blocks: int  # how many there are
    level: float = 0.95  # share of the draws inside

    @property
    def conclusive(self) -> bool:
        """Whether it is over enough speakers for a conclusion about new ones."""
        return self.blocks == "speakers" and self.n_blocks >= MIN_SPEAKERS


def blocks_of(speakers: np.ndarray) -> tuple[np.ndarray, str]:
    """Number of each utterance's block, and what blocks are: "speakers", or "utterances" where some are unknown.

    `speakers` (n_utterances,): names; "" where unknown.
    """
    names, block = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    if len(names) < 2 or "" in names:
        return np.arange(len(speakers)), "utterances"
    return block, "speakers"


def bootstrap_wer(
    errors: np.ndarray, n_ref_words: np.ndarray, *, speakers: np.ndarray, rng: np.random.Generator, n_draws: int = 1000
) -> Interval:
    """WER with its interval."""
    return bootstrap_difference(
        errors, np.zeros_like(errors), n_ref_words=n_ref_words, speakers=speakers, rng=rng, n_draws=n_draws
    )


def bootstrap_difference(
    errors: np.ndarray,
    other_errors: np.ndarray,
    *,
    n_ref_words: np.ndarray,
    speakers: np.ndarray,
    rng: np.random.Generator,
    n_draws: int = 1000,
) -> Interval:
    """WER of one choice minus WER of another on the same utterances, with its interval."""
    words = {"n_ref_words": n_ref_words, "speakers": speakers}
    return bootstrap_test(errors, other_errors, **words, rng=rng, n_draws=n_draws)[0]


def bootstrap_test(
    errors: np.ndarray,
    other_errors: np.ndarray,
    *,
    n_ref_words: np.ndarray,
    speakers: np.ndarray,
    rng: np.random.Generator,
    n_draws: int = 1000,
) -> tuple[Interval, float]:
    """The interval of `bootstrap_difference`, and the p-value of no difference.

    It is two-sided: how often a draw is at least as far from the estimate as that is from 0, the estimate itself
    counted as one draw (Davison & Hinkley 1997, eq. 4.11).
    """
    values = np.stack([np.subtract(errors, other_errors, dtype=np.float64), n_ref_words], axis=1)
    interval, drawn = _interval_and_draws(lambda sums: 100.0 * sums[:, 0] / sums[:, 1], values, speakers, rng, n_draws)
    # sums in another order must not make a tie look like a smaller distance
    as_far = np.abs(drawn - interval.estimate) >= abs(interval.estimate) * (1 - 1e-9)
    return interval, float((1 + as_far.sum()) / (1 + n_draws))


def bootstrap_above_static(
    exit_index: np.ndarray,
    errors: np.ndarray,
    *,
    costs: np.ndarray,
    n_ref_words: np.ndarray,
    weights: np.ndarray,
    speakers: np.ndarray,
    rng: np.random.Generator,
    chosen_costs: np.ndarray | None = None,
    n_draws: int = 1000,
) -> Interval:
    """WER of a choice minus the static line at the same cost, with its interval.

    `exit_index` (n_utterances,) was chosen; `errors` and `costs` (n_utterances, n_exits) are those of the fixed exits,
    `weights` seconds of audio, `chosen_costs` what the choice paid where deciding costs something (None: the exit's).
    Every draw has its own static line and its own cost of the choice.
    """
    n_exits = errors.shape[1]
    chosen = np.arange(len(errors)), exit_index
    paid = costs[chosen] if chosen_costs is None else chosen_costs
    values = np.column_stack([errors, costs, errors[chosen], paid, n_ref_words, weights]).astype(np.float64)

    def above(sums: np.ndarray) -> np.ndarray:
        wrong, spent, words = sums[:, :n_exits], sums[:, n_exits : 2 * n_exits], sums[:, -2:-1]
        static = _static_at(100.0 * wrong / words, spent, sums[:, -3])
        return 100.0 * sums[:, -4] / words[:, 0] - static

    return _interval_and_draws(above, values, speakers, rng, n_draws)[0]


def _static_at(wers: np.ndarray, costs: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Static line of each row of exits, (n_draws, n_exits), at that row's budget, (n_draws,).

    The best mixture at a budget uses at most two exits, so trying all pairs gives what the hull would.
    """
    within = costs <= budgets[:, None] * (1 + 1e-9)
    best = np.where(within, wers, np.inf).min(axis=1)
    for low in range(wers.shape[1]):
        for high in range(low + 1, wers.shape[1]):
            share = (budgets - costs[:, low]) / (costs[:, high] - costs[:, low])
            mixed = wers[:, low] + share * (wers[:, high] - wers[:, low])
            best = np.where((share >= 0) & (share <= 1), np.minimum(best, mixed), best)
    return best


def _interval_and_draws(
    statistic: Callable[[np.ndarray], np.ndarray],
    values: np.ndarray,
    speakers: np.ndarray,
    rng: np.random.Generator,
    n_draws: int,
) -> tuple[Interval, np.ndarray]:
    """Interval of a statistic of summed values, (rows, columns) -> (rows,), over resampled blocks; and the draws."""
    block, kind = blocks_of(speakers)
    n_blocks = int(block.max()) + 1
    sums = np.stack([np.bincount(block, column, n_blocks) for column in values.T], axis=1)
    drawn = []
    at_once = max(1, _MAX_CELLS // n_blocks)
    for first in range(0, n_draws, at_once):
        size = min(at_once, n_draws - first)
        times_drawn = rng.multinomial(n_blocks, np.full(n_blocks, 1.0 / n_blocks), size=size)
        drawn.append(times_drawn @ sums)
    statistics = statistic(np.concatenate(drawn))
    low, high = np.percentile(statistics, [2.5, 97.5])
    estimate = statistic(sums.sum(axis=0, keepdims=True))[0]
    return Interval(float(estimate), float(low), float(high), kind, n_blocks), statistics


@dataclass(frozen=True)
class Comparison:
    """Two choices of exits on the same utterances."""

    difference: float  # pooled WER of the first minus that of the second, in WER points
    # low, high: its 95 % bootstrap interval
    low: float
    high: float
    # Two-sided p-value of no difference, by the bootstrap; nan where speakers are too few for a conclusion
    bootstrap_p: float
    matched_pairs_p: float  # the same by the matched pairs test
    # better, worse: blocks in which the first has fewer, more errors
    better: int
    worse: int
    blocks: str  # "speakers", or "utterances" where some are unknown or all are one
    n_blocks: int  # how many

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**vars(self)}


def compare_choices(
    errors: np.ndarray,
    other_errors: np.ndarray,
    *,
    n_ref_words: np.ndarray,
    speakers: np.ndarray,
    rng: np.random.Generator,
    n_draws: int = 1000,
) -> Comparison:
    """Compare what two policies emitted, at one budget for instance."""
    interval, bootstrap_p = bootstrap_test(
        errors, other_errors, n_ref_words=n_ref_words, speakers=speakers, rng=rng, n_draws=n_draws
    )
    block, _ = blocks_of(speakers)
    too_few = interval.blocks == "speakers" and not interval.conclusive
    sums = np.bincount(block, np.subtract(errors, other_errors, dtype=np.float64))
    return Comparison(
        difference=interval.estimate,
        low=interval.low,
        high=interval.high,
        bootstrap_p=float("nan") if too_few else bootstrap_p,
        matched_pairs_p=float("nan") if too_few else matched_pairs_p_value(sums),
        better=int((sums < 0).sum()),
        worse=int((sums > 0).sum()),
        blocks=interval.blocks,
        n_blocks=interval.n_blocks,
    )


def matched_pairs_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of the matched pairs test (Gillick & Cox 1989); 1 where all are 0; nan for a single segment.

    `differences` (n_segments,) are errors of one side minus the other's, per independent segment. Theirs takes the mean
    difference over its standard error as standard normal; here it is Student's t
    with one degree of freedom less than there are segments, because speakers are few.

    Example
    -------
    >>> round(matched_pairs_p_value(np.array([2, 1, 0, 1])), 3)
    0.092
    """
    from scipy.stats import t

    differences = np.asarray(differences, dtype=np.float64)
    n = len(differences)
    if n < 2:
        return float("nan")
    error = differences.std(ddof=1) / np.sqrt(n)
    if error == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(2.0 * t.sf(abs(differences.mean()) / error, n - 1))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P-values adjusted for being several (Holm 1979): below alpha, all that are so hold together at level alpha.

    The tests may be dependent. In the order given; nan, where nothing was tested, stays nan and is not counted.

    Example
    -------
    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    tested = int(np.isfinite(p_values).sum())
    order = np.argsort(p_values, kind="stable")[:tested]  # nan sorts last
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(tested, 0, -1))
    return np.minimum(adjusted, 1.0)
