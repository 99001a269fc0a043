"""Writes what benchmarks/exit_traces.py measured: results.json, README.md, pictures and ExitBench's baselines."""

import json
from pathlib import Path
from typing import Any

from exit_traces_text import SINGLE_EXIT, points_of, policy_names, readme_text
from saved import few_colours, json_lines

from eeasr_modules.common.files import rounded, write_aside


def write_results(results: dict[str, Any], folder: Path, *, root: Path) -> None:
    """Write everything that others read; each file appears only when it is whole.

    Arguments
    ---------
    results : dict
        Of `exit_traces.measure`.
    folder : Path
        Made if needed.
    root : Path
        The repository, for the documents and baselines that quote the results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = public(results)
    write_aside(folder / "results.json", json_lines(kept, depth=4))
    write_aside(folder / "README.md", readme_text(kept))
    draw(kept, "clean", folder / "frontier_clean.png")
    write_aside(root / "eeasr_modules" / "exits" / "measure" / "exitbench_baselines.json", baselines_text(kept))


def public(results: dict[str, Any]) -> dict[str, Any]:
    """The results without what only the script needs, numbers with four decimals.

    Arguments
    ---------
    results : dict
        Of `exit_traces.measure`.
    """
    policies = {
        text: {
            name: {
                "points": one["value"]["points"],
                "policies": [sorted(set(per_fold)) for per_fold in one["value"]["policies"]],
                "elsewhere": one["value"]["elsewhere"],
                "time": one["time"],
            }
            for name, one in by_set.items()
        }
        for text, by_set in results["policies"].items()
    }
    fusion = {name: {k: v for k, v in one.items() if k != "exit_index"} for name, one in results["fusion"].items()}
    return rounded({**results, "policies": policies, "fusion": fusion})


def baselines_text(results: dict[str, Any]) -> str:
    """The content of eeasr_modules/exits/measure/exitbench_baselines.json.

    Arguments
    ---------
    results : dict
        Of `public`.
    """
    known, baselines = {}, {}
    for name in ("clean", "other"):
        one = results["models"]["ee40"][name]["set"]
        known[one["digest"]] = one["known_as"]
        single = results["models"][SINGLE_EXIT][name]["exits"][-1]["wer"]
        entries = [_entry(f"wav2vec2-base {SINGLE_EXIT}", "single exit", {12: single})]
        for text in policy_names(results):
            wers = {point["budget"]: point["wer"] for point in points_of(results, text, name)}
            entries.append(_entry(f"wav2vec2-base ee40, {text}", "policy", wers))
        baselines[one["known_as"]] = entries
    return json.dumps({"known_sets": known, "baselines": baselines}, indent=1) + "\n"


def _entry(name: str, kind: str, wers: dict[float, float]) -> dict[str, Any]:
    return {"name": name, "kind": kind, "wer_at": {f"{budget:g}": round(wer, 2) for budget, wer in wers.items()}}


def draw(results: dict[str, Any], name: str, path: Path) -> None:
    """WER against mean depth: static line, oracle C, policies, and the model trained with one exit.

    Arguments
    ---------
    results : dict
        Of `public`.
    name : str
        "clean" or "other".
    path : Path
        A PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    one = results["models"]["ee40"][name]
    figure, axes = plt.subplots(figsize=(7.5, 5), dpi=150)
    at = [b["layers"] for b in one["budgets"]]
    axes.plot(at, [b["static"] for b in one["budgets"]], "k--", label="static line (fixed exits, mixed)")
    axes.plot(at, [b["oracle_c"] for b in one["budgets"]], "k-", label="oracle C (knows the reference)")
    for text in ("entropy", "between(patience(1))", "between(lexical)", "gain", "gain_words", "gain_words + fusion"):
        points = points_of(results, text, name)
        if points is not None:
            axes.plot([p["depth"] for p in points], [p["wer"] for p in points], "o-", ms=3, lw=1.2, label=text)
    single = results["models"][SINGLE_EXIT][name]["exits"][-1]["wer"]
    axes.plot([12], [single], "r*", ms=12, label="trained with one exit")
    low = min(single, one["oracles"]["a"]["wer"])
    axes.set(xlim=(5.8, 12.2), ylim=(0.95 * low, 1.05 * one["exits"][2]["wer"]))
    axes.set(xlabel="mean depth (layers of 12)", ylabel="WER (%)", title=f"LibriSpeech test-{name}, wav2vec2-base ee40")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    write_aside(path, lambda aside: figure.savefig(aside, format="png"))
    few_colours(path)
    plt.close(figure)
