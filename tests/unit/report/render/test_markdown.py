"""Numbers in Markdown."""

import csv
import io

import numpy as np
import pytest

from eeasr_modules.exits import decide, mean_cost, parse_policy
from eeasr_modules.report import evaluated, summarise
from eeasr_modules.report.render.files import csv_files
from eeasr_modules.report.render.markdown import (
    EMITTED_NOTE,
    markdown_table,
    number,
    percent,
    report_text,
    risk_table,
)


def test_bars_in_cells_do_not_open_new_ones():
    assert markdown_table(["a"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"


def test_what_is_not_known_is_a_dash_and_no_zero_is_negative():
    assert (number(None), percent(None)) == ("-", "-")
    assert percent(-0.001) == "0 %"


@pytest.mark.parametrize("text", ["patience(1, 0.5, first)", "patience(1, 0.5)"])
def test_the_depth_emitted_stands_beside_the_depth_decided_where_they_differ(make_table, text):
    table, policy = make_table(), parse_policy(text)
    found = evaluated([table], dev=None, policies=[text, "static(6)"], policy=None, budgets=[0.75])
    summary = summarise(found, rng=np.random.default_rng(0))
    page = report_text(summary, pictures=[])
    chosen, rows = decide(policy, table), np.arange(table.n_utterances)
    decided, emitted = (
        mean_cost(table.cost_layers[rows, one], table.duration_s) for one in (chosen.decided, chosen.emitted)
    )
    assert ("| depth emitted |" in page) == (EMITTED_NOTE in page) == (emitted < decided)
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{text}` | as given |"))
    assert f" {number(decided)} |" in row and (f" {number(emitted)} |" in row)
    written = list(csv.DictReader(io.StringIO(csv_files(summary, found)["policies.csv"])))
    (row,) = (row for row in written if row["policy"] == text)
    assert float(row["cost_depth"]) == pytest.approx(decided, abs=1e-3)
    assert float(row["emitted_depth"]) == pytest.approx(emitted, abs=1e-3)


def test_a_policy_without_a_certificate_is_named_as_it_was_asked_for():
    row = {"policy": "entropy", "calibrated": "entropy(0.3)", "certified": True, "reason": "at most 0.5 points"}
    rest = {**row, "calibrated": "static(8)", "certified": False, "reason": "too few speakers"}
    table = risk_table({"risk": [row, {**rest, "policy": "gain"}]})
    assert "| `entropy(0.3)` | yes |" in table and "| `gain` | no | too few speakers |" in table
    assert "static(8)" not in table
