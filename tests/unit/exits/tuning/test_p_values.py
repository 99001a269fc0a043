import numpy as np
import pytest
from scipy.stats import binom

from eeasr_modules.exits.tuning.risk_losses import (
    P_VALUES,
    betting_p_values,
    exact_p_values,
    hoeffding_bentkus_p_values,
    p_values,
)

LIMIT, DELTA, N_DRAWS = 0.25, 0.1, 1000
POPULATIONS = {  # each has mean LIMIT
    "zero or one": lambda rng, shape: (rng.random(shape) < LIMIT).astype(float),
    "all alike": lambda rng, shape: np.full(shape, LIMIT),
    "rare and large": lambda rng, shape: 0.2 + 0.8 * (rng.random(shape) < 0.0625),
    "skew": lambda rng, shape: rng.beta(0.5, 1.5, shape),
    "counts with ties": lambda rng, shape: rng.binomial(8, LIMIT, shape) / 8,
}


def most_false(n_draws):
    """False rejections that a test of level DELTA stays within with probability 0.999."""
    return binom.ppf(0.999, n_draws, DELTA) / n_draws


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("n_blocks", [5, 20, 300])
@pytest.mark.parametrize("method", P_VALUES)
def test_false_rejections_stay_within_delta_at_the_limit(method, n_blocks, population):
    rng = np.random.default_rng(n_blocks)
    losses = POPULATIONS[population](rng, (n_blocks, N_DRAWS))
    if method == "exact":  # every draw is rounded with uniforms of its own
        losses = (rng.uniform(size=losses.shape) < losses).astype(float)
    found = p_values(losses, LIMIT, method=method)
    assert (found <= DELTA).mean() <= most_false(N_DRAWS)


@pytest.mark.parametrize("n_blocks", [5, 20, 300])
def test_bets_stay_valid_with_any_prior_and_very_negative_losses(n_blocks):
    rng = np.random.default_rng(0)
    losses = np.where(rng.random((n_blocks, N_DRAWS)) < 0.5, 1.0, 2 * LIMIT - 1.0)
    for prior in ((-5.0, 0.01), (0.9, 1.0), (0.0, 0.0)):
        found = betting_p_values(losses, LIMIT, prior=prior)
        assert (found <= DELTA).mean() <= most_false(N_DRAWS)


@pytest.mark.parametrize("method", P_VALUES)
def test_every_method_certifies_when_there_is_nothing_but_good_news(method):
    found = p_values(np.zeros((40, 2)), LIMIT, method=method)
    assert found.shape == (2,)
    assert (found < 0.01).all()
    assert p_values(np.zeros(40), LIMIT, method=method) == pytest.approx(found[0])


@pytest.mark.parametrize("method", P_VALUES)
def test_more_loss_is_no_better_evidence(method):
    losses = np.concatenate([np.zeros(30), [0.0] * 5])
    worse = losses.copy()
    worse[[3, 17]] = 1.0
    assert p_values(worse, LIMIT, method=method) > p_values(losses, LIMIT, method=method)


def test_exact_p_values_are_the_binomial_tail():
    losses = np.array([1.0] * 2 + [0.0] * 18)
    assert exact_p_values(losses, LIMIT) == pytest.approx(binom.cdf(2, 20, LIMIT))


def test_exact_p_values_round_by_the_uniforms():
    losses = np.full(20, 0.3)
    few = exact_p_values(losses, LIMIT, uniforms=np.full(20, 0.9))
    assert few == pytest.approx(binom.cdf(0, 20, LIMIT))
    with pytest.raises(ValueError, match="uniforms"):
        exact_p_values(losses, LIMIT)


def test_hoeffding_bentkus_without_loss_is_the_chance_of_seeing_none():
    assert hoeffding_bentkus_p_values(np.zeros(20), LIMIT) == pytest.approx((1 - LIMIT) ** 20)


def test_bets_equal_the_product_written_out():
    losses, mean, variance, capital, best = [0.1, 0.0, 0.6, 0.2], LIMIT / 2, (LIMIT / 2) ** 2, 1.0, 1.0
    for i, loss in enumerate(losses):
        values = np.array(losses[:i])
        m = (mean + values.sum()) / (1 + i)
        v = (variance + (mean - m) ** 2 + ((values - m) ** 2).sum()) / (1 + i)
        stake = min(max((LIMIT - m) / (v + (LIMIT - m) ** 2), 0.0), 0.99 / (1 - LIMIT))
        capital *= 1 + stake * (LIMIT - loss)
        best = max(best, capital)
    assert betting_p_values(np.array(losses), LIMIT) == pytest.approx(1 / best)


def test_a_good_prior_needs_fewer_blocks():
    losses = np.array([0.8, *[0.05] * 19])  # a bad start: without a prior the bets stay small for long
    informed = betting_p_values(losses, LIMIT, prior=(np.array(0.09), np.array(0.02)))
    assert informed < betting_p_values(losses, LIMIT)


@pytest.mark.parametrize(
    ("losses", "limit", "method", "words"),
    [
        (np.array([0.1, 1.2]), 0.2, "betting", "from -inf to 1"),
        (np.array([-0.1, 0.2]), 0.2, "hoeffding_bentkus", "from 0 to 1"),
        (np.array([np.nan, 0.2]), 0.2, "betting", "losses must be"),
        (np.zeros((0, 3)), 0.2, "betting", "at least 1 block"),
        (np.zeros(3), 1.0, "betting", "limit"),
        (np.zeros(3), 0.2, "hopeful", "betting, hoeffding_bentkus"),
    ],
)
def test_what_cannot_be_tested_is_refused(losses, limit, method, words):
    with pytest.raises(ValueError, match=words):
        p_values(losses, limit, method=method)
