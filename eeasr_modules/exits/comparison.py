"""Is one choice of exits better than another? Paired tests on the same utterances, and several sets side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eeasr_modules.exits.bootstrap import blocks_of, bootstrap_test


@dataclass(frozen=True)
class Comparison:
    """Two choices of exits on the same utterances.

    Arguments
    ---------
    difference : float
        Pooled WER of the first minus that of the second, in WER points.
    low, high : float
        Its 95 % bootstrap interval.
    bootstrap_p : float
        Two-sided p-value of no difference, by the bootstrap; nan where speakers are too few for a conclusion.
    matched_pairs_p : float
        The same by the matched pairs test.
    better, worse : int
        Blocks in which the first has fewer, more errors.
    blocks : str
        "speakers", or "utterances" where some are unknown or all are one.
    n_blocks : int
        How many.
    """

    difference: float
    low: float
    high: float
    bootstrap_p: float
    matched_pairs_p: float
    better: int
    worse: int
    blocks: str
    n_blocks: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**vars(self)}


@dataclass(frozen=True)
class SetComparison:
    """One of several sets on which the same two choices are compared.

    Arguments
    ---------
    set_name : str
        Of the set.
    comparison : Comparison
        On it alone.
    holm_p : float
        The bootstrap's p-value, adjusted for there being several sets.
    """

    set_name: str
    comparison: Comparison
    holm_p: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"set_name": self.set_name, **self.comparison.as_dict(), "holm_p": self.holm_p}


def compare_choices(
    errors: np.ndarray,
    other_errors: np.ndarray,
    *,
    n_ref_words: np.ndarray,
    speakers: np.ndarray,
    rng: np.random.Generator,
    n_draws: int = 1000,
) -> Comparison:
    """Compare what two policies emitted, at one budget for instance.

    Arguments
    ---------
    errors, other_errors : np.ndarray of shape (n_utterances,)
        Errors of the two.
    n_ref_words : np.ndarray of shape (n_utterances,)
        Reference words.
    speakers : np.ndarray of shape (n_utterances,)
        Names; "" where unknown.
    rng : np.random.Generator
        Source of the draws.
    n_draws : int
        How many; the least p-value is about one over it.

    Returns
    -------
    Comparison
    """
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
    """Two-sided p-value of the matched pairs test (Gillick & Cox 1989).

    Theirs takes the segments' mean difference over its standard error as standard normal; here it is Student's t
    with one degree of freedom less than there are segments, because speakers are few.

    Arguments
    ---------
    differences : np.ndarray of shape (n_segments,)
        Errors of one side minus the other's, per independent segment.

    Returns
    -------
    float
        1 where all are 0; nan for a single segment.

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

    Arguments
    ---------
    p_values : sequence of float
        Of different tests, dependent or not; nan where nothing was tested.

    Returns
    -------
    np.ndarray of shape (n_tests,)
        In the order given, at most 1; nan stays nan and is not counted.

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


def compare_on_sets(
    sets: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    *,
    rng: np.random.Generator,
    n_draws: int = 1000,
) -> tuple[SetComparison, ...]:
    """The same comparison on several test sets, with p-values adjusted for their number.

    Arguments
    ---------
    sets : mapping of str to tuple of (errors, other_errors, n_ref_words, speakers)
        By the set's name; as for `compare_choices`.
    rng : np.random.Generator
        Source of the draws.
    n_draws : int
        How many.

    Returns
    -------
    tuple of SetComparison
        In the order given.
    """
    single = [
        compare_choices(errors, other, n_ref_words=words, speakers=speakers, rng=rng, n_draws=n_draws)
        for errors, other, words, speakers in sets.values()
    ]
    adjusted = holm([comparison.bootstrap_p for comparison in single])
    return tuple(SetComparison(name, one, float(p)) for name, one, p in zip(sets, single, adjusted))
