"""The rules of "Avoid Overthinking" on the public exit traces and on the shipped model: the tables of docs/paper.md.

    python benchmarks/paper_rules.py TRACES [--out results/paper] [--page docs/paper.md]

TRACES is the folder with `ee40`. Each rule as published (threshold fixed) and calibrated; costs are charged at the exit
decided, and beside them stands what counting the exit emitted would claim. On the traces everything calibrated is
cross-fitted over ten folds of speakers; on the shipped model thresholds come from its dev set. Writes results.json and
the tables between the marks of the page. No transcripts are written.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402

from eeasr_modules.exits import (  # noqa: E402
    Decisions,
    ExitTable,
    Policy,
    bootstrap_difference,
    bootstrap_wer,
    choose,
    decide,
    import_transcripts,
    mean_cost,
    parse_policies,
    parse_policy,
    read_table,
    speaker_folds,
    static_line,
)
from eeasr_modules.exits.policies.combine import with_threshold  # noqa: E402
from eeasr_modules.exits.tuning.calibration import cross_fit, thresholds_of  # noqa: E402
from eeasr_modules.report.numbers.evaluation import lacking_signals  # noqa: E402
from eeasr_modules.report.render.markdown import markdown_table  # noqa: E402

SETS = ("clean", "other")
BUDGETS = (7.0, 8.0, 9.0, 10.0)
WAYS = {
    "neighbours, last (ours)": "patience({p})",
    "neighbours, first": "patience({p}, first)",
    "pairs, last": "patience({p}, pairs)",
    "pairs, first (theirs)": "patience({p}, pairs, first)",
}
SHOWN_WAYS = ("neighbours, last (ours)", "pairs, first (theirs)")  # on the page; the others are in results.json
SHIPPED = ROOT / "eeasr_modules" / "shipped" / "base" / "tables"
SHIPPED_SETS = ("an4_test", "commonvoice_test", "librispeech_test-other")
SHIPPED_SHARES = (0.75, 0.875)
BEGIN, END = "<!-- results: written by benchmarks/paper_rules.py -->", "<!-- /results -->"
N_DRAWS, N_THRESHOLDS = 1000, 100


def numbers(table: ExitTable, chosen: Decisions) -> dict[str, Any]:
    """Depth decided and emitted, WER of what was emitted with its interval, and the static line there."""
    rows = np.arange(table.n_utterances)
    errors = table.errors[rows, chosen.emitted]
    depths = [mean_cost(table.cost_layers[rows, one], table.duration_s) for one in (chosen.decided, chosen.emitted)]
    line = static_line(table.errors, table.cost_layers, n_ref_words=table.n_ref_words, weights=table.duration_s)
    own = bootstrap_wer(
        errors, table.n_ref_words, speakers=table.speakers, rng=np.random.default_rng(0), n_draws=N_DRAWS
    )
    return {
        "decided_depth": depths[0],
        "emitted_depth": depths[1],
        "wer": own.estimate,
        "interval": [own.low, own.high],
        "static": float(line.at(depths[0])),
        "static_at_emitted": float(line.at(depths[1])),
    }


def charged_emitted(table: ExitTable, policy: Policy, budgets: tuple[float, ...]) -> list[Decisions]:
    """Cross-fitted choices where a budget is held to the depth emitted, as it would be by the other way of counting."""
    fold = speaker_folds(table, 10, seed=0)
    made = [Decisions(*np.zeros((2, table.n_utterances), dtype=np.int64)) for _ in budgets]
    for i in range(fold.max() + 1):
        others, own = table.select(fold != i), table.select(fold == i)
        rows, points = np.arange(others.n_utterances), []
        filled = [with_threshold(policy, t) for t in thresholds_of(policy, others, n_thresholds=N_THRESHOLDS)]
        for one in filled:
            emitted = decide(one, others).emitted
            depth = mean_cost(others.cost_layers[rows, emitted], others.duration_s)
            points.append((depth, others.errors[rows, emitted].sum()))
        depth, wrong = np.array(points).T
        for budget, choices in zip(budgets, made, strict=True):
            within = np.flatnonzero(depth <= budget * (1 + 1e-9))
            best = within[np.lexsort((depth[within], wrong[within]))[0]]
            chosen = decide(filled[best], own)
            choices.decided[fold == i], choices.emitted[fold == i] = chosen.decided, chosen.emitted
    return made


def cross_fitted(table: ExitTable, text: str) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A policy's numbers at each budget, charged decided, and the exits that it emitted."""
    fitted = cross_fit(table, parse_policy(text), budgets=BUDGETS, n_thresholds=N_THRESHOLDS)
    pairs = zip(BUDGETS, fitted.exit_index, fitted.emitted, strict=True)
    return [{"budget": budget, **numbers(table, Decisions(*one))} for budget, *one in pairs], fitted.emitted


def four_ways(table: ExitTable, p: int) -> dict[str, Any]:
    """Patience in its four ways: charged decided, and charged emitted where that differs; first minus last."""
    found: dict[str, Any] = {}
    emitted = {}
    for name, form in WAYS.items():
        text = form.format(p=p)
        points, emitted[name] = cross_fitted(table, text)
        found[name] = {"policy": text, "decided": points}
        if "first" in text:
            choices = charged_emitted(table, parse_policy(text), BUDGETS)
            found[name]["emitted"] = [
                {"budget": budget, **numbers(table, one)} for budget, one in zip(BUDGETS, choices, strict=True)
            ]
    rows = np.arange(table.n_utterances)
    found["first minus last"] = []
    for one, two in zip(emitted["pairs, first (theirs)"], emitted["pairs, last"], strict=True):
        gap = bootstrap_difference(
            table.errors[rows, one],
            table.errors[rows, two],
            n_ref_words=table.n_ref_words,
            speakers=table.speakers,
            rng=np.random.default_rng(0),
            n_draws=N_DRAWS,
        )
        found["first minus last"].append([gap.estimate, gap.low, gap.high])
    return found


def as_published(table: ExitTable) -> dict[str, Any]:
    """Their rules with their thresholds, those whose signals the table holds."""
    policies = [one for one in parse_policies("paper") if not one.is_open and not lacking_signals(one, [table])]
    return {str(one): numbers(table, decide(one, table)) for one in policies}


def measure_traces(folder: Path) -> dict[str, Any]:
    """Every number about the public traces."""
    found = {}
    for split in SETS:
        table = import_transcripts(folder, split)
        line = static_line(table.errors, table.cost_layers, n_ref_words=table.n_ref_words, weights=table.duration_s)
        found[split] = {
            "wer_per_exit": table.wer_per_exit.tolist(),
            "static": [float(line.at(budget)) for budget in BUDGETS],
            "as published": as_published(table),
            "calibrated": {text: cross_fitted(table, text)[0] for text in ("random", "entropy")},
            "four ways": {str(p): four_ways(table, p) for p in (1, 2)},
        }
    return found


def measure_shipped() -> dict[str, Any]:
    """Every number about the shipped model; thresholds from its dev set."""
    dev = read_table(SHIPPED / "mixed_dev.parquet")
    found = {}
    for name in SHIPPED_SETS:
        table = read_table(SHIPPED / f"{name}.parquet")
        policies = [*parse_policies("paper, patience(2, pairs), patience(2)")]
        policies = [one for one in policies if not lacking_signals(one, [dev, table])]
        found[name] = {
            "exit_layers": table.exit_layers.tolist(),
            "wer_per_exit": table.wer_per_exit.tolist(),
            "as published": as_published(table),
            "calibrated": {
                str(one): [_within(dev, table, one, share) for share in SHIPPED_SHARES]
                for one in policies
                if one.is_open
            },
        }
    return found


def _within(dev: ExitTable, table: ExitTable, policy: Policy, share: float) -> dict[str, Any] | None:
    """A policy's numbers at a share of full depth; None where it cannot stop so early."""
    cheapest = choose(dev, policy, budget=1.0).grid.cost.min()
    if cheapest > share * dev.n_layers:
        return None
    return {"budget": share, **numbers(table, decide(choose(dev, policy, budget=share).policy, table))}


def _point(one: dict[str, Any] | None) -> str:
    """WER at the depth decided, and the depth emitted where it is another."""
    if one is None:
        return "not so early"
    depth = f"{one['wer']:.2f} @ {one['decided_depth']:.2f}"
    return depth if one["emitted_depth"] == one["decided_depth"] else f"{depth} ({one['emitted_depth']:.2f})"


def page_text(results: dict[str, Any]) -> str:
    """The tables of the page.

    Arguments
    ---------
    results : dict
        As results.json holds them.

    Returns
    -------
    str
        Markdown.
    """
    one = results["traces"]["clean"]
    exits = ", ".join(f"{wer:.2f}" for wer in one["wer_per_exit"])
    header = ["patience", "charged", *[f"{budget:g}" for budget in BUDGETS]]
    rows = [["static line", "", *[f"{wer:.2f}" for wer in one["static"]]]]
    rows.append(["`entropy`", "decided", *map(_point, one["calibrated"]["entropy"])])
    ways = one["four ways"]["1"]
    for name in SHOWN_WAYS:
        rows.append([f"`{ways[name]['policy']}`: {name}", "decided", *map(_point, ways[name]["decided"])])
    rows.append(["the same", "emitted", *map(_point, ways[name]["emitted"])])
    return f"On test-clean (WER after layers 2 to 12: {exits}):\n\n{markdown_table(header, rows)}\n"


def write_page(page: Path, text: str) -> None:
    """Put the tables between the marks of a page.

    Arguments
    ---------
    page : Path
        With both marks.
    text : str
        What goes between them.

    Raises
    ------
    ValueError
        When a mark is missing.
    """
    whole = page.read_text(encoding="utf-8")
    if BEGIN not in whole or END not in whole:
        raise ValueError(f"expected {BEGIN} and {END} in '{page}'")
    before, after = whole.split(BEGIN)[0], whole.split(END)[-1]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", type=Path, nargs="?", help="folder with ee40; left out: write the page anew")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "paper")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "paper.md")
    given = parser.parse_args()
    path = given.out / "results.json"
    if given.traces is not None:
        results = {"traces": measure_traces(given.traces), "shipped": measure_shipped()}
        given.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(given.page, page_text(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
