"""The page shows what `benchmarks/beside.py` saved."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class TestBeside:
    @pytest.fixture(scope="class")
    def beside(self):
        return runpy.run_path(str(ROOT / "benchmarks" / "beside.py"))

    def test_the_page_shows_what_was_saved(self, beside):
        saved = json.loads(beside["SAVED"].read_text(encoding="utf-8"))
        page = beside["PAGE"].read_text(encoding="utf-8")
        assert beside["written"](page, saved) == page

    def test_what_was_saved_names_the_processor_and_shows_what_sleeping_is_worth(self, beside):
        saved = json.loads(beside["SAVED"].read_text(encoding="utf-8"))
        assert saved["isa"] and saved["cpu"]["name"] and len(saved["rounds"]) >= 3
        assert all(set(one) == {"unset", "PASSIVE"} for one in saved["rounds"])

    def test_a_page_without_the_marks_is_one_sentence(self, beside):
        saved = json.loads(beside["SAVED"].read_text(encoding="utf-8"))
        with pytest.raises(ValueError, match="expected the marks"):
            beside["written"]("# A page", saved)
