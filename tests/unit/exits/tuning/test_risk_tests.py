"""The tests behind a certificate, on populations of known truth: each fails where the line it guards is broken."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from eeasr_modules.exits.tuning.risk_losses import RiskTarget
from eeasr_modules.exits.tuning.risk_terms import blocks_needed, needed_table, refusal
from eeasr_modules.exits.tuning.risk_tests import above_clip, sequence_tests

WORDS = 1000.0
N_DRAWS = 400
MOST = binom.ppf(0.99, N_DRAWS, 0.1)  # violations that delta 0.1 stays within with probability 0.99


def issued(points, *, target, n_speakers, seed=0):
    """Certificates of N_DRAWS draws of speakers: for each, how many policies of the sequence are certified.

    `points` gives the excess in WER points, (n_speakers, n_policies), from a generator.
    """
    rng, words, found = np.random.default_rng(seed), np.full(n_speakers, WORDS), []
    for _ in range(N_DRAWS):
        excess = 0.01 * WORDS * points(rng, n_speakers)
        found.append(sequence_tests(excess, words, target=target, block_words=WORDS, rng=rng))
    return found


def few_lose(share, points, *, better=0.0):
    return lambda rng, n: np.where(rng.random((n, 1)) < share, points, -better)


@pytest.mark.parametrize("n_speakers", [20, 60, 200])
def test_a_share_above_the_clip_that_is_too_large_is_seldom_certified(n_speakers):
    """All others gain, so that the clipped mean is good: only the test of the tail can refuse."""
    target = RiskTarget(0.5)
    share = min(1.03 * target.tail_at(n_speakers), 0.999)
    found = issued(few_lose(share, 2.5, better=1.5), target=target, n_speakers=n_speakers)
    false = sum(one.n_certified > 0 for one in found)
    assert false <= binom.ppf(0.99, N_DRAWS, target.level)  # the tail has half of delta
    assert false > 0 and sum(one.mean_p[0] <= target.level for one in found) > 0.5 * N_DRAWS


@pytest.mark.parametrize("n_speakers", [20, 60, 200])
def test_a_mean_that_is_too_large_is_seldom_certified(n_speakers):
    """Nobody loses more than the clip, so that only the test of the mean can refuse; it has half of delta."""
    target = RiskTarget(0.5, clip=2.0)
    found = issued(few_lose(0.26, 2.0), target=target, n_speakers=n_speakers)  # 0.52 points
    assert all(one.n_above[0] == 0 for one in found)
    assert sum(one.mean_p[0] <= target.level for one in found) <= binom.ppf(0.99, N_DRAWS, target.level)
    assert sum(one.n_certified > 0 for one in found) <= binom.ppf(0.99, N_DRAWS, target.level)


@pytest.mark.parametrize("n_speakers", [20, 60, 200])
def test_three_percent_of_speakers_who_lose_forty_points_are_never_hidden_behind_the_clip(n_speakers):
    """1.2 points over all at eps 0.5: the clipped mean alone is certified in most draws."""
    target = RiskTarget(0.5)
    found = issued(few_lose(0.03, 40.0), target=target, n_speakers=n_speakers)
    assert sum(one.mean_p[0] <= target.level for one in found) > 0.7 * N_DRAWS
    certified = [one for one in found if one.n_certified]
    assert all(one.excess[0] <= 0.5 for one in certified)  # none whose own calibration is above eps
    assert all(one.tail >= 0.03 and target.bound_on_all(clip=one.clip, tail=one.tail) >= 1.2 for one in certified)


def test_none_is_issued_whose_own_excess_is_above_eps():
    """The clip hides one speaker of 100 who loses 90 points, and one in 93 or more may be in the tail."""
    excess, words = np.zeros((100, 1)), np.full(100, WORDS)
    excess[7] = 0.9 * WORDS
    given = {"block_words": WORDS, "rng": np.random.default_rng(0)}
    found = sequence_tests(excess, words, target=RiskTarget(0.5), **given)
    assert found.mean_p[0] <= 0.05 and found.tail_p[0] <= 0.05 and found.excess[0] == pytest.approx(0.9)
    assert found.n_certified == 0
    assert sequence_tests(excess, words, target=RiskTarget(1.0), **given).n_certified == 1


@pytest.mark.parametrize("points", [few_lose(0.006, 90.0), few_lose(0.02, 30.0)])
def test_at_a_clip_of_a_hundred_points_eps_is_kept_over_all_speakers(points):
    """True excess 0.54 and 0.6 points, eps 0.5; the sequence begins with policies that may be certified."""
    target = RiskTarget(0.5, clip=100.0)
    harms = np.array([0.1, 0.5, 1.0])
    found = issued(lambda rng, n: points(rng, n) * harms, target=target, n_speakers=1000)
    assert sum(one.n_certified > 0 for one in found) > 0.5 * N_DRAWS
    assert sum(one.n_certified == 3 for one in found) <= MOST
    assert target.bound_on_all(clip=100.0, tail=found[0].tail) == 0.5


def test_the_tail_that_is_ruled_out_depends_on_the_number_of_speakers_alone():
    target = RiskTarget(0.5)
    assert (
        target.tail_at(20) == pytest.approx(1 - 0.05 ** (1 / 20)) and target.tail_at(59) == target.tail_at(900) == 0.05
    )
    assert RiskTarget(0.5, tail=0.2).tail_at(20) == 0.2
    found = sequence_tests(
        np.zeros((20, 1)), np.full(20, WORDS), target=target, block_words=WORDS, rng=np.random.default_rng(0)
    )
    assert found.tail_p[0] == pytest.approx(0.05) and found.n_certified == 1  # the level exactly


def test_blocks_above_the_clip_are_those_whose_loss_is_for_any_size():
    excess, words = np.array([[2.0], [2.1], [4.0]]), np.array([100, 100, 500])
    # eps 1, clip 2: (100 E - W) / 100 > 1 from E = 2 at 100 words, and from E = 6 at 500
    assert above_clip(excess, words, eps=1.0, clip=2.0, block_words=100).ravel().tolist() == [False, True, False]


@pytest.mark.parametrize(("eps", "clip"), [(0.5, 2.0), (0.5, 100.0), (5.0, 100.0)])
@pytest.mark.parametrize("method", ["betting", "hoeffding_bentkus"])
def test_so_many_flawless_speakers_are_needed_and_not_one_fewer(eps, clip, method):
    target = RiskTarget(eps, clip=clip, p_value=method)
    needed = blocks_needed(target)
    assert needed >= math.log(0.05) / math.log1p(-eps / clip)  # what no method can do with fewer
    for n, n_certified in ((needed, 1), (needed - 1, 0)):
        given = {"target": target, "block_words": WORDS, "rng": np.random.default_rng(0)}
        assert sequence_tests(np.zeros((n, 1)), np.full(n, WORDS), **given).n_certified == n_certified


def test_a_tail_that_is_asked_for_needs_speakers_too():
    assert blocks_needed(RiskTarget(0.5, clip=2.0, tail=0.01)) == math.ceil(math.log(0.05) / math.log(0.99))
    with pytest.raises(ValueError, match="counted for a given clip"):
        blocks_needed(RiskTarget(0.5))


def test_the_table_of_speakers_needed_has_a_dash_where_the_clip_is_not_above_eps():
    rows = [line.split("|") for line in needed_table(0.1, eps_values=[1, 2], clips=[2, 100]).splitlines()]
    assert [cell.strip() for cell in rows[3][1:-1]] == ["eps 2", "-", str(blocks_needed(RiskTarget(2, clip=100)))]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"smallest": 3.0, "p": 0.2, "tail_p": 0.05, "excess": 0.0},
            "takes 11 speakers, even without any excess",
        ),
        ({"smallest": 0.1, "p": 0.2, "tail_p": 0.01, "excess": 0.1}, "p-value 0.2, above 0.05"),
        ({"smallest": 0.1, "p": 0.01, "tail_p": 0.3, "excess": 0.1}, "too many speakers that lose more: p-value 0.3"),
        ({"smallest": 0.1, "p": 0.01, "tail_p": 0.01, "excess": 0.9}, "0.90 points above it on the calibration data"),
    ],
)
def test_a_refusal_says_which_test_failed(found, words):
    said = refusal(RiskTarget(0.5), clip=2.0, tail=0.2, n_blocks=20, **found)
    assert said.startswith("no certificate can be issued for at most 0.5 WER points") and words in said
