"""benchmarks/risk_simulation.py: draws tested at once certify what each would by itself; and what is judged."""

import numpy as np
import pytest

from eeasr_modules.exits.tuning.risk_losses import RiskTarget
from eeasr_modules.exits.tuning.risk_tests import ExitSums, certifiable, per_exit_tests, sequence_tests

N_SPEAKERS, N_DRAWS = 40, 25


@pytest.fixture
def simulation(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    import risk_simulation_draws
    import risk_simulation_exits

    return risk_simulation_draws, risk_simulation_exits


def speakers(n_exits=2, n_policies=6):
    """Policies that harm more and more, words that differ by speaker and exit; one exit that few leave at."""
    rng = np.random.default_rng(0)
    words = rng.integers(100, 400, (N_SPEAKERS, n_policies, n_exits)).astype(float)
    words[:, 1] *= [1.9, 0.1]
    points = rng.normal(0, 1, (N_SPEAKERS, 1, n_exits)) + np.linspace(-1, 0.6, n_policies)[:, None]
    return ExitSums(0.01 * points * words, words, np.ones((n_policies, n_exits), dtype=bool))


def test_draws_tested_at_once_certify_what_each_does_by_itself(simulation):
    draws, _ = simulation
    sums, target = speakers(), RiskTarget(0.5)
    excess, words = sums.excess.sum(axis=2), sums.words[:, 0].sum(axis=1)
    halves, others = draws.draw_halves(N_SPEAKERS, N_DRAWS)
    together = draws.certified(excess[halves], words[halves], target=target, scale=500.0, rng=np.random.default_rng(3))
    alone = [
        sequence_tests(
            excess[half], words[half], target=target, block_words=500.0, rng=np.random.default_rng(3)
        ).n_certified
        for half in halves.T
    ]
    assert (together.at + 1).tolist() == alone and len(set(alone)) > 1
    assert (together.before >= together.at).all() and (together.before > together.at).any()
    assert (others.sum(axis=0) == N_SPEAKERS // 2).all() and not np.take_along_axis(others, halves, axis=0).any()


def test_so_do_draws_tested_exit_by_exit_without_the_exits_that_are_closed(simulation):
    _, exits = simulation
    sums, target = speakers(), RiskTarget(0.5, per_exit=True)
    drawn = np.argsort(np.random.default_rng(1).random((N_SPEAKERS, N_DRAWS)), axis=0)[:30]
    at, _ = exits.certified_exits(sums, drawn, target=target, rng=np.random.default_rng(3))
    alone = []
    for some in drawn.T:
        own = ExitSums(sums.excess[some], sums.words[some], sums.used)
        kept = np.flatnonzero(certifiable(own, target))
        own = ExitSums(own.excess[:, kept], own.words[:, kept], own.used[kept])
        n = per_exit_tests(own, target=target, rng=np.random.default_rng(3))[0].n_certified
        alone.append(kept[n - 1] if n else -1)
    assert at.tolist() == alone and len(set(alone)) > 1 and 1 not in alone


def test_a_promise_is_broken_by_the_mean_by_the_tail_and_by_the_bound_on_all(simulation):
    draws, _ = simulation
    words, target = np.full((100, 1), 1000.0), RiskTarget(0.5, clip=2.0)
    fine, mean, tail, bound = np.zeros((4, 100))
    mean[:60], tail[:6], bound[:5], fine[:5] = 10.0, 21.0, 2000.0, 15.0
    excess = np.stack([fine, mean, tail, bound], axis=1)
    found = draws.kept(excess, words, target=target, scale=1000.0)
    assert found.broken(0.05).tolist() == [False, True, True, False] and not found.bounded[3]
    assert found.broken(0.07).tolist() == [False, True, False, False]
    bound[:5] = 1000.0
    whole = draws.kept(bound[:, None], words, target=RiskTarget(0.5, clip=60.0), scale=1000.0)
    assert whole.bounded.all() and whole.over_all[0] == 5.0 and whole.broken(0.1).all() and not whole.broken(0.2).any()
    half = np.arange(100)[:, None] >= 50
    assert not draws.kept(tail[:, None], words, target=target, scale=1000.0, among=half).broken(0.01).any()
