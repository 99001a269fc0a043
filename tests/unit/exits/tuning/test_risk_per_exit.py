"""Every exit's own promise: what a promise about all hides, simulated on known truth, and who is refused."""

import numpy as np
import pytest
from scipy.stats import binom

from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.risk import certify, control_risk, risk_outcome
from eeasr_modules.exits.tuning.risk_losses import RiskTarget, parse_risk
from eeasr_modules.exits.tuning.risk_tests import ExitSums, certifiable, per_exit_tests, sequence_tests

WORDS, N_DRAWS, N = 500.0, 150, 40


def hidden(rng, *, at_first=0.55, at_second=-0.5):
    """Speakers half of whose words leave at each of two exits; points lost at each, in the mean."""
    points = np.stack([at_first + rng.normal(0, 0.8, N), at_second + rng.normal(0, 0.8, N), np.zeros(N)], axis=1)
    words = np.array([WORDS, WORDS, 0.0]) * np.ones((N, 1))
    return ExitSums((0.01 * points * words)[:, None], words[:, None], np.array([[True, True, False]]))


def test_an_exit_that_is_bad_for_those_who_leave_there_is_hidden_by_the_promise_about_all_alone():
    target, rng, one, whole = RiskTarget(0.5, per_exit=True), np.random.default_rng(0), 0, 0
    for _ in range(N_DRAWS):
        sums = hidden(rng)
        one += per_exit_tests(sums, target=target, rng=rng)[0].n_certified
        marginal = sums.excess.sum(axis=2), sums.words[:, 0].sum(axis=1)
        whole += sequence_tests(*marginal, target=target, block_words=2 * WORDS, rng=rng).n_certified
    assert one <= binom.ppf(0.99, N_DRAWS, 0.1) < 0.95 * N_DRAWS < whole


def test_the_bad_exit_may_stand_anywhere_and_good_ones_are_certified():
    target, rng = RiskTarget(0.5, per_exit=True), np.random.default_rng(1)
    second = sum(
        per_exit_tests(hidden(rng, at_first=-0.5, at_second=0.55), target=target, rng=rng)[0].n_certified
        for _ in range(N_DRAWS)
    )
    good = sum(
        per_exit_tests(hidden(rng, at_first=-0.5, at_second=-0.5), target=target, rng=rng)[0].n_certified
        for _ in range(50)
    )
    assert second <= binom.ppf(0.99, N_DRAWS, 0.1) and good >= 45


def test_an_exit_that_few_leave_at_is_closed_whatever_its_errors():
    sums = hidden(np.random.default_rng(0), at_first=90.0)
    for share, fine in ((0.3, True), (0.1, False)):
        words = np.stack([share * WORDS * np.ones(N), (1 - share) * WORDS * np.ones(N), np.zeros(N)], axis=1)
        assert certifiable(ExitSums(sums.excess, words[:, None], sums.used), RiskTarget(0.5)).tolist() == [fine]
    few = ExitSums(sums.excess[:4], sums.words[:4], sums.used)  # speakers
    assert not certifiable(few, RiskTarget(0.5)).any()


def speakers(n_speakers=60, *, bad_first, seed=0):
    """Three exits; those sure at layer 2 lose 6 words of 100 there where it is bad, and win 6 at layer 4."""
    rng, n = np.random.default_rng(seed), n_speakers * 10
    entropy = np.column_stack([rng.uniform(0, 1, n), rng.uniform(0, 1, n), np.zeros(n)]).round(3)
    right = "w " * 100
    last = "x " * 6 + "w " * 94
    texts = [["x " * (12 if bad_first else 6) + "w " * (88 if bad_first else 94), right, last]] * n
    return ExitTable.from_hypotheses(
        texts,
        [right] * n,
        utt_ids=[f"u{i}" for i in range(n)],
        exit_layers=[2, 4, 6],
        duration_s=[1.0] * n,
        n_frames=[50] * n,
        speakers=[f"s{i % n_speakers}" for i in range(n)],
        signals={"entropy": entropy},
        metadata={"n_layers": 6},
    )


def test_the_bad_exit_is_closed_and_the_certificate_says_what_holds_where():
    table = speakers(bad_first=True)
    target = parse_risk("excess=1,delta=0.1,per_exit=true")
    assert target == RiskTarget(1.0, 0.1, per_exit=True) and target.rule == "exit_risk 1, 0.1, per exit"
    whole = control_risk(table, parse_policy("entropy"), target=RiskTarget(1.0))
    found = control_risk(table, parse_policy("entropy"), target=target)
    at_first = risk_outcome(
        whole.policy, table, target=target, exits=[{"exit_layer": 2, "block_words": 400, "tail": 0.1}]
    )
    assert whole.certified and at_first.violated and at_first.excess < 1 < at_first.excess_outside_tail
    assert str(found.policy) == "static(4)" and [one["exit_layer"] for one in found.exits] == [4]
    assert not risk_outcome(found.policy, table, target=target, exits=found.exits).violated
    assert "for every exit by itself" in found.reason and "layer 4 (100 % of the words" in found.reason
    good = certify(speakers(bad_first=False), parse_policy("between(entropy)"), target=target)
    assert str(good.policy) == "static(2)" and good.promise["exits"][0]["exit_layer"] == 2  # no half of the speakers


@pytest.mark.parametrize("text", ["excess=1,delta=0.1,per_exit=2", "per_exit=true,delta=0.1", "excess=true,delta=0.1"])
def test_per_exit_is_true_or_false_beside_a_loss(text):
    with pytest.raises(ValueError, match="per_exit, true or false"):
        parse_risk(text)
