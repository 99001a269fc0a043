"""The README's numbers are those of the committed summary."""

import json

from eeasr_modules.report.readme import results_text


def test_the_readme_shows_the_committed_results(root):
    summary = json.loads((root / "results" / "an4" / "summary.json").read_text(encoding="utf-8"))
    assert results_text(summary) in (root / "README.md").read_text(encoding="utf-8")


def test_the_committed_results_hold_no_transcripts(root):
    text = (root / "results" / "an4" / "summary.json").read_text(encoding="utf-8")
    assert "hypothes" not in text and "reference" not in text
