"""Fitted policies on dev and in replay: cross-fitted scores, thresholds, and models that lie beside a policy."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from sentences import sentence_table

from eeasr_modules.exits.policies.protocol import KINDS, Fitted
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tables.table import speaker_folds
from eeasr_modules.exits.tuning.calibration import Curve, choose, policy_curve, thresholds_of
from eeasr_modules.exits.tuning.replay import (
    choice_point,
    cross_fitted,
    fit_model,
    models_of,
    replay,
    scores_of,
    with_models,
)

NAMES = ["gain", "gain_text", "lexical", "lexical_text"]


def fitted(text, table):
    """A policy whose models were fitted on a table."""
    policy = parse_policy(text)
    names = {name for name in KINDS if name in text.replace("(", " ").replace(",", " ").split()}
    return with_models(policy, {name: fit_model(name, [table]) for name in names})


def test_an_utterance_is_scored_by_a_model_that_never_saw_its_speaker():
    table = sentence_table(0, n=60)
    fold = speaker_folds(table, 10)
    rows = fold == 3
    _, scores = cross_fitted("gain", table)
    expected = scores_of(fit_model("gain", [table.select(~rows)]), table.select(rows))
    assert scores[rows] == pytest.approx(expected)
    # other errors of this fold change the others' scores, never its own
    poisoned = table.n_ins.copy()
    poisoned[rows, 0] += 7
    _, changed = cross_fitted("gain", replace(table, n_ins=poisoned))
    assert (changed[rows] == scores[rows]).all() and not np.allclose(changed[~rows], scores[~rows])


def test_the_reference_is_never_read_when_deciding():
    table = sentence_table(0)
    model = fit_model("gain", [table])
    blind = replace(table, references=None, n_ref_words=table.n_ref_words + 50, n_ref_chars=table.n_ref_chars + 9)
    assert (scores_of(model, blind) == scores_of(model, table)).all()


def test_fitting_a_table_again_costs_nothing_and_keeps_nothing_alive():
    table = sentence_table(0)
    first, again = cross_fitted("lexical", table), cross_fitted("lexical", table)
    assert first[0] is again[0] and first[1] is again[1]
    gone = weakref.ref(table)
    del table, first, again
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("name", NAMES)
def test_an_unfitted_policy_is_open_and_says_what_to_do(name):
    policy = parse_policy(f"{name}(0.1)")
    assert policy.is_open and str(policy) == f"{name}(0.1)"
    with pytest.raises(ValueError, match="is open and cannot be replayed"):
        replay(policy, sentence_table())
    with pytest.raises(ValueError, match=rf"{name}\(0.1\) has not been fitted .* calibrate it on dev"):
        policy.start(3)
    with pytest.raises(ValueError, match=f"{name} must be written {name}"):
        parse_policy(f"{name}(1, 2)")


@pytest.mark.parametrize("text", ["gain", "between(gain_text)", "between(lexical)", "any(gain, patience(2, 0))"])
def test_calibration_fits_and_keeps_to_the_budget_and_the_choice_decides_elsewhere(text):
    dev, test = sentence_table(0, n=150), sentence_table(1, n=150, name="test")
    calibrated = choose(dev, parse_policy(text), budget=5)
    assert calibrated.dev_cost <= 5 * (1 + 1e-9)
    assert not calibrated.policy.is_open and calibrated.open_policy.is_open
    cost, wer = choice_point(calibrated.policy, test)
    assert abs(cost - 5) < 1
    assert test.wer_per_exit[-1] <= wer < test.wer_per_exit[0]


def test_gain_beats_one_threshold_on_its_own_signal():
    dev, test = sentence_table(0, n=400), sentence_table(1, n=400, name="test")
    wers = {}
    for text in ("gain", "entropy"):
        chosen = [choose(dev, parse_policy(text), budget=share).policy for share in np.linspace(0.3, 1, 15)]
        cost, wer = np.transpose([choice_point(policy, test) for policy in dict.fromkeys(chosen)])
        curve = Curve(tuple(dict.fromkeys(chosen)), cost, wer).frontier()
        wers[text] = np.interp([4, 5, 6], curve.cost, curve.wer)
    assert (wers["gain"] < wers["entropy"]).all()


def test_a_given_price_is_kept_and_only_the_model_fitted():
    dev = sentence_table(0)
    calibrated = choose(dev, parse_policy("gain(0.1)"), budget=0.01)
    assert str(calibrated.policy) == "gain(0.1)" and calibrated.rule == "as given"
    assert not calibrated.policy.is_open


@pytest.mark.parametrize("text", ["gain", "between(lexical)", "between(4, 8, gain_text)", "all(gain, entropy(0.2))"])
def test_every_point_of_a_fitted_curve_is_what_replay_of_the_cross_fitted_models_gives(text):
    table = sentence_table(3, n=40)
    fold = speaker_folds(table, 10)
    curve = policy_curve(parse_policy(text), table, n_thresholds=20)
    names = list(models_of(curve.policies[0]))
    of_others = [{name: fit_model(name, [table.select(fold != i)]) for name in names} for i in range(fold.max() + 1)]
    rng = np.random.default_rng(0)
    for at in rng.choice(len(curve.cost), size=min(12, len(curve.cost)), replace=False):
        chosen = np.empty(40, dtype=int)
        for i, models in enumerate(of_others):
            chosen[fold == i] = replay(with_models(curve.policies[at], models), table.select(fold == i))
        rows = np.arange(40), chosen
        assert curve.wer[at] == pytest.approx(100 * table.errors[rows].sum() / table.n_ref_words.sum())
        assert curve.cost[at] == pytest.approx(table.cost_layers[rows].sum() / table.duration_s.sum())


def test_thresholds_lie_midway_between_cross_fitted_scores():
    table = sentence_table(3, n=20)
    scores = np.unique(cross_fitted("gain", table)[1][:, :-1])
    thresholds = thresholds_of(parse_policy("gain"), table)
    assert thresholds[0] < scores[0] and thresholds[-1] > scores[-1]
    assert (np.searchsorted(scores, thresholds) == np.arange(len(scores) + 1)).all()


def test_models_of_other_exits_or_another_recogniser_are_refused_unless_made_for_any():
    dev = sentence_table(0)
    ours = replace(dev, metadata={**dev.metadata, "model_digest": "aaaa"})
    theirs = replace(dev, metadata={**dev.metadata, "model_digest": "bbbb"})
    policy = fitted("gain(0.1)", ours)
    with pytest.raises(ValueError, match=r"fitted for exits after layers \[2, 4, 6, 8\], but the exits are .*\[2, 8\]"):
        replay(policy, sentence_table(layers=(2, 8)))
    with pytest.raises(ValueError, match="fitted on the exits of model aaaa, but the table is of model bbbb; calib"):
        replay(policy, theirs)
    anyones = Fitted("gain", 0.1, replace(policy.model, model_digest=None))
    assert (replay(anyones, theirs) == replay(policy, ours)).all()


def test_a_signal_that_the_table_lacks_is_named():
    bare = sentence_table(entropy=False)
    with pytest.raises(ValueError, match="signal that is not there: the exit table has no signal 'entropy'"):
        choose(bare, parse_policy("gain"), budget=5)
    with pytest.raises(ValueError, match="signal that is not there: the exit table has no signal 'entropy'"):
        replay(fitted("gain(0.1)", sentence_table()), bare)


def test_empty_transcripts_and_a_single_exit_are_decided_like_all_others():
    table = sentence_table(0)
    texts = table.hypotheses.copy()
    texts[:10] = ""
    empty = replace(table, hypotheses=texts)
    for name in NAMES:
        assert np.isfinite(cross_fitted(name, empty)[1]).all()
    single = sentence_table(0, layers=(8,))
    for text in ("gain", "between(lexical)"):
        calibrated = choose(single, parse_policy(text), budget=1.0)
        assert (replay(calibrated.policy, single) == 0).all()


def test_a_model_belongs_to_the_policy_of_its_name():
    model = fit_model("gain", [sentence_table()])
    with pytest.raises(ValueError, match="the policy lexical needs a model fitted as lexical, got one of gain"):
        Fitted("lexical", 0.1, model)
    with pytest.raises(ValueError, match="must be one of gain, gain_text, lexical"):
        fit_model("gane", [sentence_table()])
    assert str(with_models(parse_policy("between(4, 8, any(gain, lexical(1)))"), {"gain": model})) == (
        "between(4, 8, any(gain, lexical(1)))"
    )
