"""CSV files agree with the summary and the tables."""

import csv
import io

import numpy as np
import pytest

from eeasr_modules.report import evaluated, summarise
from eeasr_modules.report.render.files import csv_files


@pytest.fixture(scope="module")
def made(make_table):
    table = make_table()
    found = evaluated([table], dev=None, policies=["entropy, static(4)"], policy=None, budgets=[0.75, 0.5])
    summary = summarise(found, rng=np.random.default_rng(0))
    files = csv_files(summary, found)
    return table, found, summary, {name: list(csv.DictReader(io.StringIO(text))) for name, text in files.items()}


def test_a_row_for_every_exit_and_for_every_policy_and_budget(made):
    _, _, summary, files = made
    one = summary["sets"]["test"]
    assert [float(row["wer"]) for row in files["exits.csv"]] == one["wer_per_exit"]
    assert [float(row["cost_macs"]) for row in files["exits.csv"]] == one["costs"]["macs"]["exits"]
    assert [(row["policy"], row["budget"]) for row in files["policies.csv"]] == [
        ("entropy", "0.75"),
        ("entropy", "0.5"),
        ("static(4)", ""),
    ]
    assert float(files["policies.csv"][0]["wer"]) == one["policies"]["entropy"]["at_budget"]["wer"]
    assert len(files["curves.csv"]) == sum(len(policy["curve"]) for policy in one["policies"].values())


def test_errors_of_the_choices_add_up_to_the_wer(made):
    table, _, summary, files = made
    rows = files["choices_test.csv"]
    assert [row["utt_id"] for row in rows] == table.utt_ids.tolist()
    wrong = sum(int(row[f"errors_layer_{row['entropy @ 0.75']}"]) for row in rows)
    wer = 100 * wrong / sum(int(row["n_ref_words"]) for row in rows)
    assert wer == pytest.approx(summary["sets"]["test"]["policies"]["entropy"]["at_budget"]["wer"], abs=1e-4)
    assert {row["static(4)"] for row in rows} == {"4"}
    best = sum(int(row[f"errors_layer_{row['oracle A']}"]) for row in rows)
    assert best == table.errors.min(axis=1).sum()


def test_a_table_without_macs_has_no_columns_for_them(make_table):
    found = evaluated([make_table(macs=False)], dev=None, policies=["entropy"], policy=None, budgets=[0.75])
    files = csv_files(summarise(found, rng=np.random.default_rng(0)), found)
    assert "macs" not in files["policies.csv"] and "cost_depth" in files["policies.csv"]


def test_no_name_is_a_formula(make_table):
    found = evaluated([make_table("=cmd()")], dev=None, policies=["entropy"], policy=None, budgets=[0.75])
    files = csv_files(summarise(found, rng=np.random.default_rng(0)), found)
    assert all(row[0] == "'=cmd()" for row in list(csv.reader(io.StringIO(files["exits.csv"])))[1:])
    cells = [cell for text in files.values() for row in csv.reader(io.StringIO(text)) for cell in row]
    numbers = [cell for cell in cells if cell.startswith(("-", "+"))]
    assert not [cell for cell in cells if cell.startswith(("=", "@"))] and numbers == [str(float(x)) for x in numbers]
