"""Markdown tables of a report, from the numbers of its summary."""

import re
from collections.abc import Sequence
from typing import Any

from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS
from eeasr_modules.report.numbers.evaluation import COSTS

LABELS = {
    "in_domain": "in domain",
    "shifted": "shifted",
    "ood": "out of domain",
    "unknown": "not known",
}


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


def risk_table(one: dict[str, Any]) -> str:
    """One row for each policy: what could be promised, and what became of it."""
    header = ["policy", "certified", "what is promised, or why not", "smallest eps", "excess here", "layers saved"]
    rows = []
    for row in one["risk"]:
        name, outcome = row.get("calibrated", row["policy"]), row.get("outcome")
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
