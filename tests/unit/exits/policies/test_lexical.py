import numpy as np
import pytest
from sentences import sentence_table

from eeasr_modules.exits.policies.lexical import LexicalModel
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.fit import fit_model, scores_of
from eeasr_modules.exits.tuning.replay import choice_point


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
