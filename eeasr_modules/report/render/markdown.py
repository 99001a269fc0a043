"""Markdown of a report, from the numbers of its summary: tables, and the page that they stand in."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS
from eeasr_modules.exits.tuning.risk_terms import needed_lines
from eeasr_modules.report.numbers.evaluation import AS_GIVEN, COSTS, CROSS_FIT

LABELS = {"in_domain": "in domain", "shifted": "shifted", "ood": "out of domain", "unknown": "not known"}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, n_left: int = 1) -> str:
    """A table; its first `n_left` columns to the left, all others to the right; bars in cells are escaped.

    Example
    -------
    >>> print(markdown_table(["set", "WER"], [["test", "4.35"]]))
    | set | WER |
    |---|---:|
    | test | 4.35 |
    """
    rule = "|".join(["", *["---"] * n_left, *["---:"] * (len(header) - n_left), ""])
    lines = [[re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row] for row in rows]
    return "\n".join([_row(header), rule, *map(_row, lines)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def plain_name(text: str) -> str:
    """A name from elsewhere, such as a set's, as text that means nothing to Markdown or HTML.

    Example
    -------
    >>> print(plain_name("an4_test"), plain_name("<b>*a*"))
    an4_test &lt;b&gt;\\*a\\*
    """
    text = re.sub(r"([\\`*\[\]~#!|]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))
    return re.sub("&(?=#?\\w+;)", "&amp;", text).replace("<", "&lt;").replace(">", "&gt;")


def number(value: float | None, digits: int = 2) -> str:
    """A number for people; a dash where there is none.

    Example
    -------
    >>> number(4.349), number(None)
    ('4.35', '-')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share as per cent.

    Example
    -------
    >>> percent(0.114, 1), percent(None)
    ('11.4 %', '-')
    """
    return "-" if share is None else f"{round(100 * share, digits) + 0.0:.{digits}f} %"


def interval(ends: Sequence[float | None]) -> str:
    """Ends of an interval.

    Example
    -------
    >>> interval([3.9, 4.8])
    '[3.90, 4.80]'
    """
    return f"[{number(ends[0])}, {number(ends[1])}]"


def set_interval(ends: Sequence[float | None], one: dict[str, Any]) -> str:
    """Ends of an interval of a set; none where its speakers are too few for one that says anything about others.

    Example
    -------
    >>> set_interval([3.9, 4.8], {"n_speakers": 40}), set_interval([3.9, 4.8], {"n_speakers": 6})
    ('[3.90, 4.80]', 'none (6 speakers)')
    """
    return f"none ({one['n_speakers']} speakers)" if too_few_speakers(one) else interval(ends)


def too_few_speakers(one: dict[str, Any]) -> bool:
    """Whether a set has speakers, but too few for a conclusion from its intervals."""
    return 0 < one["n_speakers"] < MIN_SPEAKERS


def sets_table(summary: dict[str, Any]) -> str:
    """One row for each set: its exits, its oracles, overthinking, and the chosen policy."""
    chosen = summary["chosen_policy"]
    header = ["set", "kind", "utterances (speakers)", "first exit", "best inner exit", "last exit"]
    header += ["oracle A", "oracle B", "overthought"]
    if chosen is not None:
        header += ["chosen policy", "gap closed"]
    has_single = any(one["single_exit"] is not None for one in summary["sets"].values())
    header += ["single exit (exit tax)"] if has_single else []
    rows = []
    for name, one in summary["sets"].items():
        wers, layers = one["wer_per_exit"], one["exit_layers"]
        row = [plain_name(name), LABELS[one["label"]], f"{one['n_utterances']} ({one['n_speakers'] or 'not known'})"]
        best = min(range(max(1, len(wers) - 1)), key=wers.__getitem__)
        row += [number(wers[0]), f"{number(wers[best])} at {layers[best]}", number(wers[-1])]
        row += [f"{number(one[o]['wer'])} @ {number(one[o]['depth'])}" for o in ("oracle_a", "oracle_b")]
        row += [percent(one["overthinking"]["inner_better_share"], 1)]
        if chosen is not None:
            point = one["policies"][chosen]["at_budget"]
            row += [f"{number(point['wer'])} @ {number(point['depth'])}", percent(point["gap_closed"])]
        if has_single:
            single = one["single_exit"]
            row.append(f"{number(single['wer'])} ({single['exit_tax']:+.2f})" if single else "-")
        rows.append(row)
    return markdown_table(header, rows, n_left=2)


def policies_table(one: dict[str, Any]) -> str:
    """One row for each policy at the budget, on one set."""
    header = ["policy", "as calibrated", "WER [95 %]", "depth", "of full depth", "of full MACs"]
    shows_emitted = emits_earlier(one)
    header += ["depth emitted"] if shows_emitted else []
    header += ["minus static line [95 %]", "minus last exit [95 %]", "gap closed"]
    rows, fused = [], one.get("fused")
    for text, policy in one["policies"].items():
        calibrated = f"`{policy['calibrated']}`" if policy["calibrated"] != text else "as given"
        shown = [(f"`{text}`", calibrated, policy["at_budget"])]
        if fused is not None and text == fused["policy"]:
            how = f"its words fused: {difference_text(fused['minus_exit'])}"
            shown.append((f"`{text}` + fusion", how, fused["at_budget"]))
        rows += [_policy_row(*each, shows_emitted=shows_emitted) for each in shown]
    return markdown_table(header, rows, n_left=2)


def _policy_row(name: str, calibrated: str, point: dict[str, Any], *, shows_emitted: bool) -> list[str]:
    return [
        name,
        calibrated,
        f"{number(point['wer'])} {interval(point['interval'])}",
        number(point["depth"]),
        percent(point["depth_share"]),
        percent(point["macs_share"]),
        *([number(point["emitted_depth"])] if shows_emitted else []),
        difference_text(point["minus_static"]),
        difference_text(point["minus_last"]),
        percent(point["gap_closed"]),
    ]


def emits_earlier(one: dict[str, Any]) -> bool:
    """Whether a policy's transcripts come from exits before the one at which it decides."""
    points = [policy["at_budget"] for policy in one["policies"].values()]
    return any(point.get("emitted_depth", point["depth"]) != point["depth"] for point in points)


def provenance_table(summary: dict[str, Any]) -> str:
    """Where each set came from."""
    keys = ("corpus", "shift", "normaliser", "model_digest", "manifest_digest", "commit", "seed")
    header = ["set", *(key.replace("_digest", "") for key in keys), "hours", "reference words"]
    rows = [
        [
            plain_name(name),
            *(_short(one[key]) for key in keys),
            number(one["duration_s"] / 3600),
            str(one["n_ref_words"]),
        ]
        for name, one in summary["sets"].items()
    ]
    return markdown_table(header, rows, n_left=len(keys))


def difference_text(value: dict[str, Any]) -> str:
    """A difference with its interval.

    Example
    -------
    >>> difference_text({"difference": -0.001, "low": -0.5, "high": 0.25})
    '+0.00 [-0.50, +0.25]'
    """
    estimate, low, high = (round(value[name], 2) + 0.0 for name in ("difference", "low", "high"))  # no "-0.00"
    return f"{estimate:+.2f} [{low:+.2f}, {high:+.2f}]"


def _short(value: Any) -> str:
    return "-" if value is None else plain_name(str(value)[:12])


def budgets_table(one: dict[str, Any], summary: dict[str, Any]) -> str:
    """One row for each policy, one column for each budget, with the two lines that bound them."""
    budgets, digits = sorted(summary["budgets"]), COSTS[summary["cost"]].digits
    rows = []
    for text, policy in one["policies"].items():
        found = {at["budget"]: at for at in policy["at_budgets"]}
        given = found.get(None)
        cells = [found.get(budget, given) for budget in budgets]
        shown = [
            f"{number(at['wer'])} @ {number(at['cost'], digits)} ({percent(at['gap_closed'])})" if at else "-"
            for at in cells
        ]
        rows.append([f"`{text}`", *shown])
    return markdown_table(["policy", *[f"{budget:g}" for budget in budgets]], rows)


def comparisons_table(summary: dict[str, Any]) -> str:
    """One row for each pair of policies, set and budget."""
    header = ["set", "against", "budget", "WER difference [95 %]", f"cost difference ({summary['cost_unit']})"]
    rows = [
        [
            plain_name(row["set"]),
            f"`{row['other']}`",
            "-" if row["budget"] is None else f"{row['budget']:g}",
            difference_text(row),
        ]
        + [f"{row['cost_difference']:+.{COSTS[summary['cost']].digits}f}"]
        + [_p(row[key]) for key in ("bootstrap_p", "matched_pairs_p", "holm_p")]
        for row in summary["comparisons"]
    ]
    return markdown_table([*header, "p, bootstrap", "p, matched pairs", "p, Holm"], rows, n_left=2)


def certified_name(row: dict[str, Any]) -> str:
    """The policy with its threshold where that is certified; as it was asked for where everybody goes to the end."""
    return row.get("calibrated", row["policy"]) if row["certified"] else row["policy"]


def risk_table(one: dict[str, Any]) -> str:
    """One row for each policy: what could be promised, and what became of it."""
    header = ["policy", "certified", "what is promised, or why not", "smallest eps", "excess here", "layers saved"]
    rows = []
    for row in one["risk"]:
        name, outcome = certified_name(row), row.get("outcome")
        numbers = ["-", "-", "-"]
        if outcome is not None:
            kept = f"{outcome['excess']:+.2f} ({_kept(row)})"
            numbers = [number(row["smallest_eps"]), kept, percent(outcome["saved"], 1)]
        rows.append([f"`{name}`", "yes" if row["certified"] else "no", row["reason"], *numbers])
    return markdown_table(header, rows, n_left=3)


def _kept(row: dict[str, Any]) -> str:
    """What became of a promise on the judged speakers; nothing was promised, nothing was kept."""
    if not row["certified"]:
        return "nothing promised"
    return "violated" if row["outcome"]["violated"] else "kept"


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


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
    sections += ["## Read with care", "\n".join(f"- {line}" for line in caveats(summary))]
    sections += ["## Where the numbers come from", provenance_table(summary), "## Pictures"]
    sections += [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in pictures]
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
        f"(destructive), {percent(shares['wasteful_share'], 1)} were right earlier and still are (wasteful)."
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
