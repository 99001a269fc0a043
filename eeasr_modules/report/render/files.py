"""Writes a report: pages, pictures, the summary that both are made from, CSV files.

The HTML page opens offline; its looks and behaviour are in `web/`, and here the numbers and transcripts are put into
it. Nothing of the data is ever read as HTML: it lies in a JSON block, with `<` escaped, and is shown as text.
"""

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.common.files import neutral
from eeasr_modules.exits import ExitTable, Policy, oracle_a, oracle_b
from eeasr_modules.exits.measure.fusion import FusionModel
from eeasr_modules.exits.tuning.calibration import Curve
from eeasr_modules.exits.tuning.risk_losses import RiskTarget
from eeasr_modules.exits.tuning.risk_terms import needed_lines
from eeasr_modules.report.numbers.evaluation import COSTS, CROSS_FIT, N_HALVES, Outcome
from eeasr_modules.report.numbers.summary import Evaluated, evaluated, short_number, summarise
from eeasr_modules.report.render.figures import POLICY_COLOURS, draw_figures, set_file
from eeasr_modules.report.render.markdown import (
    LABELS,
    best_on_calibration,
    caveats,
    certified_name,
    difference_text,
    number,
    percent,
    report_text,
)


def csv_files(summary: Mapping[str, Any], found: Evaluated) -> dict[str, str]:
    """All CSV files of a report by name: `exits`, `policies`, `curves`, and `choices_<set>.csv` for each set."""
    files = {
        "exits.csv": _text(_exits(summary)),
        "policies.csv": _text(_policies(summary)),
        "curves.csv": _text(_curves(summary)),
    }
    return files | {set_file("choices_{}.csv", name): _text(_choices(*one)) for name, one in found.sets.items()}


def _text(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([neutral(value) for value in row] for row in rows)
    return out.getvalue()


def _exits(summary: Mapping[str, Any]) -> list[list[Any]]:
    costs = summary["costs"]
    rows = [["set", "label", "exit_layer", *[f"cost_{name}" for name in costs]]]
    rows[0] += ["errors", "n_ref_words", "wer", "wer_low", "wer_high", "cer"]
    for name, one in summary["sets"].items():
        for k, layer in enumerate(one["exit_layers"]):
            means = [one["costs"][cost]["exits"][k] for cost in costs]
            numbers = [one["errors_per_exit"][k], one["n_ref_words"], one["wer_per_exit"][k]]
            rows.append([name, one["label"], layer, *means, *numbers, *one["wer_interval_per_exit"][k]])
            rows[-1].append(one["cer_per_exit"][k])
    return rows


def _policies(summary: Mapping[str, Any]) -> list[list[Any]]:
    costs = summary["costs"]
    rows = [["set", "label", "policy", "budget", "calibrated", "calibrated_on", "wer", "wer_low", "wer_high"]]
    rows[0] += [f"{what}_{name}" for name in costs for what in ("cost", "share", "static", "oracle_c", "gap_closed")]
    rows[0] += [f"minus_{line}{end}" for line in ("static", "last") for end in ("", "_low", "_high")]
    rows[0].append("emitted_depth")
    for name, one in summary["sets"].items():
        for text, policy in one["policies"].items():
            for at in policy["at_budgets"]:
                row = [name, one["label"], text, at["budget"], at["calibrated"], policy["calibrated_on"]]
                row += [at["wer"], *at["interval"]]
                for cost in costs:
                    row += [at["costs"][cost][key] for key in ("mean", "share", "static", "oracle_c", "gap_closed")]
                for line in ("minus_static", "minus_last"):
                    row += [at[line][key] for key in ("difference", "low", "high")]
                rows.append([*row, at["emitted_depth"]])
    return rows


def _curves(summary: Mapping[str, Any]) -> list[list[Any]]:
    costs = summary["costs"]
    rows = [["set", "policy", "calibrated", *[f"cost_{name}" for name in costs], "wer"]]
    for name, one in summary["sets"].items():
        for text, policy in one["policies"].items():
            for i, calibrated in enumerate(policy["curve_texts"]):
                points = [policy["curves"][cost][i] for cost in costs]
                rows.append([name, text, calibrated, *[point[0] for point in points], points[0][1]])
    return rows


def _choices(table: ExitTable, outcomes: Mapping[str, Outcome]) -> list[list[Any]]:
    """A row for each utterance: errors at every exit, and the layer after which each policy and oracle left."""
    columns = {"oracle A": oracle_a(table.errors), "oracle B": oracle_b(table.errors, table.cost_layers)}
    for text, outcome in outcomes.items():
        for choice in outcome.choices:
            name = text if choice.budget is None else f"{text} @ {choice.budget:g}"
            columns[name] = choice.exit_index
            if (choice.emitted != choice.exit_index).any():
                columns[f"{name}: emitted"] = choice.emitted
    layers = np.stack([table.exit_layers[exit_index] for exit_index in columns.values()], axis=1)
    rows = [["utt_id", "speaker", "duration_s", "n_ref_words", *[f"errors_layer_{x}" for x in table.exit_layers]]]
    rows[0] += columns
    for i in range(table.n_utterances):
        row = [table.utt_ids[i], table.speakers[i], round(float(table.duration_s[i]), 3), int(table.n_ref_words[i])]
        rows.append([*row, *table.errors[i].tolist(), *layers[i].tolist()])
    return rows


N_UTTERANCES = 3000  # of each set in report.html


def write_report(
    tables: Sequence[ExitTable],
    out: str | Path,
    *,
    dev: ExitTable | None,
    policies: Sequence[str],
    policy: str | None,
    budget: float,
    other_budgets: Sequence[float] = (),
    cost: str = "depth",
    n_folds: int = N_HALVES,
    single_exit: Sequence[ExitTable] = (),
    calibrated: Mapping[str, Policy | str] | None = None,
    curves: Mapping[str, Curve] | None = None,
    risk: RiskTarget | None = None,
    fusion: FusionModel | None = None,
    n_examples: int = N_UTTERANCES,
    command: str | None = None,
) -> dict[str, Any]:
    """Write `report.html`, `report.md`, `summary.json`, CSV files and pictures into a folder.

    Nothing in the folder changes before everything is made; files of the same names are then replaced.

    Returns dict: what `summary.json` holds, and under "report" where the page is. ValueError as `evaluated`.

    Arguments
    ---------
    tables : sequence of ExitTable
        The test sets, with distinct set names.
    dev : ExitTable or None
        Calibration data. Without it thresholds are cross-fitted over speakers or, with too few speakers, set on
        the evaluated set, and the report says so.
    policies : sequence of str
        Texts of policies to compare, open or not.
    policy : str or None
        The chosen one; None takes the lowest WER at `budget` on dev or, without dev, the first open one that is not
        random.
    budget : float
        Mean cost allowed: up to 1 a share of full cost, above 1 layers.
    other_budgets : sequence of float
        More of them, to be shown beside it.
    cost : str
        What budgets count: "depth", "macs" or "time".
    n_folds : int
        Of the cross-fit, where there is no dev.
    single_exit : sequence of ExitTable
        The same sets by the same encoder trained with one exit only.
    calibrated : mapping of str to policy or str, or None
        Policies (or their texts, where nothing is fitted) already calibrated on dev to `budget`, by the text that
        was asked for.
    curves : mapping of str to Curve, or None
        Policies fitted and swept on dev before, by their open text; the others are here.
    n_examples : int
        Most utterances of each set whose transcripts `report.html` holds.
    command : str or None
        What made the report; printed in it.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"the report needs a folder, but {out} is a file; give another path")
    if n_examples < 0:
        raise ValueError(f"the number of examples must not be negative, got {n_examples}")
    found = evaluated(
        tables,
        dev=dev,
        policies=policies,
        policy=policy,
        budgets=[budget, *other_budgets],
        cost=cost,
        n_folds=n_folds,
        single_exit=single_exit,
        calibrated=calibrated,
        curves=curves,
    )
    summary = summarise(found, rng=np.random.default_rng(0), risk=risk, fusion=fusion, command=command)
    texts = {
        "summary.json": json.dumps(summary, indent=1, ensure_ascii=False) + "\n",
        "report.html": html_page(summary, found, n_examples=n_examples),
        **csv_files(summary, found),
    }
    out.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".report.", dir=out))
    try:
        pictures = draw_figures(summary, aside)
        texts["report.md"] = report_text(summary, pictures=pictures)
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8")
        for path in sorted(aside.iterdir()):
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {**summary, "report": str(out / "report.md"), "page": str(out / "report.html")}


def closing_lines(summary: Mapping[str, Any]) -> list[str]:
    """What to print when a run is done: where the report is and the lines that matter."""
    name, one = next(iter(summary["sets"].items()))
    wers, layers = one["wer_per_exit"], one["exit_layers"]
    lines = [f"Report: {summary['report']}", f"Page: {summary['page']}"] if "report" in summary else []
    lines += [
        f"{name}: WER {number(wers[0])} % at the first exit (layer {layers[0]}), "
        f"{number(wers[-1])} % at the last (layer {layers[-1]})",
        f"an inner exit beats the last on {percent(one['overthinking']['inner_better_share'], 1)} "
        f"of {one['n_utterances']} utterances",
    ]
    best = best_on_calibration(one["policies"])
    judge = summary["dev"]["set_name"] if summary["dev"] else "this set itself"
    if best is not None and (one["policies"][best]["calibrated_on"] or "").startswith(CROSS_FIT):
        judge = "the folds that calibrated"
    titles = {"chosen policy": summary["chosen_policy"], f"best policy at the budget (by {judge})": best}
    if best == summary["chosen_policy"]:
        titles = {f"chosen policy, the best at the budget (by {judge})": best}
    lines += [f"{title}: {_policy_words(text, one['policies'][text])}" for title, text in titles.items() if text]
    if one["fused"] is not None:
        fused = one["fused"]["at_budget"]["wer"], difference_text(one["fused"]["minus_exit"])
        lines.append(f"its words fused: WER {number(fused[0])} % at the same layers ({fused[1]} [95 %])")
    lines.append(
        f"oracle (knows the reference): {number(one['oracle_a']['wer'])} % at {number(one['oracle_a']['depth'])} layers"
    )
    lines += [f"left out: {text}: {reason}" for text, reason in summary["left_out"].items()]
    return lines + _risk_lines(summary)


def _risk_lines(summary: Mapping[str, Any]) -> list[str]:
    """Every certificate, with what it assumes; where a set has none, how many speakers one takes."""
    lines, lacks = [], False
    for name, one in summary["sets"].items() if summary["risk"] else ():
        for row in one["risk"]:
            lines.append(f"{name}, {certified_name(row)}: {row['reason']}")
        issued = [row for row in one["risk"] if row["certified"]]
        lines += [f"assumed: {text}" for text in (issued[0]["assumptions"] if issued else ())]
        lines += [] if one["risk"] else [f"{name}: no certificate can be issued, speakers are too few or unknown"]
        lacks |= not issued
    return lines + (needed_lines(summary["risk"]["speakers_needed"], delta=summary["risk"]["delta"]) if lacks else [])


def _policy_words(text: str, policy: Mapping[str, Any]) -> str:
    point = policy["at_budget"]
    return (
        f"{text}: WER {number(point['wer'])} % at {number(point['depth'])} layers "
        f"({percent(point['depth_share'])} of full depth, {percent(point['gap_closed'])} of the gap closed)"
    )


KEPT_RULE = "those on which an inner exit beats the last, most errors saved first, then those with most errors"


FIRST_CHARACTER = 48  # "0" stands for the first exit; every exit is one character


def html_page(summary: Mapping[str, Any], found: Evaluated, *, n_examples: int) -> str:
    """The page as HTML, with style, script and data inside.

    `n_examples`: most utterances of each set whose transcripts the page holds (`KEPT_RULE` says which); 0 holds none.
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

    Returns np.ndarray of int: rows of the table.
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
