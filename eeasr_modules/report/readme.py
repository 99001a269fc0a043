"""The README's tables of results, written from a committed `summary.json` so that no number is typed by hand.

python -m eeasr_modules.report.readme results/an4/summary.json README.md
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from eeasr_modules.report.tables import interval, markdown_table, number, policies_table, sets_table

BEGIN, END = "<!-- results: written by eeasr_modules.report.readme -->", "<!-- /results -->"


def exits_table(summary: dict[str, Any]) -> str:
    """WER of every exit on every set, with the 95 % interval of the last, and the single-exit model's beside it.

    Arguments
    ---------
    summary : dict
        Content of `summary.json`.
    """
    layers = next(iter(summary["sets"].values()))["exit_layers"]
    rows = []
    for name, one in summary["sets"].items():
        single = one["single_exit"]
        rows.append(
            [name]
            + [number(wer) for wer in one["wer_per_exit"]]
            + [interval(one["wer_interval_per_exit"][-1]), number(single["wer"]) if single else "-"]
        )
    header = ["set", *[f"layer {layer}" for layer in layers], "last [95 %]", "single exit"]
    return markdown_table(header, rows)


def results_text(summary: dict[str, Any]) -> str:
    """Everything that stands between the README's two marks.

    Arguments
    ---------
    summary : dict
        Content of `summary.json`.
    """
    first = next(iter(summary["sets"]))
    return "\n\n".join(
        [
            BEGIN,
            "WER (%) of every exit; *single exit*: the same encoder trained with its last exit only, as many updates.",
            exits_table(summary),
            "What leaving early is worth; `@`: mean depth in layers, by duration; *overthought*: utterances on "
            "which an inner exit has strictly fewer errors than the last; *gap closed*: 0 % on the static line, "
            "100 % on oracle C.",
            sets_table(summary),
            f"The policies on {first}, floor, ceiling and threshold chosen on dev:",
            policies_table(summary["sets"][first]),
            END,
        ]
    )


def main(summary_path: str, readme_path: str) -> None:
    """Replace what stands between the marks of a README."""
    summary = json.loads(Path(summary_path).read_text(encoding="utf-8"))
    readme = Path(readme_path)
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme_path} must hold the lines '{BEGIN}' and '{END}'; put them where the tables belong")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    aside = readme.with_name(readme.name + ".tmp")
    aside.write_text(before + results_text(summary) + after, encoding="utf-8")
    os.replace(aside, readme)


if __name__ == "__main__":
    main(*sys.argv[1:])
