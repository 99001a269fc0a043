"""The tests behind a certificate: of the clipped mean, of the tail above the clip, and of calibration's own excess."""

from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits.tuning.risk_losses import (
    RiskTarget,
    block_losses,
    block_p_values,
    first_failure,
    scaled_losses,
)


@dataclass(frozen=True, eq=False)
class SequenceTests:
    """What blocks say about a sequence of policies, in the order fixed in advance.

    Arguments
    ---------
    mean_p, tail_p : np.ndarray of shape (n_policies,)
        P-values of "the mean clipped loss is above 0" and of "a share of `tail` or more lose more than the clip".
    excess : np.ndarray of shape (n_policies,)
        WER points above the reference on these blocks, not clipped.
    n_above : np.ndarray of shape (n_policies,)
        Blocks that lose more than the clip.
    clip : float, or np.ndarray of shape (n_policies,)
        WER points.
    tail : float
        Share of the blocks.
    n_certified : int
        Policies before the first that fails: with a p-value above half of delta, or an excess above eps.
    """

    mean_p: np.ndarray
    tail_p: np.ndarray
    excess: np.ndarray
    n_above: np.ndarray
    clip: float
    tail: float
    n_certified: int


def sequence_tests(
    excess: np.ndarray,
    words: np.ndarray,
    *,
    target: RiskTarget,
    block_words: float,
    rng: np.random.Generator,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
) -> SequenceTests:
    """Test a sequence of policies until the first that fails.

    Let the first policy in the order whose mean promise is false, and the first whose tail promise is, each be passed
    with probability at most delta / 2: then a false one is among those before the first failure with probability at
    most delta, however many there are. The third condition can only make certificates fewer.

    Arguments
    ---------
    excess : np.ndarray of shape (n_blocks, n_policies)
        Errors above the reference's.
    words : np.ndarray of shape (n_blocks,) or (n_blocks, n_policies)
        Reference words.
    target : RiskTarget
        What to promise.
    block_words : float or np.ndarray of shape (n_policies,)
        The scale S.
    rng : np.random.Generator
        For the order in which blocks are bet on, and exact p-values' rounding.
    prior : tuple of two np.ndarray of shape (n_policies,), or None
        As for `betting_p_values`.

    Returns
    -------
    SequenceTests

    Example
    -------
    >>> excess, words = np.zeros((60, 2)), np.full(60, 100)
    >>> excess[:6, 1] = 30  # a tenth of the speakers lose 30 points by the second policy
    >>> found = sequence_tests(excess, words, target=RiskTarget(5.0), block_words=100, rng=np.random.default_rng(0))
    >>> found.n_certified, found.n_above, found.excess
    (1, array([0, 6]), array([0., 3.]))
    """
    from scipy.stats import binom

    clip, tail = target.clip_at(block_words), target.tail_at(len(words))
    losses = scaled_losses(excess, words, eps=target.eps, clip=clip, block_words=block_words)
    order, uniforms = rng.permutation(len(words)), rng.uniform(size=len(words))
    mean_p = block_p_values(losses[order], target, limit=target.eps / clip, uniforms=uniforms, prior=prior)
    n_above = above_clip(excess, words, eps=target.eps, clip=clip, block_words=block_words).sum(axis=0)
    tail_p = binom.cdf(n_above, len(words), tail)
    points = 100.0 * excess.sum(axis=0) / np.maximum(words.sum(axis=0), 1e-9)
    n_certified = first_failure(failing_p(mean_p, tail_p, points, target), target.level * (1 + 1e-9))
    return SequenceTests(mean_p, tail_p, points, n_above, clip, tail, n_certified)


def failing_p(mean_p: np.ndarray, tail_p: np.ndarray, points: np.ndarray, target: RiskTarget) -> np.ndarray:
    """What must be at most the level for a certificate, policy by policy; arguments as of `SequenceTests`.

    It is compared with the level times 1 + 1e-9: the default tail passes with the level exactly.
    """
    return np.where(points <= target.eps * (1 + 1e-9), np.maximum(mean_p, tail_p), 1.0)


def above_clip(excess: np.ndarray, words: np.ndarray, *, eps: float, clip: float, block_words: float) -> np.ndarray:
    """Blocks in the tail: those whose loss is above clip - eps, for a block of S words an excess above the clip.

    Arguments
    ---------
    excess, words : np.ndarray
        As for `scaled_losses`, as are the others.
    eps, clip, block_words : float
        In WER points, and the scale S.

    Returns
    -------
    np.ndarray of bool, of shape (n_blocks, n_policies)
    """
    return block_losses(excess, words, eps=eps, block_words=block_words) > (clip - eps) * (1 + 1e-9)
