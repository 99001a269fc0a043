"""What benchmarks/risk_simulation.py found, as risk.md and risk.json."""

import json
from collections.abc import Sequence
from typing import Any

from scipy.stats import binom

KEPT = ("population", "n_blocks", "source", "target", "set", "new", "policy", "eps", "source_excess", "source_saved")


def markdown(title: str, rows: Sequence[dict[str, Any]], *, across: str) -> str:
    """A table; what differs in the value of `across` only stands side by side."""
    if not rows:
        return ""
    rows = side_by_side(rows, across)
    head = "| " + " | ".join(key.replace("_", " ") for key in rows[0]) + " |"
    lines = [f"## {title}", "", head, "|---" * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(_shown(key, value) for key, value in row.items()) + " |" for row in rows]
    return "\n".join([*lines, ""])


def page(content: dict[str, Any], *, n_labelled: int) -> str:
    """All tables, in Markdown; `n_labelled` utterances were there for certificates under shift."""
    delta = content["delta"]
    limit = binom.ppf(0.99, content["draws"], delta) / content["draws"]
    titles = {
        "known_truth": "Known truth, mean excess exactly eps: share of certificates, all false",
        "splits": "Random halves of the speakers: layers saved (violated on the other half / on the whole set)",
        "shift": "Calibrated on one set, used on another: layers saved (excess in WER points)",
        "certificate": f"Certificate under shift, {n_labelled} labelled utterances: layers saved (violated)",
    }
    text = (
        f"# Risk control, simulated\n\n{content['draws']} draws each, delta {delta}. Of a method that fails with "
        f"probability {delta:g} exactly, 99 % of such simulations stay at or below {100 * limit:.1f} %.\n\n"
    )
    across = {"known_truth": "p_value", "splits": "p_value", "shift": "recalibration", "certificate": "method"}
    text += "\n".join(markdown(titles[key], content[key], across=across[key]) for key in titles)
    return text


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
        elif "excess" in row:
            cell[row[across]] = f"{_share(row['saved'])} ({row['excess']:.2f})"
        else:
            violated = " / ".join(_share(value) for key, value in row.items() if key.startswith("violated"))
            cell[row[across]] = f"{_share(row['saved'])} ({violated})"
    return list(joined.values())


def _shown(key: str, value: Any) -> str:
    if key.endswith("saved"):
        return _share(value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
