"""A page's tables of results, written from a committed `summary.json` so that no number is typed by hand.

python -m eeasr_modules.report.render.readme results/an4/summary.json results/an4/README.md
"""

import json
import sys
from pathlib import Path
from typing import Any

from eeasr_modules.common.files import write_aside
from eeasr_modules.report.render.tables import (
    markdown_table,
    number,
    plain_name,
    policies_table,
    set_interval,
    sets_table,
)

BEGIN, END = "<!-- results: written by eeasr_modules.report.render.readme -->", "<!-- /results -->"


def exits_table(summary: dict[str, Any]) -> str:
    """WER of every exit on every set, with the 95 % interval of the last.

    Arguments
    ---------
    summary : dict
        Content of `summary.json`.
    """
    layers = next(iter(summary["sets"].values()))["exit_layers"]
    rows = []
    for name, one in summary["sets"].items():
        rows.append(
            [plain_name(name)]
            + [number(wer) for wer in one["wer_per_exit"]]
            + [set_interval(one["wer_interval_per_exit"][-1], one)]
        )
    header = ["set", *[f"layer {layer}" for layer in layers], "last [95 %]"]
    return markdown_table(header, rows)


def results_text(summary: dict[str, Any]) -> str:
    """Everything that stands between the page's two marks.

    Arguments
    ---------
    summary : dict
        Content of `summary.json`.
    """
    first = next(iter(summary["sets"]))
    # a single-exit model is one seed, which is too little for a first page; `summary.json` and the report have it
    summary = {**summary, "sets": {name: {**one, "single_exit": None} for name, one in summary["sets"].items()}}
    return "\n\n".join(
        [
            BEGIN,
            "WER (%) of every exit:",
            exits_table(summary),
            "What leaving early is worth; `@`: mean depth in layers, by duration; *overthought*: utterances on "
            "which an inner exit has strictly fewer errors than the last; *gap closed*: 0 % on the static line, "
            "100 % on oracle C.",
            sets_table(summary),
            f"The policies on {plain_name(first)}, floor, ceiling and threshold chosen on dev:",
            policies_table(summary["sets"][first]),
            END,
        ]
    )


def main(summary_path: str, readme_path: str) -> None:
    """Replace what stands between the marks of a page.

    Arguments
    ---------
    summary_path, readme_path : str
        Files.
    """
    summary = json.loads(Path(summary_path).read_text(encoding="utf-8"))
    readme = Path(readme_path)
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme_path} must hold the lines '{BEGIN}' and '{END}'; put them where the tables belong")
    write_aside(readme, text.split(BEGIN)[0] + results_text(summary) + text.split(END)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
