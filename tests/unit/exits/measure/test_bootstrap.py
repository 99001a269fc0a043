import numpy as np
import pytest

from eeasr_modules.exits.measure.bootstrap import (
    MIN_SPEAKERS,
    blocks_of,
    bootstrap_above_static,
    bootstrap_difference,
    bootstrap_test,
    bootstrap_wer,
)
from eeasr_modules.exits.measure.bounds import static_line


def draw_set(rng, *, n_speakers=40, n_each=10, n_words=10):
    """Errors of two systems: speakers differ much, the two systems little."""
    rate = np.repeat(rng.uniform(0.02, 0.4, n_speakers), n_each)
    first = rng.binomial(n_words, rate)
    second = first + rng.binomial(1, 0.2, len(rate)) - rng.binomial(np.minimum(first, 1), 0.3)
    speakers = np.repeat([f"s{i}" for i in range(n_speakers)], n_each)
    return first, second, np.full(len(rate), n_words), speakers


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        errors, _, words, speakers = draw_set(rng, n_each=4)
        interval = bootstrap_wer(errors, words, speakers=speakers, rng=rng, n_draws=200)
        held += interval.low <= 21.0 <= interval.high
    assert 0.89 <= held / 300 <= 0.98


def test_paired_intervals_are_much_narrower_than_those_of_each():
    first, second, words, speakers = draw_set(np.random.default_rng(1))
    known = {"speakers": speakers, "rng": np.random.default_rng(2)}
    single = bootstrap_wer(first, words, **known)
    paired = bootstrap_difference(first, second, n_ref_words=words, **known)
    assert paired.estimate == pytest.approx(100 * (first.sum() - second.sum()) / words.sum())
    assert paired.high - paired.low < 0.5 * (single.high - single.low)
    assert paired.low <= paired.estimate <= paired.high
    assert (single.blocks, single.n_blocks) == ("speakers", 40)


def test_few_speakers_are_resampled_all_the_same_and_nothing_is_concluded_from_them():
    few, enough = (np.repeat([f"s{i}" for i in range(n)], 5) for n in (MIN_SPEAKERS - 1, MIN_SPEAKERS))
    for speakers, conclusive in ((few, False), (enough, True)):
        # speakers differ, their utterances do not: over utterances the interval would be half as wide
        errors = np.repeat(np.arange(len(speakers) // 5), 5)
        interval = bootstrap_wer(errors, np.full(len(speakers), 10), speakers=speakers, rng=np.random.default_rng(0))
        assert (interval.blocks, interval.n_blocks) == ("speakers", len(speakers) // 5)
        assert interval.conclusive == conclusive and interval.high - interval.low > 20


def test_unknown_speakers_or_a_single_one_mean_utterances_and_it_is_said():
    enough = np.repeat([f"s{i}" for i in range(MIN_SPEAKERS)], 5)
    unknown = enough.copy()
    unknown[0] = ""
    assert blocks_of(unknown)[1] == "utterances"
    one = np.full(35, "s")
    interval = bootstrap_wer(np.ones(35, dtype=int), np.full(35, 10), speakers=one, rng=np.random.default_rng(0))
    assert not interval.conclusive
    assert (interval.blocks, interval.n_blocks, interval.low, interval.high) == ("utterances", 35, 10, 10)


def test_the_same_seed_gives_the_same_interval():
    errors, _, words, speakers = draw_set(np.random.default_rng(1))
    one, two = (bootstrap_wer(errors, words, speakers=speakers, rng=np.random.default_rng(7)) for _ in range(2))
    assert one == two


def test_distance_to_the_static_line_is_zero_for_a_fixed_exit_on_the_line(make_table):
    table = make_table(3, n=80, n_speakers=16)
    known = {
        "costs": table.cost_layers,
        "n_ref_words": table.n_ref_words,
        "weights": table.duration_s,
        "speakers": table.speakers,
        "rng": np.random.default_rng(0),
    }
    first_exit = bootstrap_above_static(np.zeros(80, dtype=int), table.errors, **known)
    assert (first_exit.estimate, first_exit.low, first_exit.high) == pytest.approx((0, 0, 0), abs=1e-9)


def test_distance_to_the_static_line_is_measured_at_what_the_choice_paid(make_table):
    table = make_table(3, n=80, n_speakers=16)
    rng = np.random.default_rng(5)
    chosen, rows = rng.integers(0, 4, 80), np.arange(80)
    known = {"n_ref_words": table.n_ref_words, "weights": table.duration_s}
    line = static_line(table.errors, table.cost_layers, **known)
    paid = 1.1 * table.cost_layers[rows, chosen]
    interval = bootstrap_above_static(
        chosen,
        table.errors,
        costs=table.cost_layers,
        **known,
        speakers=table.speakers,
        rng=rng,
        chosen_costs=paid,
    )
    wer = 100 * table.errors[rows, chosen].sum() / table.n_ref_words.sum()
    assert interval.estimate == pytest.approx(wer - line.at(paid.sum() / table.duration_s.sum()))
    assert interval.low < interval.estimate < interval.high


def test_beyond_the_best_exit_the_static_line_is_flat():
    errors = np.tile([[2, 1, 3]], (12, 1))
    costs = np.tile([[1.0, 2.0, 3.0]], (12, 1))
    ones, speakers = np.ones(12), np.array([f"s{i}" for i in range(12)])
    interval = bootstrap_above_static(
        np.ones(12, dtype=int),
        errors,
        costs=costs,
        n_ref_words=10 * ones,
        weights=ones,
        speakers=speakers,
        rng=np.random.default_rng(0),
        chosen_costs=5 * ones,  # more than any exit costs: deciding was dear
    )
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0, 0, 0))


def test_the_p_value_is_small_where_the_interval_leaves_out_zero():
    rng = np.random.default_rng(0)
    words, speakers = np.full(300, 10), np.array([f"s{i % 30}" for i in range(300)])
    errors = rng.integers(0, 4, 300)
    arguments = {"n_ref_words": words, "speakers": speakers}
    for other, clear in ((errors + rng.integers(0, 2, 300), True), (rng.permutation(errors), False)):
        interval, p = bootstrap_test(errors, other, **arguments, rng=np.random.default_rng(1))
        assert interval == bootstrap_difference(errors, other, **arguments, rng=np.random.default_rng(1))
        assert (p < 0.05) == clear == (interval.high < 0)
    assert bootstrap_test(errors, errors, **arguments, rng=rng)[1] == 1.0


@pytest.mark.parametrize("worse", [0, 1])
def test_the_p_value_is_two_sided(worse):
    """A difference of one standard error happens by chance in 32 of 100 cases; seen from one side alone, in 16."""
    rng = np.random.default_rng(3)
    changed = rng.normal(size=400)
    changed += np.sqrt(np.mean((changed - changed.mean()) ** 2) / 400) - changed.mean()
    sides = changed, np.zeros(400)
    known = {"n_ref_words": np.full(400, 10), "speakers": np.array([f"s{i}" for i in range(400)])}
    interval, p = bootstrap_test(sides[worse], sides[1 - worse], **known, rng=np.random.default_rng(0), n_draws=4000)
    assert np.sign(interval.estimate) == (1, -1)[worse]
    assert p == pytest.approx(0.317, abs=0.03)
