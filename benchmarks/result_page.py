"""A page's tables of results, written from a committed `summary.json` so that no number is typed by hand.

python benchmarks/result_page.py results/an4/summary.json results/an4/README.md
"""

import json
import sys
from pathlib import Path
from typing import Any

from eeasr_modules.common.files import write_aside
from eeasr_modules.report.render.markdown import (
    LABELS,
    difference_text,
    interval,
    markdown_table,
    number,
    percent,
    plain_name,
    set_interval,
)

BEGIN, END = "<!-- results: written by benchmarks/result_page.py -->", "<!-- /results -->"


ALIKE = ("between(margin)", "between(max_entropy)", "between(patience(2))", "between(patience_ce(1))")


def exits_table(summary: dict[str, Any]) -> str:
    """One row for each set but disturbed ones: WER of the exits (of more than six every second) with the interval of
    the last, the oracle, and the chosen policy.
    """
    layers = next(iter(summary["sets"].values()))["exit_layers"]
    kept = slice(1, None, 2) if len(layers) > 6 and len(layers) % 2 == 0 else slice(None)
    layers, rows = layers[kept], []
    for name, one in summary["sets"].items():
        if one["label"] == "shifted":
            continue
        oracle, point = one["oracle_a"], one["policies"][summary["chosen_policy"]]["at_budget"]
        rows.append(
            [plain_name(name), LABELS[one["label"]]]
            + [number(wer) for wer in one["wer_per_exit"][kept]]
            + [set_interval(one["wer_interval_per_exit"][-1], one)]
            + [f"{number(at['wer'])} @ {number(at['depth'])}" for at in (oracle, point)]
            + [percent(one["overthinking"]["inner_better_share"], 1), percent(point["gap_closed"])]
        )
    header = ["set", "kind", *[f"layer {layer}" for layer in layers], "last [95 %]"]
    return markdown_table(header + ["oracle A", "chosen policy", "overthought", "gap closed"], rows, n_left=2)


def policies_table(one: dict[str, Any]) -> str:
    """One row for each policy at the budget that does not come down to a fixed exit, on one set."""
    rows = []
    for text, policy in one["policies"].items():
        if (policy["calibrated"] or "").startswith("static(") or text in ALIKE:
            continue
        at = policy["at_budget"]
        rows.append([f"`{text}`", f"`{policy['calibrated']}`", f"{number(at['wer'])} {interval(at['interval'])}"])
        rows[-1] += [number(at["depth"]), difference_text(at["minus_static"]), percent(at["gap_closed"])]
    header = ["policy", "as calibrated", "WER [95 %]", "depth", "minus static line [95 %]", "gap closed"]
    return markdown_table(header, rows, n_left=2)


def results_text(summary: dict[str, Any]) -> str:
    """Everything that stands between the page's two marks."""
    first = next(iter(summary["sets"]))
    return "\n\n".join(
        [
            BEGIN,
            "WER (%) of every exit; `@`: mean depth in layers, by duration; *overthought*: utterances on which an "
            "inner exit has strictly fewer errors; *gap closed*: 0 % on the static line, 100 % on oracle C. Disturbed "
            "sets: summary.json.",
            exits_table(summary),
            f"The policies on {plain_name(first)}, floor, ceiling and threshold chosen on dev (not shown: those that "
            "became a fixed exit there, and close relatives):",
            policies_table(summary["sets"][first]),
            END,
        ]
    )


def main(summary_path: str, readme_path: str) -> None:
    """Replace what stands between the marks of a page."""
    summary = json.loads(Path(summary_path).read_text(encoding="utf-8"))
    readme = Path(readme_path)
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme_path} must hold the lines '{BEGIN}' and '{END}'; put them where the tables belong")
    write_aside(readme, text.split(BEGIN)[0] + results_text(summary) + text.split(END)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
