"""The watch on the risk: its bets by hand, its false-alarm rate on known truth, how soon it finds twice the loss."""

import numpy as np
import pytest
from scipy.stats import binom

from eeasr_modules.exits.tuning.drift import JUMP_RATES
from eeasr_modules.exits.tuning.risk_watch import BETS, RiskWatch


def stream(rng, n, *, share, kind):
    """Errors and words of utterances of 2 to 30 words whose pooled loss is `share` errors per word, in the mean."""
    words = rng.integers(2, 31, n)
    if kind == "rare and large":  # one utterance in fifty loses many of its words
        return rng.binomial(words, np.where(rng.random(n) < 0.02, min(share * 50, 1), 0.0)), words
    if kind == "some mended":  # as many more lost as won back
        return rng.poisson(words * share * 2) - rng.poisson(words * share), words
    return rng.poisson(words * share), words


def alarm_at(watch, errors, words):
    """Utterances until the alarm; infinite where none came."""
    return next((watch.n_seen for e, w in zip(errors, words, strict=True) if watch.add(e, w)), np.inf)


def test_wealth_of_two_utterances_by_hand():
    watch = RiskWatch(2.0, words_cap=100)
    watch.add(1, 10)  # Z = 100 - 20 of at most -200: bets pay 1 + f 0.4
    assert watch.wealth == pytest.approx(np.mean(1 + 0.4 * BETS))
    watch.add(0, 50)  # Z = -100: bets pay 1 - f / 2
    first = 1 + 0.4 * BETS
    expected = np.mean([np.sum(((1 - j) * first + j * first.mean()) * (1 - BETS / 2)) / len(BETS) for j in JUMP_RATES])
    assert watch.wealth == pytest.approx(expected)
    assert (watch.n_seen, watch.lost) == (2, pytest.approx(100 / 60))


def test_caps_make_the_watch_stricter():
    long, short = RiskWatch(2.0), RiskWatch(2.0)
    long.add(0, 4000), short.add(0, 100)
    assert long.wealth == short.wealth > 0
    much, little = RiskWatch(2.0, credit=3), RiskWatch(2.0, credit=3)
    much.add(-50, 60), little.add(-3, 60)
    assert much.wealth == little.wealth > 0


def test_transcripts_count_as_audits_and_as_labels():
    audit, label, by_hand = RiskWatch(2.0), RiskWatch(2.0, credit=5), RiskWatch(2.0, credit=5)
    audit.add_texts("a x c", "a b c")
    label.add_texts("a x c", "a b c", "a x d"), by_hand.add(1 - 2, 3)
    assert (audit.n_errors, audit.n_words) == (1, 3)
    assert label.wealth == by_hand.wealth and label.n_errors == -1


@pytest.mark.parametrize("kind", ["counts", "rare and large", "some mended"])
def test_false_alarms_stay_within_alpha_at_exactly_the_limit(kind):
    alpha, n_streams = 0.1, 200
    alarms = 0
    for seed in range(n_streams):
        rng = np.random.default_rng(seed)
        watch = RiskWatch(2.0, alpha=alpha, credit=5 if kind == "some mended" else 0)
        alarms += alarm_at(watch, *stream(rng, 300, share=0.02, kind=kind)) < np.inf
    assert alarms <= binom.ppf(0.999, n_streams, alpha)


def test_twice_the_allowed_loss_is_found_and_late_too():
    now, late = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        errors, words = stream(rng, 1500, share=0.04, kind="counts")
        now.append(alarm_at(RiskWatch(2.0), errors, words))
        watch = RiskWatch(2.0)
        assert alarm_at(watch, *stream(rng, 1000, share=0.01, kind="counts")) == np.inf
        late.append(alarm_at(watch, errors, words) - 1000)
    assert np.median(now) < 160 and np.median(late) < 260 and np.isfinite(now).all() and np.isfinite(late).all()


@pytest.mark.parametrize(
    ("given", "what"),
    [({"limit": 0}, "limit must be above 0"), ({"alpha": 1}, "alpha must lie"), ({"credit": -1}, "credit must be")],
)
def test_bad_numbers_are_named(given, what):
    with pytest.raises(ValueError, match=what):
        RiskWatch(**{"limit": 2.0} | given)
    with pytest.raises(ValueError, match="words must be at least 0, got -1"):
        RiskWatch(2.0).add(0, -1)
