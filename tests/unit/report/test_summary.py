"""The numbers of a report."""

import json
from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits import oracle_a, oracle_b
from eeasr_modules.report import summarise

POLICIES = ["between(random), between(entropy), between(patience(1))"]


def summarised(tables, *, dev=None, policies=POLICIES, policy=None, budget=0.75, **options):
    return summarise(
        tables, dev=dev, policies=policies, policy=policy, budget=budget, rng=np.random.default_rng(0), **options
    )


def test_the_numbers_of_a_set_are_pooled_and_weighted_by_duration(make_table):
    table = make_table()
    one = summarised([table])["sets"]["test"]
    assert one["errors_per_exit"] == table.errors.sum(axis=0).tolist()
    assert one["wer_per_exit"] == pytest.approx(100 * table.errors.sum(axis=0) / table.n_ref_words.sum(), abs=1e-4)
    assert one["n_ref_words"] == table.n_ref_words.sum()
    rows, chosen = np.arange(table.n_utterances), oracle_b(table.errors, table.cost_layers)
    depth = (table.duration_s * table.exit_layers[chosen]).sum() / table.duration_s.sum()
    assert one["oracle_b"] == pytest.approx(
        {"depth": depth, "wer": 100 * table.errors[rows, chosen].sum() / table.n_ref_words.sum()}, abs=1e-4
    )
    best = table.errors[rows, oracle_a(table.errors)]
    assert one["oracle_a"]["wer"] == pytest.approx(100 * best.sum() / table.n_ref_words.sum(), abs=1e-4)
    inner = table.errors[:, :-1].min(axis=1) < table.errors[:, -1]
    assert one["overthinking"]["inner_better_share"] == pytest.approx(inner.mean(), abs=1e-4)


def test_a_summary_is_json_without_nan_and_comes_out_the_same_again(make_table):
    tables = [make_table(), make_table("noise", seed=2, label="shifted", macs=False)]
    first, second = summarised(tables), summarised(tables)
    assert json.loads(json.dumps(first, allow_nan=False)) == first == second


def test_every_point_of_a_policy_stands_with_its_lines_and_interval(make_table):
    one = summarised([make_table(n=200)], dev=make_table("dev", seed=1, n=200))["sets"]["test"]
    for policy in one["policies"].values():
        at = policy["at_budget"]
        assert sum(at["exits_chosen"]) == 200
        assert at["oracle_c"] <= at["wer"] and at["oracle_c"] <= at["static"]
        assert at["interval"][0] <= at["wer"] <= at["interval"][1]
        assert at["minus_static"]["difference"] == pytest.approx(at["wer"] - at["static"], abs=2e-4)
        assert at["depth_share"] == pytest.approx(at["depth"] / 8, abs=1e-4)
        assert policy["calibrated_on"] == "dev"


def test_without_a_named_policy_the_best_on_dev_is_chosen_never_the_best_on_test(make_table):
    summary = summarised([make_table(n=200)], dev=make_table("dev", seed=1, n=200))
    policies = summary["sets"]["test"]["policies"]
    on_dev = {text: one["calibration_wer"] for text, one in policies.items() if text != "random"}
    assert summary["chosen_policy"] == min(on_dev, key=on_dev.get)
    assert summarised([make_table()])["chosen_policy"] == "between(entropy)"


def test_policies_without_their_signals_are_left_out_and_the_chosen_one_is_refused(make_table):
    summary = summarised([make_table()], policies=["entropy, margin"])
    assert summary["left_out"] == {"margin": "the tables have no signal margin"}
    assert list(summary["sets"]["test"]["policies"]) == ["entropy"]
    with pytest.raises(ValueError, match="margin cannot be reported: the tables have no signal margin"):
        summarised([make_table()], policy="margin")


def test_a_chosen_policy_that_cannot_meet_the_budget_is_refused(make_table):
    with pytest.raises(ValueError, match="cannot meet the budget of 4 layers"):
        summarised([make_table()], policy="between(6, 8, entropy)", budget=0.5)


def test_few_speakers_resample_utterances_and_set_their_own_thresholds(make_table):
    one = summarised([make_table(n_speakers=6)])["sets"]["test"]
    assert one["intervals"]["resampled"] == "utterances"
    assert one["policies"]["between(random)"]["calibrated_on"] is None
    assert summarised([make_table()])["sets"]["test"]["intervals"]["resampled"] == "speakers"


def test_the_exit_tax_is_the_last_exit_minus_the_single_exit(make_table):
    table = make_table()
    single = table.select(np.arange(60))
    single = replace(
        single,
        exit_layers=np.array([8]),
        hypotheses=single.hypotheses[:, -1:],
        n_sub=np.maximum(single.n_sub[:, -1:] - 1, 0),
        **{
            name: getattr(single, name)[:, -1:]
            for name in ("n_del", "n_ins", "n_char_errors", "cost_layers", "cost_macs", "head_macs")
        },
        signals={},
        metadata={**single.metadata, "model_digest": "model-b"},
    )
    one = summarised([table], single_exit=[single])["sets"]["test"]
    expected = 100 * (table.errors[:, -1].sum() - single.errors.sum()) / table.n_ref_words.sum()
    assert expected > 0
    assert one["single_exit"]["exit_tax"] == pytest.approx(expected, abs=1e-4)
    assert one["single_exit"]["exit_tax_interval"][0] <= expected <= one["single_exit"]["exit_tax_interval"][1]
    assert summarised([table])["sets"]["test"]["single_exit"] is None


def test_a_table_with_one_exit_is_reported_without_policies(make_table):
    summary = summarised([make_table(layers=(8,))], policy="entropy")
    assert summary["chosen_policy"] is None
    assert "one exit only" in summary["left_out"]["entropy"]
    assert summary["sets"]["test"]["policies"] == {}


def test_lines_stand_at_every_layer_and_share_and_never_cross(make_table):
    one = summarised([make_table()])["sets"]["test"]
    assert [at["depth"] for at in one["at_layers"]] == list(range(2, 9))
    assert [at["share"] for at in one["at_budgets"]] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert all(at["oracle_c"] <= at["static"] for at in one["at_layers"] + one["at_budgets"])
    assert len(one["oracle_c"]) <= 50
