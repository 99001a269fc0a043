"""The READMEs' numbers are those of the committed summaries."""

import json
import re
import runpy

import pytest
from matplotlib.figure import Figure
from scipy.stats import binom

from eeasr_modules.exits.tuning.risk_terms import needed_table
from eeasr_modules.report.render.figures import draw_frontier
from eeasr_modules.report.render.probe import layer_rows

INTERVAL = re.compile(r"([+-]\d+\.\d\d) \[([+-]\d+\.\d\d), ([+-]\d+\.\d\d)\]")


@pytest.mark.parametrize("name", ["an4", "base"])
def test_the_runs_pages_show_the_committed_results(root, name):
    summary = json.loads((root / "results" / name / "summary.json").read_text(encoding="utf-8"))
    results_text = runpy.run_path(str(root / "benchmarks" / "result_page.py"))["results_text"]
    assert results_text(summary) in (root / "results" / name / "README.md").read_text(encoding="utf-8")


def test_the_page_on_words_shows_what_was_measured(root):
    found = json.loads((root / "results" / "words" / "words.json").read_text(encoding="utf-8"))
    page = (root / "results" / "words" / "README.md").read_text(encoding="utf-8")
    tables = runpy.run_path(str(root / "benchmarks" / "words.py"))["tables"](found)
    assert len(tables) == 2 and all(f"\n\n{table}\n\n" in page for table in tables)


def test_the_page_on_fewer_bits_shows_what_was_measured(root):
    folder = root / "results" / "precision"
    found = json.loads((folder / "precision.json").read_text(encoding="utf-8"))
    text = runpy.run_path(str(root / "benchmarks" / "precision.py"))["page"](found)
    assert text == (folder / "README.md").read_text(encoding="utf-8")


def test_no_two_policies_of_a_picture_share_a_colour(root):
    summary = json.loads((root / "results" / "base" / "summary.json").read_text(encoding="utf-8"))
    (one, *_), figure = summary["sets"].values(), Figure()
    ends = [[4.0, 84.0], [8.0, 52.0]]
    one |= {"exit_costs": one["exit_layers"], "static_line": ends, "oracle_c": ends, "single_exit": None}
    for policy in one["policies"].values():
        policy |= {"curve": ends, "at_budget": policy["at_budget"] | {"cost": 6.0}}
    draw_frontier(figure, "base", one, chosen=None)
    lines = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    shown = [lines[text] for text in one["policies"]]
    assert len(shown) >= 7 and len(set(shown)) == len(shown)


def test_the_page_on_public_exits_shows_the_committed_results(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    text = runpy.run_path(str(root / "benchmarks" / "exit_traces_text.py"))
    found = json.loads((root / "results" / "exit-traces" / "results.json").read_text(encoding="utf-8"))
    assert text["readme_text"](found) == (root / "results" / "exit-traces" / "README.md").read_text(encoding="utf-8")
    writing = runpy.run_path(str(root / "benchmarks" / "exit_traces_writing.py"))
    baselines = root / "eeasr_modules" / "exits" / "measure" / "exitbench_baselines.json"
    assert writing["baselines_text"](found) == baselines.read_text(encoding="utf-8")


def test_the_pages_on_few_labels_and_on_the_watch_show_what_was_measured(root):
    for script, folder, found, page in (
        ("few_labels", "few-labels", "results.json", "README.md"),
        ("risk_watch", "risk", "watch.json", "watch.md"),
    ):
        measured = json.loads((root / "results" / folder / found).read_text(encoding="utf-8"))
        n = measured.get("draws") or measured["rows"][0]["streams"]
        text = runpy.run_path(str(root / "benchmarks" / f"{script}.py"))["page"](measured["rows"], n)
        assert text == (root / "results" / folder / page).read_text(encoding="utf-8")


def test_the_first_page_shows_what_was_measured(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    first_page = runpy.run_path(str(root / "benchmarks" / "first_page.py"))
    text = (root / "README.md").read_text(encoding="utf-8")
    assert first_page["with_tables"](text) == text
    assert text.count("| always layer ") == 3 and text.count(" x | ") == 4  # the tables are there


def test_the_page_on_requests_shows_what_was_measured(root):
    serving = runpy.run_path(str(root / "benchmarks" / "serving.py"))
    folder = root / "results" / "serving"
    found, page = json.loads((folder / "serving.json").read_text(encoding="utf-8")), (folder / "README.md").read_text()
    assert serving["with_table"](page, found) == page and len(found["ways"]) == 6


@pytest.mark.parametrize(("page", "most"), [("README.md", 150), ("RESULTS.md", 150)])
def test_the_first_pages_stay_short(root, page, most):
    assert len((root / page).read_text(encoding="utf-8").splitlines()) <= most


def test_the_study_shows_the_committed_results(root):
    study = runpy.run_path(str(root / "benchmarks" / "study.py"))
    text = (root / "RESULTS.md").read_text(encoding="utf-8")
    assert study["written"]() == text and text.count("-->\n\n| ") == 3


def test_the_page_on_the_paper_shows_the_committed_results(root):
    rules = runpy.run_path(str(root / "benchmarks" / "paper_rules.py"))
    found = json.loads((root / "results" / "paper" / "results.json").read_text(encoding="utf-8"))
    assert rules["page_text"](found) in (root / "docs" / "paper.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["moonshine-base", "whisper-base", "whisper-base-heads"])
def test_the_probes_of_checkpoints_show_the_committed_results(root, name):
    page = (root / "results" / "probe" / "README.md").read_text(encoding="utf-8")
    numbers = json.loads((root / "results" / "probe" / name / "probe.json").read_text(encoding="utf-8"))
    rows = [row for row in layer_rows(numbers)[1] if row[1] in ("lens", "heads")]
    letters = [row for row in layer_rows(numbers, rate="cer")[1] if row[1] == "heads"]
    rows += [[name, "heads, letters", *rates] for name, _, *rates in letters]
    assert len(rows) >= 3 and all(f"\n| {' | '.join(row)} |\n" in page for row in rows)


def test_decoding_starts_from_the_shipped_models_results(root):
    decoding = runpy.run_path(str(root / "benchmarks" / "decoding.py"))
    page = (root / "results" / "decoding" / "README.md").read_text(encoding="utf-8")
    assert decoding["with_tables"](page) == page
    sets = json.loads((root / "results" / "base" / "summary.json").read_text(encoding="utf-8"))["sets"]
    n_compared = 0
    for path in (root / "results" / "decoding").glob("*.json"):
        for row in json.loads(path.read_text(encoding="utf-8")):
            if row["set"] in sets:  # the same weights on the same recordings, read the same: the same errors
                layers, wers = sets[row["set"]]["exit_layers"], sets[row["set"]]["wer_per_exit"]
                assert row["wer"]["greedy"] == pytest.approx(wers[layers.index(row["exit"])], abs=1e-3), row
                n_compared += 1
    assert n_compared >= 6


@pytest.fixture(scope="module")
def regimes(root):
    return runpy.run_path(str(root / "benchmarks" / "regimes.py"))


def test_the_regimes_are_shown_as_they_were_recorded(root, regimes):
    pages = [page.read_text(encoding="utf-8") for page in regimes["PAGES"]]
    assert [regimes["with_tables"](page) for page in pages] == pages
    recorded = {path.stem for path in (root / "results" / "regimes").glob("*.json")}
    shown = set(re.findall(r"<!-- regimes: (\w+)[^>]* -->\n\n\| ", "\n".join(pages)))
    assert len(shown) >= 2 and shown <= recorded  # the others: their JSON


@pytest.mark.parametrize("page", ["results/regimes/README.md", "docs/training-regimes.md"])
def test_intervals_in_the_prose_are_those_that_were_recorded(root, page):
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (root / "results" / "regimes").glob("*.json")]
    compared = [at for one in found for row in one["differences"] for at in row["layers"].values()]
    compared += [row[way] for one in found for row in one["taxes"] for way in ("alone", "fused")]
    recorded = {tuple(f"{at[key]:+.2f}" for key in ("difference", "low", "high")) for at in compared}
    text = (root / page).read_text(encoding="utf-8")
    prose = " ".join(line for line in text.splitlines() if not line.startswith("|"))
    told = INTERVAL.findall(prose)
    assert len(told) >= 3
    turned = {tuple(f"{-float(x):+.2f}" for x in (middle, high, low)) for middle, low, high in recorded}
    assert [one for one in told if one not in recorded | turned] == []


def test_seeds_that_are_pooled_are_those_shown_one_by_one(root):
    taxes = json.loads((root / "results" / "regimes" / "an4_four_epochs.json").read_text(encoding="utf-8"))["taxes"]
    pooled = [one for one in taxes if one["seed"].startswith("all")]
    assert {one["regime"] for one in pooled} >= {"joint", "joint, increasing", "alternating", "layerdrop"}
    for one in pooled:
        own = [other for other in taxes if other["regime"] == one["regime"] and other is not one]
        assert one["seed"] == f"all {len(own)}" and one["macs_share"] <= 0.7
        assert one["single"] == pytest.approx(sum(other["single"] for other in own) / len(own), abs=0.002)
        for way in ("alone", "fused"):
            assert one[way]["wer"] == pytest.approx(sum(other[way]["wer"] for other in own) / len(own), abs=0.002)
            assert one[way]["low"] <= one[way]["difference"] <= one[way]["high"]


class TestOptionsOfTheRegimes:
    def test_what_is_set_goes_to_every_training(self, regimes):
        asked = regimes["parse"](
            ["--output", "runs/x", "--set", "precision=bf16", "valid_splits=[dev]", "--only", "joint"]
        )
        assert asked.more == {"precision": "bf16", "valid_splits": "[dev]"} and asked.names == ["joint"]

    def test_the_model_that_others_start_from_comes_first(self, regimes):
        assert regimes["parse"](["--output", "x", "--only", "joint; heads_only"]).names == [
            *("last_only", "joint", "heads_only")
        ]

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--set", "precision"], "cannot read 'precision' after --set: it takes KEY=VALUE"),
            (["--only", "jointly"], "no such regime 'jointly'; there are last_only; joint;"),
            (
                ["--join", "no/runs"],
                "--join expected regimes.json, as a sitting leaves it, in 'no/runs', and found none",
            ),
        ],
        ids=["unreadable", "regime", "sitting"],
    )
    def test_what_cannot_be_read_is_refused(self, regimes, capsys, argv, message):
        with pytest.raises(SystemExit):
            regimes["parse"](["--output", "x", *argv])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("run", ["an4", "base"])
def test_the_committed_results_hold_no_transcripts(root, run):
    text = (root / "results" / run / "summary.json").read_text(encoding="utf-8")
    assert "hypothes" not in text and "reference" not in text


@pytest.fixture(scope="module")
def simulated(root):
    return json.loads((root / "results" / "risk" / "risk.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("table", ["known_truth", "heavy_tails", "splits", "exits_known", "exit_splits", "certificate"])
def test_no_table_of_certificates_is_violated_more_often_than_promised(simulated, table):
    draws, delta = simulated["draws"], simulated["delta"]
    shares = [
        share
        for row in simulated[table]
        for key, share in row.items()
        if key.startswith("violated") or key == "false_certificates"
    ]
    assert len(shares) >= 24 and max(shares) * draws <= binom.ppf(0.99, draws, delta)


def test_the_simulated_speakers_have_heavy_tails_and_the_clip_alone_would_deceive(simulated):
    rows = [row for row in simulated["heavy_tails"] if row["population"] == "3 % lose 40 points" and row["clip"] == 2]
    assert {row["n_speakers"] for row in rows} >= {20, 50, 100, 200}
    assert all(row["said_of_all_before"] > 0.5 for row in rows)


def test_the_risk_page_shows_what_was_simulated(root, simulated, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    text = runpy.run_path(str(root / "benchmarks" / "risk_simulation_text.py"))
    shown = text["page"](simulated)
    assert shown == (root / "results" / "risk" / "risk.md").read_text(encoding="utf-8")


def test_what_a_promise_about_all_hides_is_not_hidden_exit_by_exit(simulated):
    rows = [row for row in simulated["exits_known"] if "made good" in row["population"] and row["n_speakers"] >= 100]
    assert len(rows) == 4 and all(row["bad_exit_over_all"] > 0.9 and row["violated"] < 0.1 for row in rows)


def test_the_speakers_that_certificates_need_are_counted(root):
    text = (root / "docs" / "risk.md").read_text(encoding="utf-8")
    assert f"<!-- speakers needed -->\n\n{needed_table(0.1)}\n\n<!-- /speakers needed -->" in text
