"""`eeasr analyze` as it is typed: its options, and what it says of tables that cannot be reported."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eeasr_modules.cli import main
from eeasr_modules.exits import write_table


@pytest.fixture
def saved(make_table, tmp_path):
    """Writes a table and gives its path."""

    def save(name="test", **options):
        path = tmp_path / f"{name}.parquet"
        write_table(make_table(name, **options), path)
        return str(path)

    return save


def failure(capsys, *argv):
    """The one line that a failing command says."""
    assert main(["analyze", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err.removeprefix("eeasr: error: ").strip()


def test_budgets_costs_promises_and_examples_reach_the_report(saved, tmp_path, capsys):
    out = tmp_path / "report"
    options = ["--dev", saved("dev", seed=1), "--budgets", "0.8,0.5", "--cost", "macs", "--risk", "5,0.1"]
    argv = ["analyze", saved(), *options, "--policies", "entropy", "--examples", "7", "--out", str(out)]
    assert main(argv) == 0
    assert f"Page: {out / 'report.html'}" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert (summary["budget"], summary["budgets"], summary["cost"]) == (0.8, [0.8, 0.5], "macs")
    assert (summary["risk"]["eps"], summary["risk"]["delta"]) == (5.0, 0.1)
    page = (out / "report.html").read_text("utf-8")
    assert '"test-59"' not in page or page.count('"test-') <= 7


def test_a_cross_fit_has_ten_folds_when_asked_for(saved, tmp_path):
    out = tmp_path / "report"
    assert main(["analyze", saved(), "--cross-fit", "--policies", "entropy", "--out", str(out)]) == 0
    one = json.loads((out / "summary.json").read_text("utf-8"))["sets"]["test"]
    assert one["policies"]["entropy"]["calibrated_on"] == "cross-fit over speakers (10 folds)"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--budgets", "7;8"], "--budgets must be numbers with commas between them"),
        (["--budgets", "0.5,9"], "must not exceed the encoder's 8 layers, got 9"),
        (["--cost", "watts"], "invalid choice: 'watts'"),
        (["--cost", "time"], "does not know measured times"),
        (["--cost", "macs", "--budget", "4"], "share of the last exit's cost, up to 1, got 4"),
        (["--risk", "0.5"], "0.5"),
        (["--examples", "-1"], "must not be negative, got -1"),
    ],
)
def test_wrong_options_are_one_sentence_and_no_report(saved, tmp_path, capsys, options, sentence):
    out = tmp_path / "report"
    assert sentence in failure(capsys, saved(), "--out", str(out), *options)
    assert not out.exists()


def test_tables_that_do_not_belong_together_are_refused(saved, tmp_path, capsys):
    out = ["--out", str(tmp_path / "report")]
    test, dev = saved(), saved("dev", seed=1)
    assert "--cross-fit is for reports without a dev table" in failure(capsys, test, "--dev", dev, "--cross-fit", *out)
    assert "exits are after layers [2, 4, 6, 8] and [4, 8]" in failure(capsys, test, saved("b", layers=(4, 8)), *out)
    assert "digests are model-a and model-b" in failure(capsys, test, saved("c", digest="model-b"), *out)
    assert "comes 2 times" in failure(capsys, test, test, *out)
    assert "a single-exit table must have one exit" in failure(capsys, test, "--single-exit", test, *out)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [("entropy", float("nan"), "signal entropy must be finite"), ("utt_id", "test-0", "test-0")],
)
def test_broken_tables_are_refused_before_anything_is_written(saved, tmp_path, capsys, column, value, sentence):
    path = saved()
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[4:8] = [value] * 4  # of the second utterance
    broken = table.set_column(table.column_names.index(column), column, pa.array(values))
    pq.write_table(broken, path)
    assert sentence in failure(capsys, path, "--out", str(tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_a_table_whose_numbers_cannot_be_leaves_the_old_report(make_table, tmp_path, capsys):
    out, path = tmp_path / "report", tmp_path / "test.parquet"
    table = make_table()
    write_table(table, path)
    assert main(["analyze", str(path), "--policies", "entropy", "--out", str(out)]) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    write_table(replace(table, signals={"other": np.zeros((60, 4))}), path)
    capsys.readouterr()
    assert "no signal entropy" in failure(capsys, str(path), "--policy", "entropy", "--out", str(out))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
