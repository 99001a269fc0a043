from itertools import product

import numpy as np
import pytest

from eeasr_modules.exits.measure.bounds import gap_closed, oracle_a, oracle_b, oracle_c, static_line
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.replay import exit_costs, mean_cost, policy_costs, replay

TEXTS = [
    "static(4)",
    "random(0.4)",
    "entropy(0.4)",
    "confidence(0.5)",
    "patience(1, 0.5)",
    "patience(2, 0.8)",
]
TEXTS += ["between(4, 6, margin(0.3))", "any(entropy(0.2), patience(1, 0.3))", "static(2)", "static(8)"]


def lower_hull(points):
    """Lower convex hull of points, by the textbook chain."""
    hull = []
    for x, y in sorted(set(points)):
        while len(hull) >= 2:
            (x0, y0), (x1, y1) = hull[-2:]
            if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 1e-12:
                break
            hull.pop()
        hull.append((x, y))
    return np.array(hull)


def lines(table, costs):
    known = {"n_ref_words": table.n_ref_words, "weights": table.duration_s}
    return static_line(table.errors, costs, **known), oracle_c(table.errors, costs, **known)


@pytest.mark.parametrize("seed", range(12))
def test_the_frontier_is_the_hull_of_all_choices(make_table, seed):
    table = make_table(seed, n=6, layers=(2, 4, 8) if seed % 2 else (1, 2, 3, 4))
    frontier = lines(table, table.cost_layers)[1]
    rows, words = np.arange(6), table.n_ref_words.sum()
    points = [
        (
            mean_cost(table.cost_layers[rows, choice], table.duration_s),
            100 * table.errors[rows, choice].sum() / words,
        )
        for choice in product(range(table.n_exits), repeat=6)
    ]
    hull = lower_hull(points)
    hull = hull[: hull[:, 1].argmin() + 1]
    for budget in np.linspace(hull[0, 0], table.exit_layers[-1], 40):
        expected = np.interp(budget, hull[:, 0], hull[:, 1])
        assert frontier.at(budget) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("cost", ["cost_layers", "cost_macs"])
def test_no_policy_gets_below_the_frontier_or_oracle_a(make_table, cost):
    for seed in range(10):
        table = make_table(seed, n=40)
        rows = np.arange(40)
        frontier = lines(table, exit_costs(table, cost))[1]
        fewest = table.errors[rows, oracle_a(table.errors)].sum()
        for text in TEXTS:
            policy = parse_policy(text)
            chosen = rows, replay(policy, table)
            paid = mean_cost(policy_costs(policy, table, cost=cost)[chosen], table.duration_s)
            assert 100 * table.errors[chosen].sum() / table.n_ref_words.sum() >= frontier.at(paid) - 1e-9
            assert table.errors[chosen].sum() >= fewest


def test_the_frontier_ends_at_oracle_a_and_lies_under_oracle_b_and_the_static_line(make_table):
    for seed in range(10):
        table = make_table(seed)
        rows, words = np.arange(30), table.n_ref_words.sum()
        static, frontier = lines(table, table.cost_layers)
        a, b = oracle_a(table.errors), oracle_b(table.errors, table.cost_layers)
        assert frontier.wer[-1] == pytest.approx(100 * table.errors[rows, a].sum() / words)
        assert frontier.cost[-1] == pytest.approx(mean_cost(table.cost_layers[rows, a], table.duration_s))
        assert 100 * table.errors[rows, b].sum() / words >= frontier.at(8.0) - 1e-9
        assert (table.errors[rows, b] <= table.errors[:, -1]).all()
        budgets = np.linspace(2, 8, 25)
        assert (frontier.at(budgets) <= static.at(budgets) + 1e-9).all()


def test_both_lines_are_convex_and_never_rise(make_table):
    for seed in range(20):
        table = make_table(seed, n=25)
        for line in lines(table, table.cost_layers):
            assert (np.diff(line.cost) > 0).all() and (np.diff(line.wer) < 0).all()
            slopes = np.diff(line.wer) / np.diff(line.cost)
            assert (np.diff(slopes) >= -1e-9).all()


def test_the_static_line_skips_useless_exits_and_is_flat_where_inner_exits_win():
    errors = np.array([[10, 9, 2, 4]])
    line = static_line(errors, np.array([[1.0, 2.0, 3.0, 4.0]]), n_ref_words=np.array([10]), weights=np.array([1.0]))
    assert line.cost.tolist() == [1, 3]
    assert line.at(np.array([1, 2, 3, 4, 9])).tolist() == pytest.approx([100, 60, 20, 20, 20])
    assert np.isnan(line.at(0.5))


def test_oracles_take_the_earliest_exit_on_ties():
    errors = np.array([[2, 1, 1, 1], [0, 0, 3, 0], [5, 2, 1, 2]])
    costs = np.tile([1.0, 2.0, 3.0, 4.0], (3, 1))
    assert oracle_a(errors).tolist() == [1, 0, 2]
    assert oracle_b(errors, costs).tolist() == [1, 0, 1]


def test_equal_costs_and_single_exits_are_no_trouble():
    words = {"n_ref_words": np.array([4]), "weights": np.array([1.0])}
    same_cost = oracle_c(np.array([[3, 1, 0]]), np.array([[1.0, 1.0, 2.0]]), **words)
    assert same_cost.wer.tolist() == [25, 0]
    single = oracle_c(np.array([[3]]), np.array([[1.0]]), **words)
    assert single.at(1.0) == single.at(5.0) == 75
    with pytest.raises(ValueError, match="same shape"):
        oracle_c(np.array([[3]]), np.array([[1.0, 2.0]]), **words)


def test_gap_closed_is_one_at_the_frontier_and_zero_on_the_static_line(make_table):
    static, frontier = lines(make_table(1), make_table(1).cost_layers)
    both = {"static": static, "oracle": frontier}
    assert gap_closed(5, frontier.at(5), **both) == pytest.approx(1)
    assert gap_closed(5, static.at(5), **both) == pytest.approx(0)
    assert gap_closed(5, static.at(5) + 1, **both) < 0
    assert np.isnan(gap_closed(1, 10, **both))
