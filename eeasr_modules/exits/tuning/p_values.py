"""P-values for "the mean loss is at least the limit", from independent losses of blocks, valid at any sample size.

A small p-value says that the mean loss is below the limit. Losses are at most 1; all methods but betting need
them to be at least 0 too. Each function takes losses of shape (n_blocks,) or (n_blocks, n_policies), the blocks
independent and identically distributed, a limit between 0 and 1, and works along axis 0: p-values are of shape () or
(n_policies,).

Betting and empirical Bernstein look at the blocks one after the other, so their order must not depend on the
losses. They multiply up a capital that is not expected to grow while the mean is at least the limit; one over
the largest capital on the way is a p-value (Ville's inequality).
"""

import numpy as np

P_VALUES = ("betting", "hoeffding_bentkus", "exact", "empirical_bernstein")
_MOST_STAKED = 0.99  # share of the capital that may be lost on one block: all of it would be final
_START = (0.5, 0.5)  # guesses before any block, in units of the limit: mean, standard deviation


def p_values(
    losses: np.ndarray,
    limit: float,
    *,
    method: str,
    uniforms: np.ndarray | None = None,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """P-values by the name of the method.

    ValueError when the method is unknown, or losses or limit are out of range.

    Arguments
    ---------
    limit : float or np.ndarray of shape (n_policies,)
        Between 0 and 1; here and in all methods.
    uniforms : np.ndarray of shape (n_blocks,), or None
        For "exact" only, which needs them where losses are not 0 or 1.
    prior : tuple of (np.ndarray, np.ndarray), each of shape () or (n_policies,), or None
        For "betting" only: mean and variance of the losses on other data.

    Example
    -------
    >>> p_values(np.zeros(20), 0.25, method="hoeffding_bentkus").round(5)
    np.float64(0.00317)
    """
    if method == "betting":
        return betting_p_values(losses, limit, prior=prior)
    if method == "hoeffding_bentkus":
        return hoeffding_bentkus_p_values(losses, limit)
    if method == "exact":
        return exact_p_values(losses, limit, uniforms=uniforms)
    if method == "empirical_bernstein":
        return empirical_bernstein_p_values(losses, limit)
    raise ValueError(f"p_value must be one of {', '.join(P_VALUES)}, got {method!r}")


def hoeffding_bentkus_p_values(losses: np.ndarray, limit: float) -> np.ndarray:
    """The smaller of Hoeffding's and Bentkus' tail bounds (Bates et al. 2021, Angelopoulos et al. 2021, Prop. 2)."""
    from scipy.special import rel_entr
    from scipy.stats import binom

    losses = _checked(losses, limit, bounded_below=True)
    n, mean = len(losses), losses.mean(axis=0)
    below = np.minimum(mean, limit)
    hoeffding = np.exp(-n * (rel_entr(below, limit) + rel_entr(1.0 - below, 1.0 - limit)))
    # sums of floats: a count that is whole up to rounding must not be rounded up
    bentkus = np.e * binom.cdf(np.ceil(n * mean - 1e-9), n, limit)
    return np.minimum(1.0, np.minimum(hoeffding, bentkus))


def exact_p_values(losses: np.ndarray, limit: float, *, uniforms: np.ndarray | None = None) -> np.ndarray:
    """The binomial tail: exact for losses of 0 or 1 (Brown et al. 2001 on its relatives).

    A loss between 0 and 1 is first turned into 1 with its own probability, which keeps the mean, and so the
    validity, but adds chance: the decision then depends on `uniforms`.

    ValueError when some loss is neither 0 nor 1 and there are no uniforms.

    Arguments
    ---------
    limit : float
        Between 0 and 1.
    uniforms : np.ndarray of shape (n_blocks,) or as losses, or None
        Uniform on 0 to 1 and independent of the losses; one per block is shared by all policies. None allows
        losses of 0 and 1 only.
    """
    from scipy.stats import binom

    losses = _checked(losses, limit, bounded_below=True)
    if uniforms is None:
        if not np.isin(losses, (0.0, 1.0)).all():
            raise ValueError("exact p-values need losses of 0 or 1, or uniforms to round the others with; got neither")
        uniforms = np.full(len(losses), 0.5)
    ones = (uniforms if uniforms.ndim == losses.ndim else uniforms[:, None]) < losses
    return binom.cdf(ones.sum(axis=0), len(losses), limit)


def betting_p_values(
    losses: np.ndarray,
    limit: float,
    *,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
    prior_blocks: float = 25.0,
) -> np.ndarray:
    """One over the capital won by betting that losses stay below the limit (Waudby-Smith & Ramdas 2024).

    The capital after block i is that before it times 1 + stake * (limit - loss). The stake is their
    "approximate GRAPA", (limit - m) / (v + (limit - m)^2) with the mean m and variance v of the blocks before.
    Only one side is bet on, so theirs is not "hedged" with the other here, and only the upper bound of the
    losses matters: they may be as negative as they like.

    Arguments
    ---------
    limit : float
        Between 0 and 1.
    prior : tuple of (np.ndarray, np.ndarray), each of shape () or (n_policies,), or None
        Mean and variance of the losses on other data, as a first guess. A bad one costs capital, not
        validity. None guesses half the limit for mean and standard deviation, worth one block.
    prior_blocks : float
        How many blocks the prior is worth.
    """
    losses = _checked(losses, limit, bounded_below=False)
    mean, variance, weight = _start(losses, limit, prior, prior_blocks)
    m, v = _moments_before(losses, mean, variance, weight)
    room = limit - m
    stake = np.clip(room / np.maximum(v + room**2, 1e-12), 0.0, _MOST_STAKED / (1.0 - limit))
    return _from_gains(np.log1p(stake * (limit - losses)))


def empirical_bernstein_p_values(losses: np.ndarray, limit: float, *, delta: float = 0.1) -> np.ndarray:
    """The predictable plug-in empirical Bernstein test (Waudby-Smith & Ramdas 2024, Theorem 2).

    The bound of Maurer & Pontil 2009 has the same main term, but one of 7 log(2 / delta) / (3 n) beside it, with
    which 20 blocks never certify a limit below a third.

    Arguments
    ---------
    limit : float
        Between 0 and 1.
    delta : float
        The level for which stakes are chosen; the p-value is valid at every level.
    """
    losses = _checked(losses, limit, bounded_below=True)
    mean, variance, weight = _start(losses, limit, None, 1.0)
    m, v = _moments_before(losses, mean, variance, weight)
    stake = np.minimum(np.sqrt(2.0 * np.log(1.0 / delta) / (len(losses) * np.maximum(v, 1e-12))), 0.75)
    return _from_gains(stake * (limit - losses) + (losses - m) ** 2 * (np.log1p(-stake) + stake))


def _from_gains(log_gains: np.ndarray) -> np.ndarray:
    """P-values from the log of what the capital is multiplied by at each block, shaped as losses."""
    return np.exp(-np.maximum(np.cumsum(log_gains, axis=0).max(axis=0), 0.0))


def _checked(losses: np.ndarray, limit: float, *, bounded_below: bool) -> np.ndarray:
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim not in (1, 2) or len(losses) == 0:
        raise ValueError(f"losses must be (n_blocks,) or (n_blocks, n_policies), at least 1 block, got {losses.shape}")
    if not ((np.asarray(limit) > 0.0) & (np.asarray(limit) < 1.0)).all():
        raise ValueError(f"limit must be between 0 and 1, got {limit}")
    lowest = 0.0 if bounded_below else -np.inf
    if not (np.isfinite(losses).all() and (losses <= 1.0 + 1e-9).all() and (losses >= lowest - 1e-9).all()):
        raise ValueError(f"losses must be from {lowest:g} to 1, got {losses.min():g} to {losses.max():g}")
    return np.clip(losses, lowest, 1.0)


def _start(
    losses: np.ndarray, limit: float, prior: tuple[np.ndarray, np.ndarray] | None, prior_blocks: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """First guess of mean and variance, each (n_policies,) or (), and how many blocks it is worth."""
    if prior is None:
        return np.full(losses.shape[1:], _START[0] * limit), np.full(losses.shape[1:], (_START[1] * limit) ** 2), 1.0
    mean, variance = (np.broadcast_to(np.asarray(part, dtype=np.float64), losses.shape[1:]) for part in prior)
    return mean, variance, prior_blocks


def _moments_before(
    losses: np.ndarray, mean: np.ndarray, variance: np.ndarray, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the first guess and the blocks before each block, both shaped as losses."""
    before = np.arange(len(losses)).reshape(-1, *[1] * (losses.ndim - 1))
    n = weight + before
    m = (weight * mean + np.cumsum(losses, axis=0) - losses) / n
    squares = (weight * (variance + mean**2) + np.cumsum(losses**2, axis=0) - losses**2) / n
    return m, np.maximum(squares - m**2, 0.0)
