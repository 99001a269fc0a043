"""Writes what benchmarks/exit_traces.py measured: results.json, README.md, pictures and ExitBench's baselines."""

import json
from pathlib import Path
from typing import Any

from exit_traces_text import BEGIN, END, QUOTED, SINGLE_EXIT, points_of, policy_names, readme_text

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
    write_aside(folder / "results.json", json.dumps(kept, indent=1) + "\n")
    write_aside(folder / "README.md", readme_text(kept))
    for name in ("clean", "other"):
        draw(kept, name, folder / f"frontier_{name}.png")
    write_aside(root / "eeasr_modules" / "exits" / "measure" / "exitbench_baselines.py", baselines_text(kept))
    write_pages(kept, root=root)


def write_pages(results: dict[str, Any], *, root: Path) -> None:
    """Write the tables of the first page and of the page on choosing a policy between their marks.

    Arguments
    ---------
    results : dict
        Of `public`.
    root : Path
        The repository.
    """
    for name, table_of in QUOTED.items():
        document = root / name
        if document.is_file():
            text = document.read_text("utf-8")
            write_aside(document, f"{text.split(BEGIN)[0]}{BEGIN}\n\n{table_of(results)}\n\n{END}{text.split(END)[1]}")


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
    """The source of eeasr_modules/exits/measure/exitbench_baselines.py.

    Arguments
    ---------
    results : dict
        Of `public`.
    """
    sets: dict[str, str] = {}
    baselines: dict[str, list[str]] = {}
    for name in ("clean", "other"):
        one = results["models"]["ee40"][name]["set"]
        sets[one["digest"]] = one["known_as"]
        single = results["models"][SINGLE_EXIT][name]["exits"][-1]["wer"]
        entries = [_entry(f"wav2vec2-base {SINGLE_EXIT}", "single exit", {12: single})]
        for text in policy_names(results):
            wers = {point["budget"]: point["wer"] for point in points_of(results, text, name)}
            entries.append(_entry(f"wav2vec2-base ee40, {text}", "policy", wers))
        baselines[one["known_as"]] = entries
    quoted = "".join(f'    "{name}": [\n{"".join(entries)}    ],\n' for name, entries in baselines.items())
    known = "".join(f'    "{digest}": "{name}",\n' for digest, name in sets.items())
    return (
        '"""Sets that ExitBench knows, and what is known of them: numbers only, written by '
        "benchmarks/exit_traces.py.\n\n"
        "A set is recognised by `score_choices.set_digest`. `wer_at`: WER in percent by budget in layers, "
        "cross-fitted.\n"
        '"""\n\nfrom typing import Any\n\n# fmt: off\n'
        f"KNOWN_SETS: dict[str | None, str] = {{\n{known}}}\n\n"
        f"BASELINES: dict[str | None, list[dict[str, Any]]] = {{\n{quoted}}}\n"
    )


def _entry(name: str, kind: str, wers: dict[float, float]) -> str:
    """Two lines of source."""
    numbers = ", ".join(f"{budget:g}: {round(wer, 2)}" for budget, wer in wers.items())
    return f'        {{"name": "{name}", "kind": "{kind}",\n         "wer_at": {{{numbers}}}}},\n'


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
    plt.close(figure)
