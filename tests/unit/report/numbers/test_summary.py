"""The numbers of a report."""

import json
from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits import oracle_a, oracle_b, parse_policy
from eeasr_modules.exits.tuning.risk_losses import RiskTarget
from eeasr_modules.report import closing_lines, evaluated, summarise
from eeasr_modules.report.numbers.evaluation import folds_of
from eeasr_modules.report.numbers.summary import risk_numbers
from eeasr_modules.report.render.markdown import policies_table

POLICIES = ["between(random), between(entropy), between(patience(1))"]


def summarised(tables, *, dev=None, policies=POLICIES, policy=None, budgets=(0.75,), risk=None, **options):
    found = evaluated(tables, dev=dev, policies=policies, policy=policy, budgets=budgets, **options)
    return summarise(found, rng=np.random.default_rng(0), risk=risk)


def test_the_numbers_of_a_set_are_pooled_and_weighted_by_duration(make_table):
    table = make_table()
    one = summarised([table])["sets"]["test"]
    assert one["errors_per_exit"] == table.errors.sum(axis=0).tolist()
    assert one["wer_per_exit"] == pytest.approx(100 * table.errors.sum(axis=0) / table.n_ref_words.sum(), abs=1e-4)
    assert one["n_ref_words"] == table.n_ref_words.sum()
    rows, chosen = np.arange(table.n_utterances), oracle_b(table.errors, table.cost_layers)
    depth = (table.duration_s * table.exit_layers[chosen]).sum() / table.duration_s.sum()
    assert one["oracle_b"]["interval"][0] <= one["oracle_b"]["wer"] <= one["oracle_b"]["interval"][1]
    assert {key: one["oracle_b"][key] for key in ("depth", "wer")} == pytest.approx(
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


class Earlier:
    """In place of a fusion: says what the exit before said."""

    needs = ("hypothesis",)

    def start(self, n):
        return np.full((n, 1), None, dtype=object)

    def step(self, signals, state):
        texts = signals["hypothesis"]
        return np.where(state[:, 0] == None, texts, state[:, 0]), texts[:, None]  # noqa: E711


def test_fused_words_are_counted_where_the_chosen_policy_stops(make_table):
    table, dev = make_table(n=200), make_table("dev", seed=1, n=200)
    found = evaluated([table], dev=dev, policies=POLICIES, policy="between(random)", budgets=(0.75,))
    summary = summarise(found, rng=np.random.default_rng(0), fusion=Earlier())
    one, words = summary["sets"]["test"], table.n_ref_words.sum()
    own, fused = one["policies"]["between(random)"]["at_budget"], one["fused"]["at_budget"]
    errors = np.column_stack([table.errors[:, :1], table.errors[:, :-1]])
    chosen = found.sets["test"][1]["between(random)"].choices[0].exit_index
    wrong = errors[np.arange(200), chosen].sum()
    assert fused["wer"] == pytest.approx(100 * wrong / words, abs=1e-4) and fused["depth"] == own["depth"]
    assert one["fused"]["minus_exit"]["difference"] == pytest.approx(fused["wer"] - own["wer"], abs=2e-4)
    assert fused["minus_static"]["difference"] == pytest.approx(fused["wer"] - fused["static"], abs=2e-4)
    assert fused["macs_share"] > own["macs_share"]  # every head is read
    assert one["fused"]["wer_per_exit"] == pytest.approx(100 * errors.sum(axis=0) / words, abs=1e-4)
    rows = policies_table(one).splitlines()
    at = next(i for i, row in enumerate(rows) if row.startswith("| `between(random)` |"))
    assert rows[at + 1].startswith("| `between(random)` + fusion | its words fused: ")
    assert f"| {fused['wer']:.2f} [" in rows[at + 1]
    assert "its words fused: WER" in "".join(closing_lines(summary))


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
        summarised([make_table()], policy="between(6, 8, entropy)", budgets=[0.5])


def test_few_speakers_are_resampled_set_their_own_thresholds_and_are_told_apart_by_no_p_value(make_table):
    summary = summarised([make_table(n_speakers=6)])
    one = summary["sets"]["test"]
    assert (one["intervals"]["resampled"], one["intervals"]["n_blocks"]) == ("speakers", 6)
    assert {row["holm_p"] for row in summary["comparisons"]} == {None}
    assert summarised([make_table(n_speakers=1)])["sets"]["test"]["intervals"]["resampled"] == "utterances"
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


def test_every_budget_and_cost_has_its_numbers(make_table):
    table = make_table(n=200)
    summary = summarised([table], dev=make_table("dev", seed=1, n=200), budgets=[0.75, 0.5, 6])
    assert summary["budgets"] == [0.75, 0.5, 6] and summary["costs"] == ["depth", "macs"]
    one = summary["sets"]["test"]
    macs = (table.cost_macs + table.head_macs).sum(axis=0) / table.duration_s.sum() / 1e9
    assert one["costs"]["macs"]["exits"] == pytest.approx(macs, rel=1e-3)
    assert one["costs"]["depth"]["exits"] == one["exit_layers"]
    for policy in one["policies"].values():
        assert [at["budget"] for at in policy["at_budgets"]] == [0.75, 0.5, 6]
        assert policy["at_budget"] == policy["at_budgets"][0]
        assert len(policy["curve_texts"]) == len(policy["curves"]["depth"]) == len(policy["curves"]["macs"])
        for at in policy["at_budgets"]:
            assert at["costs"]["depth"]["mean"] == at["depth"] == at["cost"]
            assert at["costs"]["depth"]["gap_closed"] == at["gap_closed"]


def test_under_macs_the_lines_are_those_of_macs(make_table):
    table, dev = (make_table(name, seed=seed, n=200) for name, seed in (("test", 0), ("dev", 1)))
    one = summarised([table], dev=dev, cost="macs")["sets"]["test"]
    assert one["exit_costs"] == one["costs"]["macs"]["exits"]
    for policy in one["policies"].values():
        at = policy["at_budget"]
        assert at["static"] == at["costs"]["macs"]["static"]
        assert at["minus_static"]["difference"] == pytest.approx(at["wer"] - at["static"], abs=2e-3)


def test_costs_that_a_table_does_not_know_are_refused(make_table):
    with pytest.raises(ValueError, match=r"'test' does not know MACs .* or use depth"):
        summarised([make_table(macs=False)], cost="macs")
    with pytest.raises(ValueError, match=r"'test' does not know measured times"):
        summarised([make_table()], cost="time")
    with pytest.raises(ValueError, match="share of the last exit's cost, up to 1, got 6"):
        summarised([make_table()], cost="macs", budgets=[6])
    with pytest.raises(ValueError, match="must not exceed the encoder's 8 layers, got 9"):
        summarised([make_table()], budgets=[0.75, 9])
    with pytest.raises(ValueError, match="must be a share up to 1 or layers above 1, got nan"):
        summarised([make_table()], budgets=[float("nan")])


def test_measured_times_are_charged_for_front_end_layers_and_heads(make_table):
    profile = {"machine": "a desk", "time_ms": {"front_end": 10.0, "layer": 2.0, "head": 0.5}}
    table, dev = (timed(make_table(name, seed=seed), profile) for name, seed in (("test", 0), ("dev", 1)))
    one = summarised([table], dev=dev, cost="time")["sets"]["test"]
    assert one["exit_costs"] == pytest.approx([14.5, 18.5, 22.5, 26.5])
    assert one["costs"]["time"]["machine"] == "a desk"
    assert one["policies"]["between(entropy)"]["at_budget"]["cost"] <= 26.5
    wrong = timed(make_table(), {"time_ms": {"layer": 2.0, "head": 0.5}})
    with pytest.raises(ValueError, match="cost_profile of 'test' must hold time_ms with front_end"):
        summarised([wrong], cost="time")


def timed(table, profile):
    return replace(table, metadata={**table.metadata, "cost_profile": profile})


def test_the_chosen_policy_is_compared_with_every_other_at_every_budget(make_table):
    summary = summarised([make_table(n=200)], dev=make_table("dev", seed=1, n=200), budgets=[0.75, 0.5])
    chosen, rows = summary["chosen_policy"], summary["comparisons"]
    policies = summary["sets"]["test"]["policies"]
    assert {(row["other"], row["budget"]) for row in rows} == {
        (text, budget) for text in policies if text != chosen for budget in (0.75, 0.5)
    }
    for row in rows:
        at = {text: {a["budget"]: a["wer"] for a in policies[text]["at_budgets"]} for text in (chosen, row["other"])}
        difference = at[chosen][row["budget"]] - at[row["other"]][row["budget"]]
        assert row["difference"] == pytest.approx(difference, abs=3e-4)
        assert row["holm_p"] >= row["bootstrap_p"]


def test_signals_that_know_more_stand_first(make_table):
    one = summarised([make_table(n=200)])["sets"]["test"]
    pooled = [worth["pooled"] for worth in one["signals"].values()]
    assert pooled == sorted(pooled, reverse=True)
    assert one["signals"]["entropy"]["pooled"] > 0.6
    assert len(one["signals"]["entropy"]["per_exit"]) == 3


def test_words_are_counted_only_where_references_are(make_table):
    assert summarised([make_table()])["sets"]["test"]["words"]["n_words"] == make_table().n_ref_words.sum()
    assert summarised([make_table(references=False)])["sets"]["test"]["words"] is None


def test_a_promise_is_certified_on_dev_and_judged_on_the_set(make_table):
    tables = [make_table(n=400, n_speakers=40)]
    summary = summarised(tables, dev=make_table("dev", seed=1, n=400, n_speakers=40), risk=RiskTarget(5.0, 0.2))
    assert (summary["risk"]["eps"], summary["risk"]["delta"], summary["risk"]["clip"]) == (5.0, 0.2, None)
    assert summary["risk"]["speakers_needed"].startswith("| speakers needed |")
    rows = {row["policy"]: row for row in summary["sets"]["test"]["risk"]}
    assert set(rows) == {"entropy", "patience(1)"}
    assert rows["entropy"]["certified"] and rows["entropy"]["outcome"]["saved"] > 0
    assert rows["entropy"]["calibrated_on"]["set_name"] == "dev"
    assert summarised(tables)["sets"]["test"]["risk"] == []


def test_a_certificate_is_judged_on_the_half_that_did_not_make_it(make_table):
    """Leaving is free for the half that certifies and costs every word of the other's."""
    table = make_table(n=400, n_speakers=40)
    harmed = folds_of(table) == 1
    errors = np.zeros_like(table.n_sub)
    errors[harmed, :-1] = table.n_ref_words[harmed, None]
    table = replace(table, n_sub=errors, n_del=0 * errors, n_ins=0 * errors)
    rows = risk_numbers([parse_policy("entropy")], table, dev=None, target=RiskTarget(5.0, 0.2))
    assert rows[0]["certified"] and rows[0]["dev_excess"] == 0.0
    assert rows[0]["outcome"]["violated"] and rows[0]["outcome"]["excess"] > 5


def test_a_fitted_policy_is_reported_like_any_other(make_table):
    dev, table = make_table("dev", seed=1, n=200, n_speakers=20), make_table(n=100)
    one = summarised([table], dev=dev, policies=["gain_text, between(patience(1))"])["sets"]["test"]
    at = one["policies"]["gain_text"]["at_budget"]
    assert at["calibrated"].startswith("gain_text(") and at["wer"] >= at["oracle_c"]
    assert len(one["policies"]["gain_text"]["curve"]) > 3
