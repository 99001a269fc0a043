"""The report as a user finds it; CSV files agree with the summary and tables."""

import csv
import io
import json
import re

import numpy as np
import pytest

from eeasr_modules.report import closing_lines, evaluated, summarise, write_report
from eeasr_modules.report.render.files import csv_files

POLICIES = ["random", "between(entropy)", "between(patience(1))"]


@pytest.fixture(scope="module")
def report(make_table, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    tables = [
        make_table("odd words", seed=3, label="ood", n=30, n_speakers=4),
        make_table("test"),
        make_table("noise", seed=2, label="shifted", references=False),
    ]
    dev = make_table("dev", seed=1)
    summary = write_report(
        tables,
        out,
        dev=dev,
        policies=POLICIES,
        policy="between(entropy)",
        budget=0.75,
        command="eeasr analyze ...",
    )
    return summary, out


def test_page_summary_and_pictures_are_there_and_nothing_else(report):
    _, out = report
    names = {path.name for path in out.iterdir()}
    pictures = {"wer_per_exit.png", "frontier_test.png", "frontier_noise.png", "frontier_odd_words.png"}
    texts = {"report.md", "report.html", "summary.json", "exits.csv", "policies.csv", "curves.csv"}
    texts |= {f"choices_{name}.csv" for name in ("test", "noise", "odd_words")}
    assert names == pictures | texts
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    text = (out / "report.md").read_text("utf-8")
    assert set(re.findall(r"!\[.*?\]\((.*?)\)", text)) == pictures


def test_the_summary_on_disk_is_the_one_returned(report):
    summary, out = report
    stored = json.loads((out / "summary.json").read_text("utf-8"))
    assert {**stored, "report": str(out / "report.md"), "page": str(out / "report.html")} == summary
    assert list(stored["sets"]) == ["test", "noise", "odd words"]


def test_the_page_has_the_numbers_of_the_summary_and_says_how_they_came(report):
    summary, out = report
    text = (out / "report.md").read_text("utf-8")
    one = summary["sets"]["test"]
    at = one["policies"]["between(entropy)"]["at_budget"]
    row = next(line for line in text.splitlines() if line.startswith("| test | in domain"))
    for number in (one["wer_per_exit"][0], one["wer_per_exit"][-1], at["wer"], at["depth"], one["oracle_a"]["wer"]):
        assert f"{number:.2f}" in row
    assert "Thresholds were chosen on dev (60 utterances, 10 speakers)" in text
    assert "Made on" in text and "`eeasr analyze ...`" in text
    assert "optimistic by selection" in text and "Depth is not time" in text
    assert "Fewer than 8 speakers in odd words" in text and "Unknown speakers" not in text
    assert text.count("draws of 4 speakers; differences are paired. **Nothing is to be concluded") == 1
    assert text.count("draws of 10 speakers; differences are paired.\n") == 2


def test_rows_of_every_table_have_as_many_cells_as_its_header(report):
    _, out = report
    text = (out / "report.md").read_text("utf-8")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block


def test_the_closing_lines_say_what_matters(report):
    summary, out = report
    text = "\n".join(closing_lines(summary))
    one = summary["sets"]["test"]
    assert f"Report: {out / 'report.md'}" in text
    assert f"{one['wer_per_exit'][0]:.2f} % at the first exit (layer 2)" in text
    assert f"{one['wer_per_exit'][-1]:.2f} % at the last (layer 8)" in text
    assert "an inner exit beats the last on" in text
    assert "chosen policy" in text and "(by dev)" in text and "oracle" in text


def test_thresholds_set_on_the_evaluated_set_are_called_flattering(make_table, tmp_path):
    few = make_table(n_speakers=3)
    write_report([few], tmp_path, dev=None, policies=POLICIES, policy=None, budget=0.75)
    assert "set on this very set, which flatters" in (tmp_path / "report.md").read_text("utf-8")
    write_report([make_table()], tmp_path, dev=None, policies=POLICIES, policy=None, budget=0.75)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "flatters" not in text and "cross-fitted" in text


def test_a_failed_report_leaves_the_old_one_as_it_was(make_table, tmp_path, monkeypatch):
    write_report([make_table()], tmp_path, dev=None, policies=POLICIES, policy=None, budget=0.75)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="no space left"):
        write_report([make_table(seed=5)], tmp_path, dev=None, policies=POLICIES, policy=None, budget=0.75)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_single_exit_model_has_a_report_of_its_own(make_table, tmp_path):
    summary = write_report(
        [make_table(layers=(8,))], tmp_path, dev=make_table("dev", layers=(8,)), policies=[], policy=None, budget=0.75
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert {"report.md", "report.html", "summary.json", "wer_per_exit.png", "exits.csv"} <= names
    assert "the last (layer 8)" in "\n".join(closing_lines(summary))


def test_a_file_where_the_folder_should_be_is_refused(make_table, tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(ValueError, match="needs a folder"):
        write_report([make_table()], tmp_path / "out", dev=None, policies=POLICIES, policy=None, budget=0.75)


def test_a_set_name_means_nothing_to_markdown_or_html(make_table, tmp_path):
    name = "<script>alert(1)</script> [x](javascript:1) *a* | `b`\n# c"
    write_report([make_table(name)], tmp_path, dev=None, policies=POLICIES, policy=None, budget=0.75, command="a `b`")
    text = (tmp_path / "report.md").read_text("utf-8")
    safe = r"&lt;script&gt;alert(1)&lt;/script&gt; \[x\](javascript:1) \*a\* \| \`b\` \# c"
    assert f"\n## {safe}\n" in text and f"\n| {safe} | in domain |" in text
    assert "<script" not in text and "[x](" not in text.replace(r"\[x\](", "") and "\n# c" not in text


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
