"""The READMEs' numbers are those of the committed summaries."""

import json
import runpy

import pytest

from eeasr_modules.report.readme import headline_text, results_text


def test_the_readme_shows_the_committed_results(root):
    summary = json.loads((root / "results" / "an4" / "summary.json").read_text(encoding="utf-8"))
    assert results_text(summary) in (root / "README.md").read_text(encoding="utf-8")


def test_the_shipped_models_results_are_shown(root):
    summary = json.loads((root / "results" / "small" / "summary.json").read_text(encoding="utf-8"))
    assert headline_text(summary) in (root / "README.md").read_text(encoding="utf-8")
    assert results_text(summary) in (root / "results" / "small" / "README.md").read_text(encoding="utf-8")


def test_the_study_shows_the_committed_results(root):
    study = runpy.run_path(str(root / "benchmarks" / "study.py"))
    text = (root / "RESULTS.md").read_text(encoding="utf-8")
    assert study["written"]() == text and "{{" not in text


def test_the_regimes_are_shown_as_they_were_recorded(root):
    regimes = runpy.run_path(str(root / "benchmarks" / "regimes.py"))
    records = json.loads((root / "results" / "regimes" / "regimes.json").read_text(encoding="utf-8"))
    table = regimes["joined_markdown"](records)
    assert "| mean of 3 |" in table
    assert table in (root / "results" / "regimes" / "README.md").read_text(encoding="utf-8")


def test_the_corpora_show_the_committed_results(root):
    study = runpy.run_path(str(root / "benchmarks" / "study.py"))
    for corpus in study["CORPORA"]:
        text = (root / "recipes" / corpus / "README.md").read_text(encoding="utf-8")
        assert study["readme_with_results"](corpus) == text and "| shipped |" in text


@pytest.mark.parametrize("run", ["an4", "small"])
def test_the_committed_results_hold_no_transcripts(root, run):
    text = (root / "results" / run / "summary.json").read_text(encoding="utf-8")
    assert "hypothes" not in text and "reference" not in text
