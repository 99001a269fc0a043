from dataclasses import replace

import numpy as np
import pytest
from sentences import sentence_table

from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tables.files import import_transcripts
from eeasr_modules.exits.tuning.calibration import choose, cross_fit
from eeasr_modules.exits.tuning.replay import replay


@pytest.mark.parametrize("text", ["between(entropy)", "gain", "between(lexical)"])
def test_each_fold_is_decided_by_what_the_others_choose(text):
    table = sentence_table(0, n=90)
    result = cross_fit(table, parse_policy(text), budgets=[4, 0.75], n_folds=3, n_thresholds=50)
    for b in range(2):
        for i in range(3):
            rows = result.fold == i
            assert (replay(result.policies[b][i], table.select(rows)) == result.exit_index[b, rows]).all()
    chosen = np.arange(90), result.exit_index[0]
    assert result.wer[0] == pytest.approx(100 * table.errors[chosen].sum() / table.n_ref_words.sum())
    assert result.cost == pytest.approx([4, 6], abs=0.8)
    if text == "between(entropy)":
        alone = choose(table.select(result.fold != 0), parse_policy(text), budget=4, n_thresholds=50).policy
        assert str(alone) == str(result.policies[0][0])


def test_what_a_fold_says_changes_nothing_in_how_it_is_decided():
    table = sentence_table(0, n=60)
    before = cross_fit(table, parse_policy("gain"), budgets=[5], n_folds=4)
    rows = before.fold == 2
    poisoned = table.n_ins.copy()
    poisoned[rows, 0] += 9
    after = cross_fit(replace(table, n_ins=poisoned), parse_policy("gain"), budgets=[5], n_folds=4)
    assert (after.exit_index[0, rows] == before.exit_index[0, rows]).all()
    assert str(after.policies[0][2]) == str(before.policies[0][2])


def test_a_budget_that_a_fold_cannot_meet_is_refused(make_table):
    with pytest.raises(ValueError, match=r"exit_budget 1.5 .* cannot be met by entropy on dev"):
        cross_fit(make_table(), parse_policy("entropy"), budgets=[1.5])


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("split", "gain", "text"),
    [
        ("clean", [6.47, 5.20, 4.59, 4.37], [6.50, 5.25, 4.61, 4.42]),
        ("other", [18.40, 15.30, 13.33, 12.54], [18.50, 15.36, 13.36, 12.60]),
    ],
)
def test_gain_reaches_what_was_measured_on_public_traces(shared_data, split, gain, text):
    table = import_transcripts(shared_data / "exit-traces", split)
    for name, asked in (("gain", gain), ("gain_text", text)):
        result = cross_fit(table, parse_policy(name), budgets=[7, 8, 9, 10])
        assert (result.wer <= np.array(asked) + 0.05).all(), name
        assert result.cost == pytest.approx([7, 8, 9, 10], abs=0.1), name
