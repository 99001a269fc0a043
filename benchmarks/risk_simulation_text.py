"""What benchmarks/risk_simulation.py found, as risk.md and risk.json."""

import json
from collections.abc import Sequence
from typing import Any

from scipy.stats import binom

KEPT = ("population", "n_blocks", "n_speakers")
EXIT_NUMBERS = ("saved", "bad_exit", "saved_over_all", "bad_exit_over_all")
ALIKE = ("6 % lose 3, all others gain 0.5", "lognormal (2), up to 100", "normal, 0.55 on average", "27 % lose 2 points")
# Rows that the page shows; all are in risk.json, and the largest violations are those of all.
SHOWN = {
    "known_truth": lambda row: row["n_blocks"] == 20,
    "heavy_tails": lambda row: row["n_speakers"] == 100 and row["population"] not in ALIKE,
}


def markdown(title: str, rows: Sequence[dict[str, Any]], *, across: str) -> str:
    """A table; what differs in the value of `across` only stands side by side."""
    if not rows:
        return ""
    rows = side_by_side(rows, across)
    head = "| " + " | ".join(key.replace("_", " ") for key in rows[0]) + " |"
    lines = [f"## {title}", "", head, "|---" * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(_shown(value) for value in row.values()) + " |" for row in rows]
    return "\n".join([*lines, ""])


def page(content: dict[str, Any]) -> str:
    """All tables, in Markdown."""
    delta = content["delta"]
    limit = binom.ppf(0.99, content["draws"], delta) / content["draws"]
    titles = {
        "known_truth": "Known truth, mean loss exactly at the limit: share of p-values at most delta",
        "heavy_tails": "Few speakers lose much, eps 0.5: certificates issued (violated)",
    }
    across = {"known_truth": "p_value", "heavy_tails": "clip"}
    shown = content | {part: [row for row in content.get(part, ()) if one(row)] for part, one in SHOWN.items()}
    parts = [
        f"# Risk control, simulated\n\nDo certificates ([what they say](../../docs/risk.md)) keep their promise? "
        f"{content['draws']} draws each, delta {delta}. Of a method that fails with probability {delta:g} exactly, "
        f"99 % of such simulations stay at or below {100 * limit:.1f} %. {_worst(content)} Violated is a certificate "
        f"of which any part is not so. At a clip of 100, eps is said of all speakers, and takes hundreds of them. All "
        f"rows, other p-values, certificates under shift: `risk.json`. Written by benchmarks/risk_simulation.py.\n"
    ]
    for key, title in titles.items():
        parts.append(markdown(title, shown[key], across=across[key]))
    return "\n".join([*parts, *([_exits(content)] if content.get("exit_splits") else [])])


def _worst(content: dict[str, Any]) -> str:
    """The largest share of violations in each table that has promises."""
    names = {
        "known_truth": "p-values",
        "heavy_tails": "heavy tails",
        "splits": "speaker splits",
        "exits_known": "known truth, exit by exit",
        "exit_splits": "speaker splits, exit by exit",
        "certificate": "shift",
    }
    shares = {
        name: max(
            (value for row in content[key] for k, value in row.items() if k.startswith(("violated", "false_"))),
            default=0,
        )
        for key, name in names.items()
        if key in content
    }
    return "Largest here: " + ", ".join(f"{_share(value)} ({name})" for name, value in shares.items()) + "."


def _exits(content: dict[str, Any]) -> str:
    """Certificates exit by exit over random halves of the speakers, beside those about all utterances."""
    rows = [row for row in content["exit_splits"] if row["eps"] == 0.5 and row["set"] in ("test-clean", "test-other")]
    worst = max(max(row[key] for row in content["exit_splits"]) for key in ("violated_held_out", "violated_whole_set"))
    lines = [
        "## Every exit by itself, random halves of the speakers, eps 0.5",
        "",
        "*Above eps*: draws in which an exit, where at least a fifth of the words leave, is worse than eps on the "
        "whole set:",
        "",
        "| set | policy | layers saved, exit by exit | above eps | saved, over all | above eps | leave after layer |",
        "|---|---|---:|---:|---:|---:|---|",
        *(
            f"| {row['set']} | `{row['policy']}` | {' | '.join(_share(row[k]) for k in EXIT_NUMBERS)} | "
            f"{row['exit_layers']} |"
            for row in rows
        ),
        "",
        f"The promise was broken in at most {_share(worst)} of the draws of any case, the other half's own noise "
        "included. Known truth, with exits that others make good: `exits_known` in `risk.json`.",
        "",
    ]
    return "\n".join(lines)


def json_lines(content: dict[str, Any]) -> str:
    """JSON with a line for each row."""
    parts = []
    for key, value in content.items():
        rows = [json.dumps(row, default=float) for row in value] if isinstance(value, list) else None
        shown = json.dumps(value) if rows is None else "[\n  " + ",\n  ".join(rows) + "\n ]"
        parts.append(f" {json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def side_by_side(rows: Sequence[dict[str, Any]], across: str) -> list[dict[str, Any]]:
    """Rows that differ in the value of `across` only, joined: a column for each."""
    joined: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        kept = {k: row[k] for k in KEPT if k in row}
        cell = joined.setdefault(tuple(kept.values()), kept)
        if "false_certificates" in row:
            cell[row[across]] = _share(row["false_certificates"])
        else:
            cell[f"clip {row[across]:g}"] = f"{_share(row['issued'])} ({_share(row['violated'])})"
    return list(joined.values())


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
