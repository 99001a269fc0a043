"""The report: a page, its pictures, and the summary they are made from."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.exits import ExitTable
from eeasr_modules.report.calibrating import CROSS_FIT
from eeasr_modules.report.checks import ordered
from eeasr_modules.report.evaluation import AS_GIVEN
from eeasr_modules.report.examples import examples_text, overthinking_examples
from eeasr_modules.report.figures import draw_figures
from eeasr_modules.report.summary import summarise
from eeasr_modules.report.tables import (
    depths_table,
    interval,
    number,
    percent,
    policies_table,
    provenance_table,
    sets_table,
)

N_EXAMPLES = 10


def write_report(
    tables: Sequence[ExitTable],
    out: str | Path,
    *,
    dev: ExitTable | None,
    policies: Sequence[str],
    policy: str | None,
    budget: float,
    single_exit: Sequence[ExitTable] = (),
    calibrated: Mapping[str, str] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Write `report.md`, `summary.json` and the pictures into a folder.

    Nothing in the folder changes before everything is made; files of the same names are then replaced.

    Arguments
    ---------
    tables : sequence of ExitTable
        The test sets, with distinct set names.
    out : str or Path
        The folder; made if needed.
    dev : ExitTable or None
        Calibration data. Without it thresholds are cross-fitted over speakers or, with too few speakers, set on
        the evaluated set, and the report says so.
    policies : sequence of str
        Texts of policies to compare, open or not.
    policy : str or None
        The chosen one; None as in `summarise`.
    budget : float
        Mean cost allowed: up to 1 a share of full depth, above 1 layers.
    single_exit : sequence of ExitTable
        The same sets by the same encoder trained with one exit only.
    calibrated : mapping of str to str, or None
        Texts already calibrated on dev, by the text that was asked for.
    command : str or None
        What made the report; printed in it.

    Returns
    -------
    dict
        What `summary.json` holds, and under "report" where the page is.

    Raises
    ------
    ValueError
        As `summarise`.
    """
    out = Path(out)
    summary = summarise(
        tables,
        dev=dev,
        policies=policies,
        policy=policy,
        budget=budget,
        rng=np.random.default_rng(0),
        single_exit=single_exit,
        calibrated=calibrated,
        command=command,
    )
    out.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".report.", dir=out))
    try:
        pictures = draw_figures(summary, aside)
        text = report_text(summary, examples=_examples_section(ordered(tables)), pictures=pictures)
        (aside / "report.md").write_text(text, encoding="utf-8")
        (aside / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for path in sorted(aside.iterdir()):
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {**summary, "report": str(out / "report.md")}


def closing_lines(summary: Mapping[str, Any]) -> list[str]:
    """What to print when a run is done: where the report is and the lines that matter.

    Arguments
    ---------
    summary : mapping
        Of `write_report`.

    Returns
    -------
    list of str
    """
    name, one = next(iter(summary["sets"].items()))
    wers, layers = one["wer_per_exit"], one["exit_layers"]
    lines = [f"Report: {summary['report']}"] if "report" in summary else []
    lines += [
        f"{name}: WER {number(wers[0])} % at the first exit (layer {layers[0]}), "
        f"{number(wers[-1])} % at the last (layer {layers[-1]})",
        f"an inner exit beats the last on {percent(one['overthinking']['inner_better_share'], 1)} "
        f"of {one['n_utterances']} utterances",
    ]
    best = best_on_calibration(one["policies"])
    judge = summary["dev"]["set_name"] if summary["dev"] else "this set itself"
    titles = {"chosen policy": summary["chosen_policy"], f"best policy at the budget (by {judge})": best}
    for title, text in titles.items():
        if text is not None:
            lines.append(f"{title}: {_policy_words(text, one['policies'][text])}")
    lines.append(
        f"oracle (knows the reference): {number(one['oracle_a']['wer'])} % at {number(one['oracle_a']['depth'])} layers"
    )
    lines += [f"left out: {text}: {reason}" for text, reason in summary["left_out"].items()]
    return lines


def best_on_calibration(policies: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The policy with the lowest WER at the budget where thresholds were chosen, not where it is reported.

    Arguments
    ---------
    policies : mapping of str to mapping
        `sets.<name>.policies` of a summary.

    Returns
    -------
    str or None
        Its text; None where none was calibrated.
    """
    open_ones = {text: one for text, one in policies.items() if one["calibrated_on"] != AS_GIVEN}
    return min(
        open_ones,
        key=lambda text: (open_ones[text]["calibration_wer"], open_ones[text]["calibration_depth"]),
        default=None,
    )


def report_text(summary: Mapping[str, Any], *, examples: str, pictures: Sequence[str]) -> str:
    """The page in Markdown.

    Arguments
    ---------
    summary : mapping
        Of `summarise`.
    examples : str
        The section of examples.
    pictures : sequence of str
        File names, in order.

    Returns
    -------
    str
    """
    sections = [
        "# Early exit: what it is worth",
        _how_made(summary),
        "## All sets",
        "WER in percent, summed errors over summed reference words; `@` gives the mean depth in layers, "
        "weighted by duration. *Overthought*: utterances on which an inner exit has strictly fewer errors than "
        "the last. *Gap closed*: 0 % on the static line (mixing fixed exits at random), 100 % on oracle C.",
        sets_table(summary),
    ]
    sections += [text for name, one in summary["sets"].items() for text in _set_section(name, one, summary)]
    sections += ["## Read with care", _caveats(summary), "## Overthinking, by example", examples]
    sections += ["## Where the numbers come from", provenance_table(summary), "## Pictures"]
    sections += [f"![{_title(name)}]({name})" for name in pictures]
    return "\n\n".join(sections) + "\n"


def _how_made(summary: Mapping[str, Any]) -> str:
    dev = summary["dev"]
    lines = [f"Made on {summary['date']}" + (f" by `{summary['command']}`." if summary["command"] else ".")]
    if dev is not None:
        lines.append(
            f"Thresholds were chosen on {dev['set_name']} ({dev['n_utterances']} utterances, "
            f"{dev['n_speakers']} speakers), nothing on the sets below."
        )
    else:
        lines.append("No dev table was given; how thresholds were chosen stands with each set.")
    lines.append(
        f"The budget is {summary['budget']:g}, a mean depth of {summary['budget_layers']:.4g} layers: among "
        f"thresholds within it the one with the lowest WER, then the lowest depth."
    )
    if summary["chosen_policy"] is not None:
        lines.append(f"The chosen policy is `{summary['chosen_policy']}`.")
    lines += [f"Left out: `{text}` ({reason})." for text, reason in summary["left_out"].items()]
    return "\n".join(lines)


def _set_section(name: str, one: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    sections = [f"## {name}"]
    if one["policies"]:
        sections += [_how_calibrated(one), policies_table(one)]
        if (best := best_on_calibration(one["policies"])) is not None and summary["dev"] is not None:
            sections.append(f"Best on {summary['dev']['set_name']} at the budget: `{best}`.")
    single = one["single_exit"]
    if single is not None:
        sections.append(
            f"The same encoder trained with its exit at layer {single['exit_layer']} only: WER "
            f"{number(single['wer'])} {interval(single['interval'])}. Exit tax: {single['exit_tax']:+.2f} "
            f"{interval(single['exit_tax_interval'])} points at the last exit."
        )
    shares = one["overthinking"]
    sections += [
        depths_table(one),
        f"Oracle A (fewest errors, earliest of equals): {number(one['oracle_a']['wer'])} at "
        f"{number(one['oracle_a']['depth'])} layers. Oracle B (cheapest exit no worse than the last): "
        f"{number(one['oracle_b']['wer'])} at {number(one['oracle_b']['depth'])} layers. Of all utterances "
        f"{percent(shares['destructive_share'], 1)} were right at an inner exit and are wrong at the last "
        f"(destructive), {percent(shares['wasteful_share'], 1)} were right earlier and still are (wasteful).",
    ]
    return sections


def _how_calibrated(one: Mapping[str, Any]) -> str:
    kinds = {policy["calibrated_on"] for policy in one["policies"].values()}
    resampled = one["intervals"]
    lines = []
    if None in kinds:
        lines.append(
            "**Thresholds were set on this very set, which flatters the policies**: there is no dev table and "
            "there are too few speakers for a cross-fit."
        )
    if CROSS_FIT in kinds:
        lines.append(
            "Thresholds were cross-fitted: speakers in two halves, each judged by what was chosen on the other. "
            "The two texts are those of the halves."
        )
    lines.append(
        f"Intervals: 95 %, {resampled['n_draws']} draws of {resampled['n_blocks']} {resampled['resampled']}; "
        f"differences are paired."
    )
    return "\n".join(lines)


def _caveats(summary: Mapping[str, Any]) -> str:
    sets = summary["sets"]
    few = [name for name, one in sets.items() if one["intervals"]["resampled"] == "utterances"]
    approximate = [name for name, one in sets.items() if one["duration_is_approximate"]]
    lines = [
        "The oracles know the reference and are optimistic by selection: each takes the minimum of several "
        "noisy counts. No policy can be expected to reach them.",
        "Depth is not time. Front end and heads cost as well, and batches shrink as utterances leave; MACs, where "
        "the tables know them, count the front end and every head that the policy reads.",
        "A budget is met where thresholds are chosen. On other data, above all shifted, the depth moves.",
    ]
    if few:
        lines.append(
            f"Too few or unknown speakers in {', '.join(few)}: utterances were resampled in place of speakers, and "
            f"these intervals are too narrow for new speakers."
        )
    if approximate:
        lines.append(f"Durations are approximate in {', '.join(approximate)}, so depths are too.")
    if summary["dev"] is None:
        lines.append("No set can tell which policy to choose without one more that is kept for judging it.")
    return "\n".join(f"- {line}" for line in lines)


def _examples_section(tables: Sequence[ExitTable]) -> str:
    examples = overthinking_examples(tables, n=N_EXAMPLES)
    if not examples:
        return "No inner exit is strictly better than the last on any utterance."
    kept = "Wrong words are **bold**, missing ones ~~struck out~~."
    if any(example.reference is None for example in examples):
        kept += " Where the table keeps no reference, the marks show what the last exit changed."
    return f"The clearest cases, most errors saved first; not typical ones. {kept}\n\n{examples_text(examples)}"


def _policy_words(text: str, policy: Mapping[str, Any]) -> str:
    point = policy["at_budget"]
    return (
        f"{text}: WER {number(point['wer'])} % at {number(point['depth'])} layers "
        f"({percent(point['depth_share'])} of full depth, {percent(point['gap_closed'])} of the gap closed)"
    )


def _title(name: str) -> str:
    return Path(name).stem.replace("_", " ")
