"""What calibrates which utterances."""

import numpy as np
import pytest

from eeasr_modules.exits import budget_cost, choose, parse_policy, read_policies, replay, write_policies
from eeasr_modules.exits.tuning.calibration import best_within
from eeasr_modules.report.numbers.evaluation import CROSS_FIT, folds_of, grids, lacking_signals, sides
from eeasr_modules.runtime.sources import within_budget


@pytest.mark.parametrize("text", ["entropy", "between(entropy)", "between(patience(1))", "random", "static"])
@pytest.mark.parametrize("budget", [0.5, 0.75, 1.0, 7])
def test_the_point_taken_from_a_grid_is_the_one_that_choose_takes(make_table, text, budget):
    dev, policy = make_table(seed=3), parse_policy(text)
    grid = grids([policy], dev)[text]
    i = best_within(grid, budget_cost(budget, dev))
    expected = choose(dev, policy, budget=budget)
    assert (grid.cost[i], grid.wer[i]) == pytest.approx((expected.dev_cost, expected.dev_wer))
    assert (replay(grid.policies[i], dev) == replay(expected.policy, dev)).all()


@pytest.mark.parametrize(
    "text", ["entropy", "between(entropy)", "patience(1)", "between(patience(1))", "random", "static"]
)
@pytest.mark.parametrize("budget", [0.5, 0.6, 0.75, 1.0, 7])
def test_a_model_folder_chooses_for_a_budget_what_calibration_does(make_table, tmp_path, text, budget):
    dev, policy = make_table(seed=3), parse_policy(text)
    write_policies(tmp_path / "policy.json", [choose(dev, policy, budget=1.0)])
    (entry,) = read_policies(tmp_path / "policy.json")
    chosen, expected = within_budget(entry, budget, dev.n_layers), choose(dev, policy, budget=budget).policy
    assert (replay(chosen, dev) == replay(expected, dev)).all(), f"{chosen} is not {expected}"


def test_a_budget_below_everything_chooses_nothing(make_table):
    grid = grids([parse_policy("entropy")], make_table())["entropy"]
    assert best_within(grid, 1.9) is None


def test_folds_share_no_speaker_and_are_about_equally_long(make_table):
    table = make_table(n=200, n_speakers=20)
    fold = folds_of(table)
    first, second = set(table.speakers[fold == 0]), set(table.speakers[fold == 1])
    assert not first & second and first | second == set(table.speakers)
    share = table.duration_s[fold == 0].sum() / table.duration_s.sum()
    assert 0.45 < share < 0.55


def test_without_dev_each_half_is_calibrated_on_the_other(make_table):
    table = make_table()
    (first, second), name = sides(table, None)
    assert name == f"{CROSS_FIT} (2 folds)"
    assert sorted([*first.rows, *second.rows]) == list(range(table.n_utterances))
    for one in (first, second):
        assert not set(one.table.speakers) & set(one.calibrating.speakers)
        assert np.array_equal(one.table.utt_ids, table.utt_ids[one.rows])


def test_too_few_speakers_calibrate_themselves_and_say_so(make_table):
    table = make_table(n_speakers=7)
    (only,), name = sides(table, None)
    assert name is None and only.calibrating is table


def test_a_dev_table_calibrates_everything(make_table):
    dev = make_table("dev", seed=1)
    (only,), name = sides(make_table(), dev)
    assert name == "dev" and only.calibrating is dev


def test_signals_that_one_table_lacks_are_named(make_table):
    tables = [make_table(signals=("entropy", "margin")), make_table()]
    assert lacking_signals(parse_policy("any(entropy, margin(0.5))"), tables) == ["margin"]
    assert lacking_signals(parse_policy("between(random)"), tables) == []
