from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits.policies.files import read_policies, write_policies
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.calibration import budget_cost, choose, policy_curve, refuse_same_set
from eeasr_modules.exits.tuning.replay import choice_point, replay

OPEN = ["entropy", "margin", "patience(1)", "static", "random", "between(2, 6, entropy)", "between(entropy)"]


@pytest.mark.parametrize("text", OPEN)
@pytest.mark.parametrize("budget", [0.5, 0.8, 5.5, 1.0])
def test_a_budget_gives_the_lowest_wer_within_it_then_the_lowest_cost(make_table, text, budget):
    table = make_table(4, n=25)
    calibrated = choose(table, parse_policy(text), budget=budget)
    limit = budget * 8 if budget <= 1 else budget
    curve = policy_curve(parse_policy(text), table)
    within = [(w, c) for c, w in zip(curve.cost, curve.wer) if c <= limit + 1e-9]
    assert (calibrated.dev_wer, calibrated.dev_cost) == pytest.approx(min(within))
    assert choice_point(calibrated.policy, table) == pytest.approx((calibrated.dev_cost, calibrated.dev_wer))
    assert not calibrated.policy.is_open


def test_the_search_sees_every_cut_that_the_data_allows(make_table):
    """Brute force over all thresholds that change anything, not over the module's own list."""
    table = make_table(5, n=12)
    values = table.signals["entropy"][:, :-1].ravel()
    cuts = [-1.0, *values]
    points = [choice_point(parse_policy(f"entropy({cut})"), table) for cut in cuts]
    best = min((w, c) for c, w in points if c <= 5.0)
    calibrated = choose(table, parse_policy("entropy"), budget=5.0)
    assert (calibrated.dev_wer, calibrated.dev_cost) == pytest.approx(best)


def test_a_wer_gives_the_lowest_cost_within_it(make_table):
    table = make_table(6)
    target = float(table.wer_per_exit[2])
    calibrated = choose(table, parse_policy("between(entropy)"), wer=target)
    curve = policy_curve(parse_policy("between(entropy)"), table)
    assert calibrated.dev_cost == pytest.approx(curve.cost[curve.wer <= target + 1e-9].min())
    assert calibrated.dev_wer <= target + 1e-9
    assert calibrated.rule.startswith("exit_wer")
    excess = target - float(table.wer_per_exit[-1])
    above = choose(table, parse_policy("between(entropy)"), excess=excess)
    assert (str(above.policy), above.rule) == (str(calibrated.policy), f"exit_excess {excess:g}")


def test_a_share_of_full_cost_holds_for_macs_and_counts_heads(make_table):
    table = make_table(7, n=40)
    calibrated = choose(table, parse_policy("entropy"), budget=0.8, cost="cost_macs")
    full = (table.cost_macs + table.head_macs)[:, -1].sum() / table.duration_s.sum()
    assert calibrated.dev_cost <= 0.8 * full
    assert budget_cost(0.8, table, cost="cost_macs") == pytest.approx(0.8 * full)


def test_budgets_that_cannot_be_are_refused_with_what_can(make_table):
    table = make_table()
    with pytest.raises(ValueError, match=r"exit_budget 0.1 .* cannot be met by entropy on dev: .* reaches is 2;"):
        choose(table, parse_policy("entropy"), budget=0.1)
    with pytest.raises(ValueError, match=r"exit_wer 0 cannot be met by entropy .* lowest WER it reaches is \d"):
        choose(table, parse_policy("entropy"), wer=0)
    with pytest.raises(ValueError, match="must not exceed the encoder's 8 layers, got 9"):
        choose(table, parse_policy("entropy"), budget=9)
    with pytest.raises(ValueError, match="must be above 0"):
        choose(table, parse_policy("entropy"), budget=0)
    with pytest.raises(ValueError, match="counts layers; for cost_macs give a share"):
        choose(table, parse_policy("entropy"), budget=4, cost="cost_macs")
    with pytest.raises(ValueError, match="exactly one of budget, wer and excess"):
        choose(table, parse_policy("entropy"))
    with pytest.raises(ValueError, match="at most one threshold"):
        choose(table, parse_policy("any(entropy, margin)"), budget=0.5)


def test_a_policy_with_nothing_open_is_taken_as_given(make_table):
    calibrated = choose(make_table(), parse_policy("entropy(0.3)"), budget=0.1)
    assert str(calibrated.policy) == "entropy(0.3)"
    assert calibrated.rule == "as given"


def test_live_signals_within_float_noise_choose_the_same_exit(make_table):
    table = make_table(8, n=60)
    policy = choose(table, parse_policy("entropy"), budget=0.6).policy
    chosen = replay(policy, table)
    noisy = table.signals["entropy"] + np.random.default_rng(0).uniform(-1e-4, 1e-4, (60, 4))
    table.signals["entropy"] = noisy
    assert (replay(policy, table) == chosen).all()


def test_reporting_on_the_calibration_set_is_refused(make_table):
    dev, test = make_table(1), make_table(2)
    calibrated = choose(dev, parse_policy("entropy"), budget=0.5)
    refuse_same_set(calibrated.calibrated_on, test)
    with pytest.raises(ValueError, match="report on another set"):
        refuse_same_set(calibrated.calibrated_on, dev)
    renamed = {"set_name": "other name", "manifest_digest": "x"}
    test.metadata["manifest_digest"] = "x"
    with pytest.raises(ValueError, match="'other name'"):
        refuse_same_set(renamed, test)


def test_calibrated_policies_come_back_from_their_file(make_table, tmp_path):
    table = make_table()
    items = [choose(table, parse_policy(text), budget=0.5) for text in ("entropy", "between(patience(2))")]
    path = tmp_path / "model" / "policy.json"
    write_policies(path, items, default=str(items[1].policy))
    back = read_policies(path)
    assert [str(item.policy) for item in back] == [str(items[1].policy), str(items[0].policy)]
    assert str(back[0].open_policy) == "between(patience(2))"
    assert back[1].calibrated_on == items[0].calibrated_on
    assert [str(p) for p in back[1].grid.policies] == [str(p) for p in items[0].grid.policies]
    assert (back[1].grid.wer == items[0].grid.wer).all()
    assert (back[1].dev_cost, back[1].dev_wer) == (items[0].dev_cost, items[0].dev_wer)
    assert [p.name for p in path.parent.iterdir()] == ["policy.json"]


def test_the_grid_of_an_open_window_holds_what_any_budget_buys(make_table):
    calibrated = choose(make_table(4, n=25), parse_policy("between(entropy)"), budget=0.8)
    assert len({(p.floor_layer, p.ceiling_layer) for p in calibrated.grid.policies}) > 1
    assert (np.diff(calibrated.grid.cost) > 0).all() and (np.diff(calibrated.grid.wer) < 0).all()


@pytest.mark.parametrize("text", ["between(entropy)", "between(patience(1))"])
@pytest.mark.parametrize("plain", ["static(2)", "static(6)"])
def test_a_rule_that_lets_everybody_leave_at_one_exit_is_called_static(make_table, text, plain):
    table = make_table(4, n=25)
    wrong = np.full((25, 4), 3)
    wrong[:, int(plain[7]) // 2 - 1] = 0  # one exit is right, the others are not
    table = replace(table, n_sub=wrong, n_ins=0 * wrong)
    calibrated = choose(table, parse_policy(text), budget=1.0, cost="cost_macs")
    assert str(calibrated.policy) == plain and str(calibrated.open_policy) == text
    point = choice_point(calibrated.policy, table, cost="cost_macs")
    assert (calibrated.dev_cost, calibrated.dev_wer) == point


def test_files_that_hold_no_policies_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="calibrate on a dev table first"):
        read_policies(tmp_path / "policy.json")
    (tmp_path / "policy.json").write_text("{}")
    with pytest.raises(ValueError, match="must hold calibrated policies"):
        read_policies(tmp_path / "policy.json")
    with pytest.raises(ValueError, match="at least one policy"):
        write_policies(tmp_path / "policy.json", [])
