"""From the public traces to a report, as a user does it: known numbers stand in it."""

import json
import re

import pytest

from eeasr_modules.cli import main

pytestmark = pytest.mark.shared_data

# at 7, 8, 9, 10 layers
STATIC = {"clean": [7.71, 5.78, 5.12, 4.46], "other": [19.77, 15.86, 14.22, 12.59]}
ORACLE_C = {"clean": [4.39, 3.67, 3.67, 3.67], "other": [14.96, 12.44, 11.30, 11.30]}
WER = {"clean": [33.74, 17.38, 9.63, 5.78, 4.46, 4.35], "other": [55.98, 36.70, 23.68, 15.86, 12.59, 12.24]}
ORACLE_A = {"clean": 3.67, "other": 11.30}
ORACLE_B = {"clean": (7.65, 4.00), "other": (8.78, 11.65)}


@pytest.fixture(scope="module")
def report(shared_data, tmp_path_factory):
    folder, traces = tmp_path_factory.mktemp("analyze"), shared_data / "exit-traces"
    if not traces.is_dir():
        pytest.skip(f"no exit traces in {shared_data}")
    tables, singles = [], []
    for split in ("clean", "other"):
        for model, paths in (("ee40", tables), ("nonee12", singles)):
            paths.append(str(folder / f"{model}_{split}.parquet"))
            command = ["import-transcripts", "--format", "exit-traces", str(traces), "--split", split]
            assert main([*command, "--model", model, "-o", paths[-1]]) == 0
    given = ["analyze", *tables, "--single-exit", *singles]
    assert main([*given, "--budgets", "8,7,9,10", "--out", str(folder / "halves")]) == 0
    options = ["--cross-fit", "--budget", "0.75", "--risk", "0.5,0.1", "--out", str(folder / "report")]
    assert main([*given, *options]) == 0
    return folder / "report"


@pytest.mark.parametrize("split", ["clean", "other"])
def test_the_known_numbers_of_the_traces_stand_in_the_summary(report, split):
    one = json.loads((report / "summary.json").read_text("utf-8"))["sets"][f"test-{split}"]
    assert one["wer_per_exit"] == pytest.approx(WER[split], abs=0.05)
    assert one["oracle_a"]["wer"] == pytest.approx(ORACLE_A[split], abs=0.05)
    assert (one["oracle_b"]["depth"], one["oracle_b"]["wer"]) == pytest.approx(ORACLE_B[split], abs=0.05)
    at = {int(line["depth"]): line for line in one["at_layers"]}
    assert [at[layer]["static"] for layer in (7, 8, 9, 10)] == pytest.approx(STATIC[split], abs=0.05)
    assert [at[layer]["oracle_c"] for layer in (7, 8, 9, 10)] == pytest.approx(ORACLE_C[split], abs=0.05)
    assert one["single_exit"]["exit_tax"] > 0


@pytest.mark.parametrize("split", ["clean", "other"])
def test_with_a_window_each_heuristic_beats_mixing_exits_at_random(report, split):
    one = json.loads((report / "summary.json").read_text("utf-8"))["sets"][f"test-{split}"]
    for text in ("between(entropy)", "between(patience(1))", "between(patience(2))"):
        assert one["policies"][text]["at_budget"]["minus_static"]["high"] < 0
        assert one["policies"][text]["calibrated_on"].startswith("cross-fit")


def test_the_page_shows_them_and_says_what_is_approximate(report):
    text = (report / "report.md").read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| test-clean | not known"))
    assert all(number in row for number in ("33.74", "4.35", "3.67 @ 7.81", "4.00 @ 7.65", "11.4 %", "3.74 (+0.61)"))
    assert "Durations are approximate in test-clean, test-other" in text


def test_both_sets_fit_on_the_page_with_every_utterance(report):
    page = report / "report.html"
    assert page.stat().st_size < 6_000_000
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.S)[1])
    assert [len(data["utterances"][name]["ids"]) for name in ("test-clean", "test-other")] == [2620, 2939]


def test_every_budget_that_was_asked_for_is_reported(report):
    summary = json.loads((report.parent / "halves" / "summary.json").read_text("utf-8"))
    assert summary["budgets"] == [8, 7, 9, 10]
    for one in summary["sets"].values():
        for policy in one["policies"].values():
            assert [at["budget"] for at in policy["at_budgets"]] == [8, 7, 9, 10]
            assert all(at["wer"] >= at["oracle_c"] - 1e-3 for at in policy["at_budgets"])


def test_the_entropy_is_certified_where_its_promise_can_be_kept(report):
    rows = json.loads((report / "summary.json").read_text("utf-8"))["sets"]["test-clean"]["risk"]
    entropy = next(row for row in rows if row["policy"] == "entropy")
    assert entropy["certified"] and entropy["outcome"]["saved"] > 0.1
