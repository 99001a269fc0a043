"""The overthinking study: RESULTS.md and its figures, from what is committed.

    python benchmarks/study.py                                    # RESULTS.md and results/study/*.png
    python benchmarks/study.py --collect NAME=RUN [NAME=RUN ...]  # first: results/study/NAME.json from a run's folder;
                                                                  # of base and an4 results/NAME/summary.json
    python benchmarks/study.py --compare NAME=RUN,OTHER_RUN       # likewise: paired differences, exit by exit
    python benchmarks/study.py --fuse NAME=RUN                    # likewise: exits fused, by trees fitted on dev
    python benchmarks/study.py --tax NAME=RUN,SINGLE_EXIT_RUN     # likewise: exits, alone and fused, against one exit

The first form needs no data: it reads results/*/summary.json, results/exit-traces/results.json and
results/study/*.json. The others read `report/summary.json` and `tables/` of run folders.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from saved import few_colours, json_lines  # noqa: E402
from study_runs import against_single, compared, fused, taxed, trimmed  # noqa: E402
from study_tables import (  # noqa: E402
    OWN,
    STUDY,
    fusion_rows,
    models,
    overthinking_rows,
    policy_rows,
    read,
)

from eeasr_modules.report.render.markdown import markdown_table  # noqa: E402


def draw_exits(path: Path) -> None:
    """WER of every exit relative to the last: above 0 worse than the last, below 0 overthinking."""
    import matplotlib.pyplot as plt

    found = {model: summary for model, summary in models().items() if model != OWN}  # another scale
    rows = -(-len(found) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(16, 4.2 * rows), squeeze=False, sharey=True)
    colours = {"in_domain": "#1b7837", "shifted": "#e08214", "ood": "#b2182b"}
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    for axis, (model, summary) in zip(axes.flat, found.items(), strict=False):
        n_late = 0
        for name, one in summary["sets"].items():
            relative = 100 * (np.array(one["wer_per_exit"]) / one["wer_per_exit"][-1] - 1)
            axis.plot(one["exit_layers"], relative, color=colours[one["label"]], alpha=0.8)
            if relative.min() < -1.5:  # the others would lie on one another
                best = max(1, int(relative.argmin()))
                at = (one["exit_layers"][best], max(relative[best], -17.0))
                late = at[0] > 4
                n_late += late  # those lie close together
                below = -9 - 10 * (n_late - 1) if late else -18
                place = {"textcoords": "offset points", "xytext": (6, below), "ha": "right" if late else "left"}
                axis.annotate(name, at, fontsize=8, color=colours[one["label"]], **place)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=model, xlabel="layer of the exit", ylim=(-20, 60))
    for axis in axes[:, 0]:
        axis.set_ylabel("WER relative to the last exit (%)")
    handles = [plt.Line2D([], [], color=colour) for colour in colours.values()]
    figure.legend(handles, ["in domain", "shifted", "out of domain"], loc="lower center", ncol=3)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=90)
    few_colours(path)
    plt.close(figure)


def draw_growth(path: Path) -> None:
    """Share of utterances with a better inner exit against the WER of the last."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 5))
    found = {model: summary for model, summary in models().items() if model != OWN}  # another scale
    markers = dict(zip(found, "osD^v<>PXphH8d*+x12", strict=False))
    colours = {"in_domain": "#1b7837", "shifted": "#e08214", "ood": "#b2182b"}
    for model, summary in found.items():
        for one in summary["sets"].values():
            share = 100 * one["overthinking"]["inner_better_share"]
            axis.plot(one["wer_per_exit"][-1], share, markers[model], color=colours[one["label"]], alpha=0.8)
    for sets in read("results/exit-traces/results.json")["models"].values():
        for one in sets.values():
            if len(one["exits"]) == 1:
                continue
            axis.plot(one["exits"][-1]["wer"], 100 * one["overthinking"]["better"], "*", color="#2166ac", markersize=9)
    handles = [plt.Line2D([], [], marker=mark, linestyle="", color="grey") for mark in markers.values()]
    handles += [plt.Line2D([], [], marker="*", linestyle="", color="#2166ac")]
    axis.legend(handles, [*markers, "wav2vec 2.0, public traces"], fontsize=8)
    axis.set(xlabel="WER of the last exit (%)", ylabel="utterances with a better inner exit (%)")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    few_colours(path)
    plt.close(figure)


def written() -> str:
    """RESULTS.md, the table after each mark written anew."""
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    tables = {
        "overthinking": overthinking_rows(),
        "policies": policy_rows(),
        "fusion": fusion_rows(),
    }
    for name, table in tables.items():
        mark = f"<!-- study: {name} -->\n\n"
        before, after = text.split(mark)
        rest = after.split("\n\n", 1)[1]
        text = f"{before}{mark}{markdown_table(*table)}\n\n{rest}"
    return text


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", nargs="+", default=[], metavar="NAME=RUN")
    parser.add_argument("--compare", nargs="+", default=[], metavar="NAME=RUN,OTHER_RUN")
    parser.add_argument("--fuse", nargs="+", default=[], metavar="NAME=RUN")
    parser.add_argument("--tax", nargs="+", default=[], metavar="NAME=RUN,SINGLE_EXIT_RUN")
    options = parser.parse_args()
    for name, run in (one.split("=", 1) for one in options.collect):
        summary = json.loads((Path(run) / "report/summary.json").read_text(encoding="utf-8"))
        path = ROOT / "results" / name / "summary.json" if name in ("base", "an4") else STUDY / f"{name}.json"
        write_json(path, trimmed(summary))
    for name, runs in (one.split("=", 1) for one in options.compare):
        write_json(STUDY / f"{name}.json", compared(*map(Path, runs.split(","))))
    for name, runs in (one.split("=", 1) for one in options.tax):
        found = against_single(*map(Path, runs.split(",")))
        write_json(STUDY / f"{name}.json", {one: taxed([pair]) for one, pair in found.items()})
    for name, run in (one.split("=", 1) for one in options.fuse):
        write_json(STUDY / f"{name}.json", fused(Path(run)))
    draw_exits(STUDY / "exits.png")
    draw_growth(STUDY / "growth.png")
    (ROOT / "RESULTS.md").write_text(written(), encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """JSON, and say so."""
    path.write_text(json_lines(content), encoding="utf-8")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
