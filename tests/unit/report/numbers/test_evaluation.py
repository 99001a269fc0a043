"""Policies on a set, calibrated elsewhere."""

import numpy as np
import pytest

from eeasr_modules.exits import choice_point, choose, oracle_c, parse_policy, replay
from eeasr_modules.exits.tables.table import speaker_folds
from eeasr_modules.report.numbers.evaluation import (
    AS_GIVEN,
    CROSS_FIT,
    Rules,
    curve_points,
    evaluate,
    folds_of,
    grids,
    point_of,
    refuse_below_oracle,
)


def evaluated(text, table, *, dev=None, budget=0.75, calibrated=None, **rules):
    policy = parse_policy(text)
    rules = Rules((budget, *rules.pop("more", ())), **rules)
    dev_grids = grids([policy], dev, cost=rules.cost) if dev is not None else None
    outcomes, unmet = evaluate([policy], table, dev=dev, dev_grids=dev_grids, rules=rules, calibrated=calibrated)
    assert not unmet
    return outcomes[text]


def test_with_dev_the_choice_is_that_of_the_policy_chosen_on_dev(make_table):
    table, dev = make_table(), make_table("dev", seed=1)
    outcome = evaluated("between(entropy)", table, dev=dev)
    chosen = choose(dev, parse_policy("between(entropy)"), budget=0.75)
    assert outcome.choices[0].calibrated == (str(chosen.policy),)
    assert outcome.calibrated_on == "dev"
    assert outcome.choices[0].calibration_point == pytest.approx((chosen.dev_cost, chosen.dev_wer))
    assert np.array_equal(outcome.choices[0].exit_index, replay(chosen.policy, table))
    assert point_of(outcome.choices[0].exit_index, table) == pytest.approx(choice_point(chosen.policy, table))


def test_a_text_that_was_calibrated_before_is_not_calibrated_again(make_table):
    table, dev = make_table(), make_table("dev", seed=1)
    outcome = evaluated("entropy", table, dev=dev, calibrated={"entropy": "entropy(0.02)"})
    assert outcome.choices[0].calibrated == ("entropy(0.02)",)
    assert np.array_equal(outcome.choices[0].exit_index, replay(parse_policy("entropy(0.02)"), table))


def test_a_cross_fit_never_judges_a_speaker_by_its_own_threshold(make_table):
    table = make_table(n=120)
    outcome = evaluated("entropy", table)
    fold = folds_of(table)
    assert outcome.calibrated_on == f"{CROSS_FIT} (2 folds)"
    for side in (0, 1):
        chosen = choose(table.select(fold != side), parse_policy("entropy"), budget=0.75).policy
        assert np.array_equal(outcome.choices[0].exit_index[fold == side], replay(chosen, table.select(fold == side)))


def test_thresholds_set_on_the_evaluated_set_have_no_calibration_name(make_table):
    assert evaluated("entropy", make_table(n_speakers=5)).calibrated_on is None


def test_a_policy_with_nothing_open_is_reported_as_given_wherever_it_lies(make_table):
    outcome = evaluated("static(8)", make_table(), budget=0.5)
    assert outcome.calibrated_on == AS_GIVEN
    assert (outcome.choices[0].exit_index == 3).all()


def test_a_budget_that_cannot_be_met_is_a_reason_and_no_outcome(make_table):
    table, policy = make_table(), parse_policy("between(6, 8, entropy)")
    outcomes, unmet = evaluate([policy], table, dev=None, dev_grids=None, rules=Rules((0.5,)))
    assert outcomes == {}
    assert "cannot meet the budget of 4 layers" in unmet[str(policy)]


def test_macs_count_every_head_that_is_read(make_table):
    table = make_table()
    costs = table.cost_macs[:, -1] + table.head_macs[:, -1]
    never_stops = evaluated("entropy(-9)", table, costs=("depth", "macs"))
    assert (never_stops.choices[0].exit_index == 3).all()
    expected = (costs + table.head_macs[:, :3].sum(axis=1)).sum()
    assert never_stops.choices[0].paid["macs"].sum() * 1e9 == pytest.approx(expected)
    static = evaluated("static(8)", table, costs=("depth", "macs"))
    assert static.choices[0].paid["macs"].sum() * 1e9 == pytest.approx(costs.sum())


def test_a_budget_in_macs_holds_where_thresholds_are_chosen(make_table):
    table, dev = make_table(), make_table("dev", seed=1)
    outcome = evaluated("entropy", table, dev=dev, cost="macs", costs=("depth", "macs"), more=(0.5, 0.9))
    full = (dev.cost_macs + dev.head_macs)[:, -1].sum() / dev.duration_s.sum() / 1e9
    assert [choice.budget for choice in outcome.choices] == [0.75, 0.5, 0.9]
    assert all(choice.calibration_point[0] <= choice.budget * full * 1.001 for choice in outcome.choices)


def test_ten_folds_are_those_of_the_other_commands(make_table):
    table = make_table(n=120, n_speakers=12)
    outcome = evaluated("entropy", table, n_folds=10)
    assert outcome.calibrated_on == f"{CROSS_FIT} (10 folds)"
    fold = speaker_folds(table, 10)
    for side in range(10):
        chosen = choose(table.select(fold != side), parse_policy("entropy"), budget=0.75).policy
        assert np.array_equal(outcome.choices[0].exit_index[fold == side], replay(chosen, table.select(fold == side)))


def test_no_point_of_any_curve_lies_below_the_oracle(make_table):
    for seed in range(5):
        table = make_table(seed=seed, n=40)
        oracle = oracle_c(table.errors, table.cost_layers, n_ref_words=table.n_ref_words, weights=table.duration_s)
        for text in ("random", "between(entropy)", "between(patience(1))"):
            curve = curve_points(evaluated(text, table), table, cost="depth")
            assert len(curve) > 3
            assert (curve[:, 1] >= oracle.at(curve[:, 0]) - 1e-9).all()
            refuse_below_oracle(curve, oracle, policy=text, set_name="test")


def test_a_point_below_the_oracle_is_refused(make_table):
    table = make_table()
    oracle = oracle_c(table.errors, table.cost_layers, n_ref_words=table.n_ref_words, weights=table.duration_s)
    below = np.array([[6.0, oracle.at(6.0) - 0.01]])
    with pytest.raises(ValueError, match=r"entropy on test has a WER of .* below the oracle"):
        refuse_below_oracle(below, oracle, policy="entropy", set_name="test")
