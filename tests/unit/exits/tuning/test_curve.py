import numpy as np
import pytest

from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.calibration import policy_curve, thresholds_of
from eeasr_modules.exits.tuning.replay import choice_point


def test_thresholds_lie_midway_between_observed_values_with_one_beyond_each_end(make_table):
    table = make_table(n=20)
    values = np.unique(table.signals["entropy"][:, :-1])
    thresholds = thresholds_of(parse_policy("entropy"), table)
    assert len(thresholds) == len(values) + 1
    assert thresholds[0] < values[0] and thresholds[-1] > values[-1]
    gaps, middle = np.diff(values), (values[1:] + values[:-1]) / 2
    assert (np.abs(thresholds[1:-1] - middle) <= gaps / 4 + 1e-12).all()


def test_many_values_are_thinned_evenly_by_rank(make_table):
    table = make_table(n=3000)
    table.signals["entropy"] = np.random.default_rng(0).exponential(size=(3000, 4))
    thresholds = thresholds_of(parse_policy("entropy"), table, n_thresholds=50)
    assert 45 <= len(thresholds) <= 52
    share = np.searchsorted(np.sort(table.signals["entropy"][:, :-1].ravel()), thresholds[1:-1]) / 9000
    assert np.diff(share) == pytest.approx(np.full(len(share) - 1, 1 / (len(share) - 1)), abs=0.002)


def test_the_ends_of_a_curve_are_the_first_and_the_last_exit(make_table):
    table = make_table()
    for text in ("entropy", "confidence", "margin", "similarity", "patience(1)", "random"):
        curve = policy_curve(parse_policy(text), table)
        assert curve.cost.min() == pytest.approx(2), text
        assert curve.cost.max() == pytest.approx(8), text
        assert policy_curve(parse_policy(text), table, cost="cost_macs").cost.max() > 2.7 + 0.4 * 8


@pytest.mark.parametrize("cost", ["cost_layers", "cost_macs"])
@pytest.mark.parametrize(
    "text", ["entropy", "between(4, 8, patience(1))", "between(patience(2))", "static", "margin(0.5)"]
)
def test_every_point_of_a_curve_is_what_replay_gives(make_table, text, cost):
    table = make_table(2, n=15)
    curve = policy_curve(parse_policy(text), table, cost=cost)
    for policy, paid, wer in zip(curve.policies, curve.cost, curve.wer):
        assert (paid, wer) == pytest.approx(choice_point(policy, table, cost=cost)), str(policy)


def test_an_open_window_tries_every_pair_of_exits(make_table):
    table = make_table(n=10)
    curve = policy_curve(parse_policy("between(entropy(0.5))"), table)
    windows = {(p.floor_layer, p.ceiling_layer) for p in curve.policies}
    assert windows == {(f, c) for f in (2, 4, 6, 8) for c in (2, 4, 6, 8) if f <= c}
    assert len(curve.policies) == 10


def test_the_frontier_of_a_curve_holds_exactly_the_points_that_none_beats(make_table):
    curve = policy_curve(parse_policy("between(entropy)"), make_table(n=12))
    points = list(zip(curve.cost, curve.wer))
    best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    kept = curve.frontier()
    assert set(zip(kept.cost, kept.wer)) == best
    assert (np.diff(kept.cost) > 0).all()


def test_windows_can_be_calibrated_outermost_only(make_table):
    for text in ("any(between(entropy(1)), margin(1))", "between(2, 4, between(entropy(1)))"):
        with pytest.raises(ValueError, match="only an outermost between"):
            policy_curve(parse_policy(text), make_table())
