"""The interactive page of a report: one file that opens offline and asks nothing of any other machine.

Its looks and behaviour are in `web/`; here the numbers and transcripts are put into it. Nothing of the data is
ever read as HTML: it lies in a JSON block, with `<` escaped, and is shown as text.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from eeasr_modules.exits import ExitTable
from eeasr_modules.report.costs import COSTS
from eeasr_modules.report.evaluation import Outcome
from eeasr_modules.report.frontier import POLICY_COLOURS
from eeasr_modules.report.page import caveats
from eeasr_modules.report.summary import Evaluated, short_number
from eeasr_modules.report.tables import LABELS

KEPT_RULE = "those on which an inner exit beats the last, most errors saved first, then those with most errors"
FIRST_CHARACTER = 48  # "0" stands for the first exit; every exit is one character


def html_page(summary: Mapping[str, Any], found: Evaluated, *, n_examples: int) -> str:
    """The page as text.

    Arguments
    ---------
    summary : mapping
        Of `summarise`.
    found : Evaluated
        The same, with tables and choices.
    n_examples : int
        Most utterances of each set whose transcripts the page holds (`KEPT_RULE` says which); 0 holds none.

    Returns
    -------
    str
        HTML, with style, script and data inside.
    """
    data = {
        "summary": summary,
        "labels": LABELS,
        "colours": POLICY_COLOURS,
        "costs": {name: {"title": one.title, "unit": one.unit, "digits": one.digits} for name, one in COSTS.items()},
        "caveats": caveats(summary),
        "utterances": {name: _utterances(*one, n_examples=n_examples) for name, one in found.sets.items()},
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # so that no transcript can end the block, nor begin a comment in it
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    parts = {"CSS": _asset("page.css"), "JS": _asset("page.js"), "DATA": text}
    page = _asset("page.html")
    for name, part in parts.items():  # data last: marks in it are not looked for
        page = page.replace(f"@@{name}@@", part)
    return page


def _asset(name: str) -> str:
    return resources.files("eeasr_modules.report").joinpath("web", name).read_text(encoding="utf-8").rstrip("\n")


def _utterances(table: ExitTable, outcomes: Mapping[str, Outcome], *, n_examples: int) -> dict[str, Any]:
    """Transcripts (each once per utterance), errors, and who left where, of the utterances that are kept."""
    rows = kept_rows(table, n_examples)
    texts = [list(dict.fromkeys(row)) for row in table.hypotheses[rows]]
    which = [[text.index(one) for one in row] for text, row in zip(texts, table.hypotheses[rows])]
    return {
        "n_all": table.n_utterances,
        "rule": KEPT_RULE,
        "ids": table.utt_ids[rows].tolist(),
        "speakers": table.speakers[rows].tolist(),
        "seconds": np.round(table.duration_s[rows], 2).tolist(),
        "words": table.n_ref_words[rows].tolist(),
        "references": None if table.references is None else table.references[rows].tolist(),
        "hypotheses": texts,
        "which": [_characters(row) for row in which],
        "errors": table.errors[rows].tolist(),
        "choices": {
            text: {_budget_key(choice.budget): _characters(choice.emitted[rows]) for choice in outcome.choices}
            for text, outcome in outcomes.items()
        },
    }


def kept_rows(table: ExitTable, n: int) -> np.ndarray:
    """Utterances whose transcripts a page holds, in the table's order: all, or the first `n` by `KEPT_RULE`.

    Arguments
    ---------
    table : ExitTable
        The set.
    n : int
        Most to keep.

    Returns
    -------
    np.ndarray of int
        Rows of the table.
    """
    if table.n_utterances <= n:
        return np.arange(table.n_utterances)
    last = table.errors[:, -1]
    saved = np.maximum(last - table.errors.min(axis=1), 0)
    order = np.lexsort((np.arange(table.n_utterances), -last, -saved))
    return np.sort(order[:n])


def _characters(numbers: Any) -> str:
    return "".join(chr(FIRST_CHARACTER + int(number)) for number in numbers)


def _budget_key(budget: float | None) -> str:
    """As JavaScript writes the number that the summary holds."""
    if budget is None:
        return "null"
    rounded = short_number(float(budget))
    return str(int(rounded)) if rounded.is_integer() else repr(rounded)
