"""The page of a report, in Markdown and as one interactive HTML file that opens offline.

The HTML's looks and behaviour are in `web/`; here the numbers and transcripts are put into it. Nothing of the data is
ever read as HTML: it lies in a JSON block, with `<` escaped, and is shown as text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.exits import ExitTable
from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS
from eeasr_modules.exits.tuning.risk_terms import needed_lines
from eeasr_modules.report.numbers.evaluation import AS_GIVEN, COSTS, CROSS_FIT, Outcome
from eeasr_modules.report.numbers.summary import Evaluated, short_number
from eeasr_modules.report.render.figures import POLICY_COLOURS
from eeasr_modules.report.render.tables import (
    LABELS,
    budgets_table,
    comparisons_table,
    emits_earlier,
    interval,
    number,
    percent,
    plain_name,
    policies_table,
    provenance_table,
    risk_table,
    sets_table,
    too_few_speakers,
)

EMITTED_NOTE = (
    "*Depth* is that of the exit decided, which had to be computed and is charged in every table, curve and "
    "budget; *depth emitted* is that of the exit whose transcript came out: counting it would claim that so "
    "few layers were enough."
)


def best_on_calibration(policies: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The policy with the lowest WER at the budget where thresholds were chosen, not where it is reported."""
    open_ones = {text: one for text, one in policies.items() if one["calibrated_on"] != AS_GIVEN}
    return min(
        open_ones,
        key=lambda text: (open_ones[text]["calibration_wer"], open_ones[text]["calibration_cost"]),
        default=None,
    )


def report_text(summary: Mapping[str, Any], *, pictures: Sequence[str]) -> str:
    """The page in Markdown: what decides, and what to beware of; the rest is in the HTML."""
    sections = [
        "# Early exit: what it is worth",
        _how_made(summary),
        "## All sets",
        "WER in percent, summed errors over summed reference words; `@` gives the mean depth in layers, "
        "weighted by duration. *Overthought*: utterances on which an inner exit has strictly fewer errors than "
        "the last. *Gap closed*: 0 % on the static line (mixing fixed exits at random), 100 % on oracle C. "
        "*Single exit*: the same encoder trained with one exit only, in brackets the exit tax. The oracles know the "
        "reference and are optimistic by selection.",
        sets_table(summary),
        "`report.html` shows all of this interactively, offline, and what every exit wrote, what became of each word "
        "and what each signal tells; the CSV files hold it for other programs.",
    ]
    sections += [text for name, one in summary["sets"].items() for text in _set_section(name, one, summary)]
    if summary["comparisons"]:
        sections += ["## Policies against each other", _how_compared(summary), comparisons_table(summary)]
    sections += [
        "## Read with care",
        "\n".join(f"- {line}" for line in caveats(summary)),
    ]
    sections += ["## Where the numbers come from", provenance_table(summary), "## Pictures"]
    sections += [f"![{_title(name)}]({name})" for name in pictures]
    return "\n\n".join(sections) + "\n"


def _how_made(summary: Mapping[str, Any]) -> str:
    dev = summary["dev"]
    lines = [f"Made on {summary['date']}" + (f" by {_code(summary['command'])}." if summary["command"] else ".")]
    if dev is not None:
        lines.append(
            f"Thresholds were chosen on {plain_name(dev['set_name'])} ({dev['n_utterances']} utterances, "
            f"{dev['n_speakers']} speakers), nothing on the sets below."
        )
    else:
        lines.append("No dev table was given; how thresholds were chosen stands with each set.")
    what = "a mean depth of" if summary["cost"] == "depth" else "a mean cost of"
    lines.append(
        f"The budget is {summary['budget']:g}, {what} {summary['budget_cost']:.4g} {summary['cost_unit']}: among "
        f"thresholds within it the one with the lowest WER, then the lowest cost."
    )
    if summary["chosen_policy"] is not None:
        lines.append(f"The chosen policy is `{summary['chosen_policy']}`.")
    best = best_on_calibration(next(iter(summary["sets"].values()))["policies"])
    if dev is not None and best is not None:
        lines.append(f"The best at the budget on {plain_name(dev['set_name'])} is `{best}`.")
    lines += [f"Left out: `{text}` ({plain_name(reason)})." for text, reason in summary["left_out"].items()]
    return "\n".join(lines)


def _set_section(name: str, one: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    sections = [f"## {plain_name(name)}"]
    if one["policies"]:
        sections += [_how_calibrated(one), policies_table(one)]
        sections += [EMITTED_NOTE] if emits_earlier(one) else []
    if one["policies"] and len(summary["budgets"]) > 1:
        sections += [
            f"WER @ mean cost in {summary['cost_unit']} (gap closed) at each budget:",
            budgets_table(one, summary),
        ]
    single = one["single_exit"]
    if single is not None:
        sections.append(
            f"The same encoder trained with its exit at layer {single['exit_layer']} only: WER "
            f"{number(single['wer'])} {interval(single['interval'])}. Exit tax: {single['exit_tax']:+.2f} "
            f"{interval(single['exit_tax_interval'])} points at the last exit."
        )
    shares = one["overthinking"]
    sections += [
        f"Oracle A (fewest errors, earliest of equals): {number(one['oracle_a']['wer'])} "
        f"{interval(one['oracle_a']['interval'])} at {number(one['oracle_a']['depth'])} layers. Oracle B (cheapest "
        f"exit no worse than the last): {number(one['oracle_b']['wer'])} {interval(one['oracle_b']['interval'])} at "
        f"{number(one['oracle_b']['depth'])} layers. Of all utterances "
        f"{percent(shares['destructive_share'], 1)} were right at an inner exit and are wrong at the last "
        f"(destructive), {percent(shares['wasteful_share'], 1)} were right earlier and still are (wasteful).",
    ]
    if one["risk"]:
        sections += [_how_certified(summary), risk_table(one), *_assumed(summary, one)]
    return sections


def _how_certified(summary: Mapping[str, Any]) -> str:
    promise, who = summary["risk"], "one half of the speakers, judged on the other"
    what = "% of the last exit's words changed" if promise["loss"] == "changed" else "WER points above the last exit"
    return (
        f"Risk control (Learn Then Test, Angelopoulos et al. 2021): asked for at most {promise['eps']:g} "
        f"{what} with probability {1 - promise['delta']:g}, certified on "
        f"{who if summary['dev'] is None else summary['dev']['set_name'] + ', judged here'}. What is promised, over "
        f"which speakers, stands in each row; it holds for speakers like those of calibration, not under shift."
    )


def _assumed(summary: Mapping[str, Any], one: Mapping[str, Any]) -> list[str]:
    """What the certificates rest on; where there is none, the speakers that one takes."""
    issued = [row for row in one["risk"] if row["certified"]]
    if issued:
        return ["Assumed: " + "; ".join(issued[0]["assumptions"]) + "."]
    head, *table = needed_lines(summary["risk"]["speakers_needed"], delta=summary["risk"]["delta"])
    return [f"Speakers {head}", "\n".join(table)]


def _how_compared(summary: Mapping[str, Any]) -> str:
    return (
        f"`{summary['chosen_policy']}` minus each other policy on the same utterances at the same budget; below 0 it "
        f"is better. Costs can differ, since budgets are met where thresholds are chosen. p: two-sided, by bootstrap "
        f"over blocks and by matched pairs (Gillick and Cox 1989), none below {MIN_SPEAKERS} speakers; Holm's "
        f"adjustment is over all rows with one."
    )


def _how_calibrated(one: Mapping[str, Any]) -> str:
    kinds = {policy["calibrated_on"] for policy in one["policies"].values()}
    resampled = one["intervals"]
    lines = []
    if None in kinds:
        lines.append(
            "**Thresholds were set on this very set, which flatters the policies**: there is no dev table and "
            "there are too few speakers for a cross-fit."
        )
    crossed = [kind for kind in kinds if kind is not None and kind.startswith(CROSS_FIT)]
    if crossed:
        lines.append(
            f"Thresholds were cross-fitted ({crossed[0].removeprefix(CROSS_FIT).strip(' ()')}): speakers are dealt "
            f"into folds, each judged by what was chosen on the others. The texts are those of the folds."
        )
    lines.append(
        f"Intervals: 95 %, {resampled['n_draws']} draws of {resampled['n_blocks']} {resampled['resampled']}; "
        f"differences are paired." + (" **Nothing is to be concluded from so few.**" if too_few_speakers(one) else "")
    )
    return "\n".join(lines)


def caveats(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers."""
    sets = summary["sets"]
    few = [plain_name(name) for name, one in sets.items() if too_few_speakers(one)]
    unknown = [plain_name(name) for name, one in sets.items() if one["intervals"]["resampled"] == "utterances"]
    approximate = [plain_name(name) for name, one in sets.items() if one["duration_is_approximate"]]
    lines = [
        "The oracles know the reference and are optimistic by selection: each takes the minimum of several "
        "noisy counts. No policy can be expected to reach them.",
        "Depth is not time. Front end and heads cost as well, and batches shrink as utterances leave; MACs, where "
        "the tables know them, count the front end and every head that the policy reads, but not what a policy "
        "itself computes from transcripts.",
        "A budget is met where thresholds are chosen. On other data, above all shifted, the depth moves.",
    ]
    if any(one["single_exit"] is not None for one in sets.values()):
        lines.append(
            "The exit tax is the last exit's WER minus that of the same encoder trained with one exit only: what it "
            "costs to have exits at all. A policy starts from behind by that much."
        )
    if few:
        lines.append(
            f"Fewer than {MIN_SPEAKERS} speakers in {', '.join(few)}: intervals say how much these few differ, and "
            f"nothing is to be concluded from them about others."
        )
    if unknown:
        lines.append(
            f"Unknown speakers, or a single one, in {', '.join(unknown)}: utterances were resampled in place of "
            f"speakers, and these intervals are too narrow for new speakers."
        )
    if approximate:
        lines.append(f"Durations are approximate in {', '.join(approximate)}, so depths are too.")
    if summary["dev"] is None:
        lines.append("No set can tell which policy to choose without one more that is kept for judging it.")
    return lines


def _code(text: str) -> str:
    """Code for Markdown, whatever quotes it holds."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def _title(name: str) -> str:
    return Path(name).stem.replace("_", " ")


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
