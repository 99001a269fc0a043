import json

import numpy as np
import pytest

from eeasr_modules.exits.measure.bounds import (
    auroc,
    overthinking,
    pooled_auroc,
    pooled_wer,
    signal_auroc,
    signal_aurocs,
)


def test_wer_is_summed_errors_over_summed_words_not_a_mean():
    assert pooled_wer(np.array([1, 0]), np.array([1, 99])) == 1.0


def test_overthinking_counts_each_kind_by_its_definition():
    errors = np.array([[1, 0, 2], [0, 0, 0], [3, 2, 1], [2, 1, 2], [1, 1, 0]])
    shares = overthinking(errors)
    assert (shares.better, shares.destructive, shares.wasteful) == (0.4, 0.2, 0.2)
    alone = overthinking(np.array([[0], [2]]))
    assert (alone.better, alone.destructive, alone.wasteful) == (0, 0, 0)


def test_auroc_equals_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 80), rng.random(80) < 0.4
    true, false = scores[labels][:, None], scores[~labels][None, :]
    assert auroc(scores, labels) == pytest.approx(((true > false) + 0.5 * (true == false)).mean())
    assert np.isnan(auroc(np.array([1, 2]), np.array([True, True])))


def test_a_signal_is_oriented_by_what_it_means(make_table):
    table = make_table(n=200)
    no_worse = table.errors <= table.errors[:, -1:]
    table.signals["entropy"] = 1.0 - no_worse
    table.signals["confidence"] = no_worse.astype(float)
    table.signals["nbest_posterior"] = no_worse.astype(float)
    for name in ("entropy", "confidence", "nbest_posterior"):
        assert signal_auroc(table, name).tolist() == [1, 1, 1]
    assert np.abs(signal_auroc(table, "char_change") - 0.5).max() < 0.15


def test_pooled_auroc_takes_all_inner_exits_as_one_sample(make_table):
    table = make_table(n=100)
    inner = table.errors[:, :-1] <= table.errors[:, -1:]
    for name, sign in (("entropy", -1), ("confidence", 1)):
        values = sign * table.signals[name][:, :-1]
        true, false = values[inner][:, None], values[~inner][None, :]
        assert pooled_auroc(table, name) == pytest.approx(((true > false) + 0.5 * (true == false)).mean())


def test_worth_of_all_signals_is_json_even_where_undefined(make_table):
    table = make_table(n=20)
    worth = signal_aurocs(table)
    assert set(worth) == set(table.signals)
    assert worth["entropy"]["per_exit"] == pytest.approx(signal_auroc(table, "entropy").tolist())
    table.n_sub[:] = 0
    table.n_ins[:] = 0
    undefined = signal_aurocs(table)
    assert undefined["entropy"] == {"per_exit": [None] * 3, "pooled": None}
    json.dumps(undefined, allow_nan=False)
