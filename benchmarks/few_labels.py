"""Certificates from 50 labels of new speech: active against random choice, on traces and the shipped model's tables.

    python benchmarks/few_labels.py TRACES [--draws 100] [--out results/few-labels]

Every corpus in turn is new: its references are only looked at for those who are drawn, `gain` is fitted on the other
part of the traces. *Saved* is the mean share of layers, 0 where nothing is certified; *violated* the share of draws
whose promise is not so for the set. A run that was killed goes on; delete results.json for another. Shipped tables hold
no references: their error counts stand in for labels.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from scipy.stats import binom  # noqa: E402

from eeasr_modules.common.files import write_aside  # noqa: E402
from eeasr_modules.exits import ExitTable, import_transcripts, parse_policy, read_table  # noqa: E402
from eeasr_modules.exits.tuning.few_labels import WAYS, LabelTarget, candidates, draw_and_bet  # noqa: E402
from eeasr_modules.exits.tuning.replay import decide, exit_costs, fit_model, mean_cost, with_models  # noqa: E402  # noqa: E402
from eeasr_modules.exits.tuning.risk_losses import against_last  # noqa: E402

EPS, DELTA, BUDGET, GOAL = 1.0, 0.1, 50, 0.15
TABLES = ROOT / "eeasr_modules/shipped/base/tables"
SHIPPED = ("an4_test", "commonvoice_test", "commonvoice_test_noise_10db", "commonvoice_test_telephone", "digits_test")
SHIPPED += ("librispeech_test-other",)
TEXTS = ("between(entropy)", "between(patience(1))")


def cases(traces: Path):
    """Name, table and open policies of each set, fitted elsewhere."""
    for name in SHIPPED:
        yield f"shipped, {name}", read_table(TABLES / f"{name}.parquet"), [parse_policy(text) for text in TEXTS]
    parts = {part: import_transcripts(traces, part, model="ee40", format="exit-traces") for part in ("clean", "other")}
    for part, other in (("clean", "other"), ("other", "clean")):
        gain = with_models(parse_policy("between(gain)"), {"gain": fit_model("gain", [parts[other]])})
        yield f"ee40, test-{part}", parts[part], [*(parse_policy(text) for text in TEXTS), gain]
    for model in ("kd4", "dkd23"):  # transcripts alone
        table = import_transcripts(traces, "other", model=model, format="exit-traces")
        yield f"{model}, test-other", table, [parse_policy(TEXTS[1])]


def measure(table: ExitTable, policy, n_draws: int) -> dict:
    """Saved and violated of both ways, and what could be had."""
    grid, rows, compared = candidates(table, policy, eps=EPS), np.arange(table.n_utterances), against_last(table)
    emitted = np.stack([decide(one, table).emitted for one in grid.policies], axis=1)
    changed = compared.errors[rows[:, None], emitted]
    errors = table.errors[rows[:, None], emitted] - table.errors[:, -1:]
    words, full = table.n_ref_words, mean_cost(exit_costs(table)[:, -1], table.duration_s)
    saved, excess = 1 - grid.cost / full, 100 * errors.sum(axis=0) / words.sum()
    found = {
        "n": table.n_utterances,
        "best": float(np.where(excess <= EPS, saved, 0).max()),
        "free": float(np.where(grid.wer <= EPS, saved, 0).max()),
    }
    for way in WAYS:
        ends = []
        for seed in range(n_draws):
            target = LabelTarget(EPS, DELTA, BUDGET, seed=seed, way=way)
            ends.append(draw_and_bet(changed, compared.n_ref_words, target, lambda i: (errors[i], int(words[i]))))
        at = np.array([end.n_certified - 1 for end in ends])
        found[way] = float(np.where(at >= 0, saved[at], 0).mean())
        found[f"{way}_violated"] = float((excess[at] > EPS)[at >= 0].sum() / n_draws)
        found[f"{way}_labels"] = float(np.mean([end.n_labelled for end in ends]))
    return found


def page(rows: list[dict], n_draws: int) -> str:
    """Markdown."""
    most = binom.ppf(0.99, n_draws, DELTA) / n_draws
    reached = [row for row in rows if row["active"] >= GOAL]
    lines = [
        "# Certificates from few labels",
        "",
        f"At most {EPS:g} WER point above the last exit over this finite set of recordings, with probability "
        f"{1 - DELTA:g}, from at most {BUDGET} labelled utterances, {n_draws} draws each ([how](../../docs/risk.md)). "
        f"Of a method that fails with probability {DELTA:g} exactly, 99 % of such simulations stay at or below "
        f"{100 * most:.0f} %. *Best*: the loosest threshold that keeps the point; *no label*: the loosest that changes "
        f"at most a word in 100. At least {100 * GOAL:.0f} % of the layers saved in {len(reached)} of {len(rows)} "
        f"cases; largest violation {100 * max(row['active_violated'] for row in rows):.0f} %. Written by "
        "benchmarks/few_labels.py; shown is `between(entropy)` on undisturbed sets, all rows are in results.json.",
        "",
        "| new speech | recordings | best | no label | active: saved (violated) | labels | random | goal |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in [row for row in rows if row["policy"] == "between(entropy)" and "commonvoice_test_" not in row["set"]]:
        no = "best saves less" if row["best"] < GOAL else f"too near {EPS:g} point for {BUDGET} labels"
        why = "yes" if row["active"] >= GOAL else f"no: {no}"
        shown = [f"{100 * row[key]:.1f} %" for key in ("best", "free")]
        ways = [f"{100 * row[way]:.1f} % ({100 * row[way + '_violated']:.0f} %)" for way in WAYS]
        cells = [
            row["set"],
            row["n"],
            *shown,
            ways[0],
            f"{row['active_labels']:.0f}",
            ways[1],
            why,
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("results/few-labels"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, kept = [], arguments.out / "results.json"
    measured = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    done = {(row["set"], row["policy"]): row for row in measured.get("rows", [])}
    done = done if measured.get("draws") == arguments.draws else {}
    for name, table, policies in cases(arguments.traces):
        for policy in policies:
            begun = time.process_time()
            row = done.get((name, str(policy))) or measure(table, policy, arguments.draws)
            rows.append({"set": name, "policy": str(policy)} | row)
            print(rows[-1], f"{time.process_time() - begun:.0f} s", flush=True)
            done.pop((name, str(policy)), None)
            lines = ",\n  ".join(json.dumps(row) for row in [*rows, *done.values()])
            head = f'"eps": {EPS}, "delta": {DELTA}, "budget": {BUDGET}, "draws": {arguments.draws}'
            text = f'{{{head}, "rows": [\n  {lines}\n]}}\n'
            write_aside(arguments.out / "results.json", text)
            write_aside(arguments.out / "README.md", page(rows, arguments.draws))


if __name__ == "__main__":
    main()
