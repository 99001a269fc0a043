import json

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from eeasr_modules.exits.measure.bootstrap import (
    bootstrap_difference,
    compare_choices,
    holm,
    matched_pairs_p_value,
)


def drawn_pair(rng, *, shift=0.0, n=240, n_speakers=24):
    """Errors of two choices whose differences are alike within a speaker, words, speakers."""
    speakers = np.repeat([f"s{i}" for i in range(n_speakers)], n // n_speakers)
    habit = np.repeat(rng.normal(0, 0.5, n_speakers), n // n_speakers)
    errors = rng.poisson(2, n)
    return errors, errors + np.round(shift + habit + rng.normal(0, 1, n)), rng.integers(5, 20, n), speakers


def test_a_comparison_agrees_with_the_paired_interval():
    errors, other, words, speakers = drawn_pair(np.random.default_rng(0), shift=1.0)
    arguments = {"n_ref_words": words, "speakers": speakers}
    found = compare_choices(errors, other, **arguments, rng=np.random.default_rng(1))
    interval = bootstrap_difference(errors, other, **arguments, rng=np.random.default_rng(1))
    assert (found.difference, found.low, found.high) == (interval.estimate, interval.low, interval.high)
    assert found.high < 0
    assert found.bootstrap_p < 0.01
    assert found.matched_pairs_p < 0.01
    assert (found.blocks, found.n_blocks, found.better + found.worse <= 24) == ("speakers", 24, True)
    json.dumps(found.as_dict())


def test_equal_choices_do_not_differ():
    errors, _, words, speakers = drawn_pair(np.random.default_rng(0))
    found = compare_choices(errors, errors, n_ref_words=words, speakers=speakers, rng=np.random.default_rng(0))
    assert (found.difference, found.bootstrap_p, found.matched_pairs_p, found.better) == (0.0, 1.0, 1.0, 0)


def test_without_a_difference_few_comparisons_are_significant():
    rng, significant = np.random.default_rng(3), []
    for _ in range(300):
        errors, other, words, speakers = drawn_pair(rng)
        found = compare_choices(errors, other, n_ref_words=words, speakers=speakers, rng=rng, n_draws=200)
        significant.append((found.bootstrap_p <= 0.05, found.matched_pairs_p <= 0.05))
    bootstrap, matched = np.mean(significant, axis=0)
    assert matched <= 0.09
    assert bootstrap <= 0.11  # a bootstrap over 24 speakers is a little liberal


def test_matched_pairs_is_a_paired_t_test_over_segments():
    differences = np.random.default_rng(0).normal(0.3, 1, 30)
    assert matched_pairs_p_value(differences) == pytest.approx(ttest_1samp(differences, 0).pvalue)
    assert np.isnan(matched_pairs_p_value(np.array([3])))
    assert matched_pairs_p_value(np.full(4, 2)) == 0.0


def test_holm_keeps_order_and_never_passes_one():
    assert holm([0.5, 0.01, 0.04]).tolist() == pytest.approx([0.5, 0.03, 0.08])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_few_speakers_have_no_p_value_and_do_not_count_in_holm():
    rng = np.random.default_rng(0)
    errors, words = rng.integers(0, 4, 60), np.full(60, 10)
    many, few = (np.array([f"s{i % n}" for i in range(60)]) for n in (12, 7))
    arguments = {"n_ref_words": words, "rng": rng, "n_draws": 200}
    a, b, c = (
        compare_choices(errors + (k < 2), errors, speakers=one, **arguments) for k, one in enumerate((many, few, many))
    )
    assert b.blocks == "speakers" and b.low > 0
    assert np.isnan([b.bootstrap_p, b.matched_pairs_p]).all()
    adjusted = holm([a.bootstrap_p, b.bootstrap_p, c.bootstrap_p])
    assert np.isnan(adjusted[1]) and adjusted[0] == pytest.approx(2 * a.bootstrap_p) and adjusted[2] == 1.0
