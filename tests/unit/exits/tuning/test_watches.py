"""Watches keep their false-alarm rates on known truth, and see what they should; their bets by hand."""

from bisect import bisect_left, bisect_right
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, kstest

import eeasr_modules
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tables.files import read_table
from eeasr_modules.exits.tuning.replay import replay
from eeasr_modules.exits.tuning.watches import (
    BETS,
    JUMP_RATES,
    N_BETS,
    DriftWatch,
    RiskWatch,
    bet,
    bet_odds,
    drift_score,
    drift_scores,
)

TABLES = Path(eeasr_modules.__file__).parent / "shipped" / "base" / "tables"
SHIPPED_POLICY = "between(5, 7, entropy(0.292))"


def online_ranks(scores, n_calibration, rng):
    """Ranks of scores[n_calibration:] among all before them, for wealth of many streams side by side."""
    ranked, p = sorted(scores[:n_calibration].tolist()), []
    for score in scores[n_calibration:].tolist():
        below, not_above = bisect_left(ranked, score), bisect_right(ranked, score)
        ranked.insert(below, score)
        p.append((below + rng.random() * (not_above - below + 1)) / len(ranked))
    return p


def wealth_paths(p):
    """Wealth after each rank of every stream, for p of shape (n_streams, n_utterances)."""
    shares = np.full((len(p), len(JUMP_RATES), N_BETS), 1 / N_BETS)
    log_wealth = np.zeros((len(p), len(JUMP_RATES)))
    paths = []
    for column in np.asarray(p).T:
        shares, log_wealth = bet(shares, log_wealth, p=column)
        paths.append(np.exp(log_wealth).mean(-1))
    return np.stack(paths, axis=1)


def utterances_to_alarm(watch, scores):
    for score in scores:
        if watch.add(score):
            return watch.alarm_at
    return None


def test_every_bet_is_fair_and_never_ruined():
    p = (np.arange(100_000) + 0.5) / 100_000
    assert bet_odds(p).shape == (100_000, N_BETS)
    np.testing.assert_allclose(bet_odds(p).mean(0), 1, atol=1e-8)
    assert bet_odds(np.linspace(0, 1, 1001)).min() > 0.04


def test_mean_wealth_of_exchangeable_streams_is_one():
    wealth = wealth_paths(np.random.default_rng(0).random((40_000, 5)))[:, -1]
    assert abs(wealth.mean() - 1) < 5 * wealth.std() / 200


@pytest.mark.parametrize("draw", ["smooth", "tied", "heavy"])
@pytest.mark.parametrize("n_calibration", [10, 300])
def test_ranks_are_uniform_whatever_the_scores_are(draw, n_calibration):
    rng = np.random.default_rng(1)
    scores = {"smooth": rng.normal(size=2300), "tied": rng.integers(0, 3, 2300), "heavy": rng.standard_cauchy(2300)}
    ranks = online_ranks(scores[draw][: n_calibration + 2000].astype(float), n_calibration, rng)
    assert kstest(ranks, "uniform").pvalue > 0.001


def test_false_alarms_come_in_at_most_a_share_alpha_of_long_streams():
    rng = np.random.default_rng(2)
    n_streams, n_calibration, n_live = 400, 100, 2000
    scores = rng.normal(size=(n_streams, n_calibration + n_live))
    scores[::2] = scores[::2].round()  # every other stream is nearly all ties
    highest = wealth_paths([online_ranks(row, n_calibration, rng) for row in scores]).max(1)
    for alpha in (0.01, 0.05, 0.1, 0.5):
        alarms = int((highest >= 1 / alpha).sum())
        assert alarms <= alpha * n_streams, f"{alarms} false alarms in {n_streams} at {alpha}"


def test_the_watch_itself_does_as_many_streams_at_once_do():
    scores = np.random.default_rng(3).normal(size=500).round(1)
    watch = DriftWatch(scores[:100], alpha=0.01, seed=7)
    wealth = []
    for score in scores[100:]:
        watch.add(score)
        wealth.append(watch.wealth)
    expected = wealth_paths([online_ranks(scores, 100, np.random.default_rng(7))])[0]
    np.testing.assert_allclose(wealth, expected, rtol=1e-9)
    assert watch.n_seen == 400


@pytest.mark.parametrize(("mean", "scale", "within"), [(3, 1, 20), (1, 1, 60), (-1, 1, 60), (0, 4, 60), (0, 0.2, 120)])
def test_a_shift_at_the_start_is_seen_within_so_many_utterances(mean, scale, within):
    rng = np.random.default_rng(4)
    took = []
    for seed in range(20):
        watch = DriftWatch(rng.normal(size=300), alpha=0.01, seed=seed)
        took.append(utterances_to_alarm(watch, rng.normal(mean, scale, 1000)) or 1000)
    assert np.median(took) <= within, took


def test_a_late_shift_is_seen_too():
    rng = np.random.default_rng(5)
    took = []
    for seed in range(10):
        watch = DriftWatch(rng.normal(size=300), alpha=0.01, seed=seed)
        assert utterances_to_alarm(watch, rng.normal(size=2000)) is None
        took.append((utterances_to_alarm(watch, rng.normal(1, size=500)) or 2500) - 2000)
    assert np.median(took) <= 60, took


def test_an_alarm_stays_and_wealth_never_turns_into_nan():
    watch = DriftWatch(np.arange(100.0))
    for score in np.arange(1000.0, 4000.0):
        watch.add(score)
    assert watch.alarm_at < 20
    assert watch.wealth == np.inf
    for score in np.random.default_rng(6).uniform(0, 4000, 200):
        assert watch.add(score)


def test_a_full_watch_stands_still_and_still_counts():
    watch = DriftWatch([0.0, 1.0], max_scores=5)
    for score in (2.0, 3.0, 4.0):
        watch.add(score)
    before = watch.wealth
    assert watch.full
    assert not any(watch.add(100.0) for _ in range(100))
    assert (watch.wealth, watch.n_seen) == (before, 103)


@pytest.mark.parametrize(
    ("scores", "more", "said"),
    [
        ([], {}, "at least one"),
        ([np.nan], {}, "finite"),
        ([1.0], {"alpha": 0}, "between 0 and 1"),
        ([1.0, 2.0], {"max_scores": 1}, "hold the 2"),
    ],
)
def test_a_watch_that_cannot_be_is_refused(scores, more, said):
    with pytest.raises(ValueError, match=said):
        DriftWatch(scores, **more)


def test_a_score_that_is_no_number_is_refused_and_not_counted():
    watch = DriftWatch([1.0])
    with pytest.raises(ValueError, match="finite"):
        watch.add(np.nan)
    assert watch.n_seen == 0
    with pytest.raises(ValueError, match="finite"):
        drift_score(0, np.inf)


def test_scores_rank_by_exit_first_and_then_by_the_signal(make_table):
    table = make_table(0)
    policy = parse_policy("entropy(0.3)")
    scores, exit_index = drift_scores(table, policy), replay(policy, table)
    taken = table.signal("entropy")[np.arange(table.n_utterances), exit_index]
    assert len(set(exit_index)) > 1
    order = np.argsort(scores, kind="stable")
    np.testing.assert_array_equal(order, np.lexsort((taken, exit_index)))


def test_a_signal_that_is_a_text_is_refused(make_table):
    with pytest.raises(ValueError, match="hypothesis"):
        drift_scores(make_table(0), parse_policy("entropy(0.3)"), signal="hypothesis")


@pytest.mark.parametrize(
    ("stream", "signal", "within"),
    [
        ("librispeech_test-other", "entropy", 40),
        ("commonvoice_test_noise_0db", "blank_rate", 20),
        ("an4_test", "blank_rate", 40),
        ("digits_test", "entropy", None),  # no errors are seen, only scores: these are much like calibration's
    ],
)
def test_shipped_tables_of_other_speech_are_told_from_calibration_where_their_scores_differ(stream, signal, within):
    policy = parse_policy(SHIPPED_POLICY)
    calibration, live = (
        drift_scores(read_table(TABLES / f"{name}.parquet"), policy, signal=signal) for name in ("mixed_dev", stream)
    )
    took = []
    for seed in range(10):
        shuffled = np.random.default_rng(seed).permutation(live)
        took.append(utterances_to_alarm(DriftWatch(calibration, alpha=0.01, seed=seed), shuffled))
    if within is None:
        assert took.count(None) >= 9, took
    else:
        assert None not in took
        assert np.median(took) <= within, took


def test_half_of_the_shipped_calibration_table_raises_no_alarm_against_the_other_half():
    scores = drift_scores(read_table(TABLES / "mixed_dev.parquet"), parse_policy(SHIPPED_POLICY))
    alarms = 0
    for seed in range(100):
        mixed = np.random.default_rng(seed).permutation(scores)
        alarms += utterances_to_alarm(DriftWatch(mixed[:173], alpha=0.05, seed=seed), mixed[173:]) is not None
    assert alarms <= 5


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
