"""A report's numbers as CSV: per exit, per policy and budget, and what was chosen for each utterance."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from eeasr_modules.exits import ExitTable, oracle_a, oracle_b
from eeasr_modules.exits.csv_cells import neutral
from eeasr_modules.report.evaluation import Outcome
from eeasr_modules.report.summary import Evaluated


def csv_files(summary: Mapping[str, Any], found: Evaluated) -> dict[str, str]:
    """All CSV files of a report.

    Arguments
    ---------
    summary : mapping
        Of `summarise`.
    found : Evaluated
        The same, with tables and choices.

    Returns
    -------
    dict of str to str
        Content by file name: `exits.csv`, `policies.csv`, `curves.csv`, and `choices_<set>.csv` for each set.
    """
    files = {
        "exits.csv": _text(_exits(summary)),
        "policies.csv": _text(_policies(summary)),
        "curves.csv": _text(_curves(summary)),
    }
    return files | {choices_name(name): _text(_choices(*one)) for name, one in found.sets.items()}


def choices_name(set_name: str) -> str:
    """File name of a set's choices.

    Arguments
    ---------
    set_name : str
        Any text.

    Returns
    -------
    str

    Example
    -------
    >>> choices_name("an4 test/noise")
    'choices_an4_test_noise.csv'
    """
    return f"choices_{re.sub(r'[^A-Za-z0-9.-]+', '_', set_name)}.csv"


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
    for name, one in summary["sets"].items():
        for text, policy in one["policies"].items():
            for at in policy["at_budgets"]:
                row = [name, one["label"], text, at["budget"], at["calibrated"], policy["calibrated_on"]]
                row += [at["wer"], *at["interval"]]
                for cost in costs:
                    row += [at["costs"][cost][key] for key in ("mean", "share", "static", "oracle_c", "gap_closed")]
                for line in ("minus_static", "minus_last"):
                    row += [at[line][key] for key in ("difference", "low", "high")]
                rows.append(row)
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
