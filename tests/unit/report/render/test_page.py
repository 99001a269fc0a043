"""The interactive page holds what it shows, keeps out what it must, and asks nothing of other machines."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.report import evaluated, summarise
from eeasr_modules.report.render.figures import POLICY_COLOURS, POLICY_MARKERS
from eeasr_modules.report.render.files import html_page, kept_rows

POLICIES = ["random", "between(entropy)", "static(4)"]


def page_of(tables, *, n_examples=1000, budgets=(0.75, 6)):
    found = evaluated(tables, dev=None, policies=POLICIES, policy=None, budgets=budgets)
    return html_page(summarise(found, rng=np.random.default_rng(0)), found, n_examples=n_examples), found


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_every_transcript_error_and_choice_can_be_read_back(make_table):
    table = make_table()
    page, found = page_of([table])
    held = data_of(page)["utterances"]["test"]
    for i in range(table.n_utterances):
        which = [ord(character) - 48 for character in held["which"][i]]
        assert [held["hypotheses"][i][k] for k in which] == table.hypotheses[i].tolist()
    assert held["errors"] == table.errors.tolist()
    assert held["references"] == table.references.tolist()
    outcome = found.sets["test"][1]["between(entropy)"]
    for key, choice in zip(("0.75", "6"), outcome.choices):
        written = [ord(character) - 48 for character in held["choices"]["between(entropy)"][key]]
        assert written == choice.exit_index.tolist()
    assert list(held["choices"]["static(4)"]) == ["null"]


def test_the_page_asks_nothing_of_other_machines(make_table):
    page, _ = page_of([make_table()])
    code = page.replace("http://www.w3.org/2000/svg", "")  # the name of a vocabulary, which nothing fetches
    assert not re.search(r"https?://|//cdn|\bfetch\(|XMLHttpRequest|<link|@import|\bsrc=|import\(", code)
    assert "default-src 'none'" in page
    assert "@@" not in page


def test_transcripts_cannot_become_markup(make_table):
    nasty = "</script><script>alert(1)</script><!-- \u2028 @@JS@@ & \" '"
    table = make_table()
    hypotheses = table.hypotheses.copy()
    hypotheses[0, 0] = nasty
    page, _ = page_of([replace(table, hypotheses=hypotheses)])
    assert page.count("</script>") == 2 and "alert(1)</script>" not in page
    assert nasty in data_of(page)["utterances"]["test"]["hypotheses"][0]


def test_references_that_a_table_does_not_keep_are_not_in_the_page(make_table):
    page, _ = page_of([make_table(references=False)])
    assert data_of(page)["utterances"]["test"]["references"] is None


def test_the_page_keeps_the_overthought_first_and_says_how_many_there_are(make_table):
    table = make_table()
    rows = kept_rows(table, 10)
    saved = np.maximum(table.errors[:, -1] - table.errors.min(axis=1), 0)
    assert len(rows) == 10 and (np.diff(rows) > 0).all()
    assert saved[rows].min() >= np.delete(saved, rows).max()
    held = data_of(page_of([table], n_examples=10)[0])["utterances"]["test"]
    assert len(held["ids"]) == 10 and held["n_all"] == 60
    assert data_of(page_of([table], n_examples=0)[0])["utterances"]["test"]["hypotheses"] == []
    assert len(kept_rows(table, 60)) == 60


@pytest.mark.parametrize("layers", [(8,), (2, 4, 6, 8)])
def test_tables_with_one_exit_and_with_several_have_a_page(make_table, layers):
    assert data_of(page_of([make_table(layers=layers)], budgets=(0.75,))[0])["summary"]["costs"] == ["depth", "macs"]


def test_page_and_pictures_give_a_policy_the_same_mark(root):
    script = (root / "eeasr_modules" / "report" / "web" / "page.js").read_text(encoding="utf-8")
    marks = re.findall(r'"(\w+)"', re.search(r"const MARKS = \[(.*?)\]", script)[1])
    shapes = re.findall(r"^    (\w+): \(r\) =>", script, re.M)
    named = {
        "o": "circle",
        "s": "square",
        "D": "diamond",
        "^": "up",
        "v": "down",
        "P": "plus",
        "<": "left",
        ">": "right",
    }
    named |= {"h": "hexagon", "p": "pentagon"}
    assert marks == [named[marker] for marker in POLICY_MARKERS] and set(marks) < set(shapes)
    assert len(set(POLICY_COLOURS)) == len(POLICY_COLOURS) == len(marks)
