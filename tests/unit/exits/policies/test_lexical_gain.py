"""Policies `gain` and `lexical`: their fits, checked by hand on small tables."""

from dataclasses import replace

import numpy as np
import pytest
from sentences import sentence_table
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from eeasr_modules.exits.policies.lexical_gain import (
    GainModel,
    LexicalModel,
    exit_position,
    lookahead,
    ridge,
    weighted_sum,
)
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.replay import choice_point, fit_model, scores_of


def test_ridge_equals_that_of_scikit_learn_on_standardised_columns():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(200, 3)) * [1, 10, 0.1] + [5, 0, 1], rng.normal(size=(200, 2)), rng.uniform(1, 9, 200)
    weights, intercepts = ridge(x, y, sample_weights=w, strength=30.0)
    scaler = StandardScaler().fit(x, sample_weight=w)
    theirs = Ridge(alpha=30.0).fit(scaler.transform(x), y, sample_weight=w)
    assert weights == pytest.approx(theirs.coef_ / scaler.scale_, rel=1e-6)
    assert x @ weights.T + intercepts == pytest.approx(theirs.predict(scaler.transform(x)), rel=1e-6)


def test_a_column_that_never_changes_gets_no_weight_and_equal_columns_share_theirs():
    x = np.array([[1.0, 7.0, 1.0], [2.0, 7.0, 2.0], [4.0, 7.0, 4.0]])
    weights, intercepts = ridge(x, x[:, :1] * 2 + 1, sample_weights=np.ones(3), strength=0.0)
    assert weights[0] == pytest.approx([1.0, 0.0, 1.0]) and intercepts == pytest.approx([1.0])


def test_fitting_finds_a_linear_rule_that_the_errors_follow():
    table = sentence_table(1, n=300)
    seconds, n_exits = table.duration_s[:, None], table.n_exits
    hope = np.random.default_rng(0).uniform(0, 4, (300, n_exits)).round()
    # what exit k leaves is its own signal x words; the last exit is right
    words = table.n_ref_words[:, None]
    wrong = np.minimum(hope, words).astype(int)
    wrong[:, -1] = 0
    table = replace(table, n_sub=wrong, n_del=0 * wrong, n_ins=0 * wrong, signals={"x": wrong / seconds})
    model = GainModel.fit([table], name="gain", signals=("x",), strength=1e-9)
    assert model.weights[:-1, -1, 0] == pytest.approx(np.ones(n_exits - 1))
    assert model.intercepts[:-1, -1] == pytest.approx(np.zeros(n_exits - 1), abs=1e-6)


def test_the_score_is_the_best_gain_per_layer_over_all_later_exits():
    assert lookahead(np.array([[1.0, 9.0], [1.0, 1.0]]), 0, exit_layers=(2, 4, 8)) == pytest.approx([1.5, 0.5])
    weights = np.zeros((3, 3, 1))
    weights[0, 1], weights[0, 2] = 1.0, 2.0
    model = GainModel("gain", ("x",), (2, 4, 8), weights, np.zeros((3, 3)))
    score, _ = model.step({"x": np.array([3.0]), "exit_layer": np.array([2])}, model.start(1))
    assert score == pytest.approx([max(3.0 / 2, 6.0 / 6)])


def test_a_row_has_the_same_bits_alone_and_in_every_batch():
    table = sentence_table(2, n=64)
    model = fit_model("gain", [table])
    whole = scores_of(model, table)
    for rows in (np.array([5]), np.arange(7), np.random.default_rng(0).permutation(64)[:33]):
        assert (scores_of(model, table.select(rows)) == whole[rows]).all()
    columns = [np.random.default_rng(1).normal(size=1000) for _ in range(3)]
    weights, intercepts = np.random.default_rng(2).normal(size=(5, 3)), np.ones(5)
    together = weighted_sum(columns, weights, intercepts)
    alone = [weighted_sum([column[i : i + 1] for column in columns], weights, intercepts)[0] for i in range(1000)]
    assert (together == np.array(alone)).all()


def test_durations_guessed_from_references_are_not_used():
    table = sentence_table(3)
    approximate = replace(table, metadata={**table.metadata, "duration_is_approximate": True})
    seconds = approximate.signal("duration_s")
    heard = np.array([[len(text) for text in row] for row in table.hypotheses])
    assert seconds == pytest.approx(0.5 + np.maximum(3, heard) / 15.5)
    assert (table.signal("duration_s") == table.duration_s[:, None]).all()
    longer = replace(
        approximate, duration_s=2 * table.duration_s, cost_layers=2 * table.cost_layers
    )  # the same transcripts
    first, second = (fit_model("gain", [one]) for one in (approximate, longer))
    assert (first.weights == second.weights).all()


def test_several_tables_are_pooled_and_other_exits_and_missing_signals_refused():
    first, second = sentence_table(1, n=40), sentence_table(2, n=50, name="dev-2")
    both = fit_model("gain", [first, second])
    assert both.fitted_on["n_utterances"] == 90 and both.fitted_on["set_names"] == ["dev", "dev-2"]
    assert not np.array_equal(both.weights, fit_model("gain", [first]).weights)
    with pytest.raises(ValueError, match=r"must have the same exits, got layers \[2, 4, 6, 8\] and \[2, 4\]"):
        fit_model("gain", [first, sentence_table(layers=(2, 4))])
    with pytest.raises(ValueError, match=r"needs a signal that is not there: .* no signal 'entropy'; it has: char"):
        fit_model("gain", [sentence_table(entropy=False)])
    fit_model("gain_text", [sentence_table(entropy=False)])


def test_a_step_must_be_at_one_of_the_exits():
    assert exit_position(np.array([6, 6]), (2, 4, 6)) == 2
    assert exit_position(np.array([], dtype=int), (2, 4, 6)) == 0
    for layers in ([5], [2, 4]):
        with pytest.raises(ValueError, match=r"must be at one of the exits after layers \[2, 4, 6\]"):
            exit_position(np.array(layers), (2, 4, 6))


def test_weights_of_another_shape_or_that_are_not_finite_are_refused():
    for weights in (np.zeros((2, 2, 2)), np.full((2, 2, 1), np.nan)):
        with pytest.raises(ValueError, match=r"weights of gain must be finite and of shape \(2, 2, 1\)"):
            GainModel("gain", ("x",), (2, 4), weights, np.zeros((2, 2)))


def test_the_score_rises_with_the_errors_and_is_one_sum_at_all_exits():
    table = sentence_table(0, n=200)
    model = fit_model("lexical_text", [table])
    scores = scores_of(model, table)
    wrong = table.errors / table.duration_s[:, None]
    assert np.corrcoef(scores[:, 1:-1].ravel(), wrong[:, 1:-1].ravel())[0, 1] > 0.5
    expected = sum(w * table.signal(name) for w, name in zip(model.weights, model.signals)) + model.intercept
    assert scores[:, :-1] == pytest.approx(expected[:, :-1])


def test_a_table_of_two_exits_or_one_can_be_fitted():
    for layers in ((2, 8), (8,)):
        table = sentence_table(0, n=30, layers=layers)
        assert np.isfinite(fit_model("lexical_text", [table]).weights).all()


def test_it_needs_no_acoustic_signal_in_its_text_form():
    table = sentence_table(0, entropy=False)
    model = fit_model("lexical_text", [table])
    assert set(model.needs) == {"rarity", "char_change"}
    policy = parse_policy("between(2, 8, lexical_text(0.5))")
    with pytest.raises(ValueError, match="is open and cannot be replayed"):
        choice_point(policy, table)


def test_weights_must_be_one_for_each_signal():
    with pytest.raises(ValueError, match="weights of lexical must be 2 finite numbers"):
        LexicalModel("lexical", ("a", "b"), (2, 4), np.array([1.0]), 0.0)
    with pytest.raises(ValueError, match="weights of lexical must be 1 finite numbers"):
        LexicalModel("lexical", ("a",), (2, 4), np.array([1.0]), float("nan"))
