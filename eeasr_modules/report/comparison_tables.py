"""Markdown tables that set budgets, signals, words and policies side by side, from a report's summary."""

from typing import Any

from eeasr_modules.report.costs import COSTS
from eeasr_modules.report.tables import difference_text, markdown_table, number, percent, plain_name


def budgets_table(one: dict[str, Any], summary: dict[str, Any]) -> str:
    """One row for each policy, one column for each budget, with the two lines that bound them.

    Arguments
    ---------
    one : dict
        `sets.<name>` of a summary.
    summary : dict
        Of `summarise`.

    Returns
    -------
    str
    """
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


def signals_table(one: dict[str, Any]) -> str:
    """One row for each signal: its AUROC at each inner exit, and over all of them.

    Arguments
    ---------
    one : dict
        `sets.<name>` of a summary.

    Returns
    -------
    str
    """
    header = ["signal", *[f"layer {layer}" for layer in one["exit_layers"][:-1]], "all inner exits"]
    rows = [
        [name, *[number(value) for value in worth["per_exit"]], number(worth["pooled"])]
        for name, worth in one["signals"].items()
    ]
    return markdown_table(header, rows)


def words_table(one: dict[str, Any]) -> str:
    """Words lost and won between each inner exit and the last.

    Arguments
    ---------
    one : dict
        `sets.<name>` of a summary.

    Returns
    -------
    str
    """
    words = one["words"]
    rows = [
        [title, *[percent(share, 2) for share in words[key]]]
        for key, title in (
            ("regressive", "regressive: right there, wrong at the last"),
            ("progressive", "progressive: wrong there, right at the last"),
        )
    ]
    return markdown_table(["words", *[f"layer {layer}" for layer in words["exit_layers"]]], rows)


def comparisons_table(summary: dict[str, Any]) -> str:
    """One row for each pair of policies, set and budget.

    Arguments
    ---------
    summary : dict
        Of `summarise`.

    Returns
    -------
    str
    """
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
    """One row for each policy: what could be promised, and what became of it.

    Arguments
    ---------
    one : dict
        `sets.<name>` of a summary.

    Returns
    -------
    str
    """
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
