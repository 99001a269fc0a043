"""What benchmarks/risk_simulation.py found, as risk.md and risk.json."""

import json
from collections.abc import Sequence
from typing import Any

from scipy.stats import binom

KEPT = (
    "population",
    "n_blocks",
    "n_speakers",
    "source",
    "target",
    "set",
    "new",
    "policy",
    "eps",
    "source_excess",
    "source_saved",
)
EXIT_NUMBERS = ("saved", "bad_exit", "saved_over_all", "bad_exit_over_all")
# Rows that the page shows; all are in risk.json, and the largest violations are those of all.
SHOWN = {
    "known_truth": lambda row: row["n_blocks"] == 20,
    "heavy_tails": lambda row: row["n_speakers"] == 100,
    "splits": lambda row: row["eps"] == 0.5 and row["set"] in ("test-clean", "test-other"),
    "exits_known": lambda row: row["n_speakers"] == 100,
    "certificate": lambda row: row["eps"] == 1 and row["new"] in ("test-clean", "test-other"),
    "shift": lambda row: (
        row["recalibration"] == "as it is" and row["eps"] == 0.5 and row["source"] in ("test-clean", "test-other")
    ),
}


def markdown(title: str, rows: Sequence[dict[str, Any]], *, across: str) -> str:
    """A table; what differs in the value of `across` only stands side by side."""
    if not rows:
        return ""
    rows = side_by_side(rows, across)
    head = "| " + " | ".join(key.replace("_", " ") for key in rows[0]) + " |"
    lines = [f"## {title}", "", head, "|---" * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(_shown(key, value) for key, value in row.items()) + " |" for row in rows]
    return "\n".join([*lines, ""])


def page(content: dict[str, Any], *, n_labelled: int, needed: str) -> str:
    """All tables, in Markdown; `n_labelled` utterances were there for certificates under shift."""
    delta = content["delta"]
    limit = binom.ppf(0.99, content["draws"], delta) / content["draws"]
    titles = {
        "known_truth": "Known truth, mean loss exactly at the limit: share of p-values at most delta",
        "heavy_tails": "Few speakers lose much, eps 0.5: certificates issued (violated)",
        "splits": "Random halves of the speakers: layers saved (violated on the other half / on the whole set)",
        "certificate": f"Certificate under shift, {n_labelled} labelled utterances: layers saved (violated)",
        "shift": "Calibrated on one set, used on another, no promise: layers saved (excess in WER points)",
    }
    largest = _worst(content)
    text = (
        f"# Risk control, simulated\n\n{content['draws']} draws each, delta {delta}. Of a method that fails with "
        f"probability {delta:g} exactly, 99 % of such simulations stay at or below {100 * limit:.1f} %. "
        f"{largest}\n\nA certificate says, of speakers exchangeable with those of calibration: "
        f"at most eps WER points above the "
        f"last exit over the speakers that lose at most the clip B; at most a share of them lose more; over all "
        f"at most eps + share x (100 - B) points, if none loses more than 100. Violated is one of which any part is "
        f"not so.\n\n"
    )
    across = {"known_truth": "p_value", "heavy_tails": "clip", "splits": "p_value", "certificate": "method"}
    across["shift"] = "recalibration"
    before, means = _before(content["heavy_tails"]), _mean_costs(content)
    content = content | {part: [row for row in content.get(part, ()) if one(row)] for part, one in SHOWN.items()}
    parts = {key: markdown(titles[key], content[key], across=across[key]) for key in titles}
    if content.get("exits_known") and content.get("exit_splits"):
        parts["splits"] += "\n" + _exits(content)
    parts["heavy_tails"] += f"\n{before}\n"
    shift = parts.pop("shift")
    text += "\n".join([*parts.values(), _costs(content), means, shift])
    return f"{text}\n## Speakers needed, even without any excess error, delta {delta:g}\n\n{needed}\n"


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


def _before(rows: Sequence[dict[str, Any]]) -> str:
    """What the certificates of before said of such populations."""
    small = [row for row in rows if row["clip"] < 100]
    worst = max(small, key=lambda row: row["said_of_all_before"])
    return (
        f"Certificates of before tested the mean clipped at {worst['clip']:g} points alone and said eps of all: "
        f"false in up to {_share(worst['said_of_all_before'])} of these draws ({worst['population']}, "
        f"{worst['n_speakers']} speakers). At a clip of 100, eps is said of all speakers, and takes hundreds of them."
    )


def _exits(content: dict[str, Any]) -> str:
    """Certificates exit by exit, beside those about all utterances."""
    lines = [
        "## Every exit by itself, known truth, eps 0.5, 100 speakers: certificates issued (violated)",
        "",
        "| points above the last exit | exit by exit | over all utterances | of all draws, an exit above eps |",
        "|---|---:|---:|---:|",
    ]
    for row in content["exits_known"]:
        said = f"{_share(row['issued'])} ({_share(row['violated'])})", _share(row["issued_over_all"])
        lines.append(f"| {row['population']} | {' | '.join(said)} | {_share(row['bad_exit_over_all'])} |")
    rows = content["exit_splits"]
    lines += [
        "",
        "## Every exit by itself, random halves of the speakers: layers saved",
        "",
        "Violated on the other half / on the whole set. *Above eps*: draws certified with some exit, where at least a "
        "fifth of the words leave, above eps on the whole set, nothing clipped. The layers are those of most draws.",
        "",
        "| n speakers | set | policy | eps | exit by exit | none | after layer | above eps | over all | above eps |",
        "|---:|---|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        violated = f"{_share(row['violated_held_out'])} / {_share(row['violated_whole_set'])}"
        shares = _share(row["none_certified"]), row["exit_layers"], *map(_share, (row[key] for key in EXIT_NUMBERS[1:]))
        named = row["n_speakers"], row["set"], row["policy"], f"{row['eps']:.2f}"
        lines.append(f"| {' | '.join(map(str, named))} | {_share(row['saved'])} ({violated}) | {' | '.join(shares)} |")
    means = [_share(sum(row[key] for row in rows) / max(len(rows), 1)) for key in ("saved", "saved_over_all")]
    lines += ["", f"Mean over all {len(rows)}: {means[0]} exit by exit, {means[1]} over all utterances.", ""]
    return "\n".join(lines)


def docs_lines(content: dict[str, Any]) -> str:
    """What docs/risk.md says of certificates exit by exit."""
    rows = [row for row in content["exit_splits"] if row["eps"] == 0.5 and row["set"] in ("test-clean", "test-other")]
    worst = max(max(row[key] for row in content["exit_splits"]) for key in ("violated_held_out", "violated_whole_set"))
    limit = binom.ppf(0.99, content["draws"], content["delta"]) / content["draws"]
    lines = [
        f"Over {content['draws']} random halves of the speakers (wav2vec 2.0 of six exits, eps 0.5, delta "
        f"{content['delta']:g}); *above eps*: draws in which an exit, where at least a fifth of the words leave, is "
        f"worse than eps on the whole set:",
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
        f"included (of {100 * content['delta']:g} % exactly, 99 % of simulations stay at or below {_share(limit)}).",
    ]
    return "\n".join(lines)


def put_between(page: str, name: str, lines: str) -> str:
    """The page with these lines between its marks of that name."""
    begin, end = f"<!-- {name}: written by benchmarks/risk_simulation.py -->", f"<!-- /{name} -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{lines}\n\n{end}{rest.partition(end)[2]}"


def _costs(content: dict[str, Any]) -> str:
    """Layers saved by these certificates and by those of before, betting, one row a set and eps."""
    splits = [row for row in content["splits"] if row["p_value"] == "betting"]
    shifted = [row for row in content["certificate"] if row["method"].startswith("betting, bets learned")]
    lines = [
        "## What the tail costs: layers saved by these certificates and by the clipped mean alone (before)",
        "",
        "| calibrated on | policy | eps | before | now | less | no certificate now |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    named = [(f"half of {row['set']}, {row['n_speakers']} speakers", row) for row in splits]
    named += [(f"50 utterances of {row['new']}", row) for row in shifted]
    for name, row in named:
        less = row["saved_before"] - row["saved"]
        numbers = [f"{row['eps']:g}", *map(_share, (row["saved_before"], row["saved"], less, row["none_certified"]))]
        lines.append("| " + " | ".join([name, row["policy"], *numbers]) + " |")
    return "\n".join([*lines, ""])


def _mean_costs(content: dict[str, Any]) -> str:
    """The same over all cases, the shown and the others."""
    splits = [row for row in content["splits"] if row["p_value"] == "betting"]
    shifted = [row for row in content["certificate"] if row["method"].startswith("betting, bets learned")]
    said = []
    for title, rows in (("random halves of speakers", splits), (f"all {len(shifted)} cases under shift", shifted)):
        if rows:
            before, now = (sum(row[key] for row in rows) / len(rows) for key in ("saved_before", "saved"))
            said.append(f"Mean over {title}: {_share(before)} before, {_share(now)} now.")
    return " ".join(said) + "\n"


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
        elif "issued" in row:
            cell[f"clip {row[across]:g}"] = f"{_share(row['issued'])} ({_share(row['violated'])})"
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
