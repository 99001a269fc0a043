"""The overthinking study: RESULTS.md and its figures, from what is committed.

    python benchmarks/study.py                                    # RESULTS.md and results/study/*.png
    python benchmarks/study.py --collect NAME=RUN [NAME=RUN ...]  # first: results/study/NAME.json from a run's folder
    python benchmarks/study.py --compare NAME=RUN,OTHER_RUN       # likewise: paired differences, exit by exit
    python benchmarks/study.py --fuse NAME=RUN                    # likewise: exits fused, by trees fitted on dev
    python benchmarks/study.py --tax NAME=RUN,SINGLE_EXIT_RUN     # likewise: exits, alone and fused, against one exit
    eeasr analyze RUN/tables/commonvoice_test.parquet --cross-fit --budgets 0.5,0.75 --out CROSS/report \\
        --policies "between(entropy), between(patience(1)), lexical, gain, gain_words"
    python benchmarks/study.py --collect crossfit=CROSS           # likewise: policies cross-fitted

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

from study_runs import compared, fused, taxed, trimmed  # noqa: E402

from eeasr_modules.report.tables import interval, markdown_table, number  # noqa: E402

STUDY = ROOT / "results/study"
KINDS = {"in_domain": "in domain", "shifted": "shifted", "ood": "out of domain"}
FUSED = {"shipped": "fusion", "without AN4": "fusion_without_an4", "without LibriSpeech": "fusion_without_librispeech"}
FUSED_ON = ("an4_test", "commonvoice_test", "librispeech_test-other")


def read(name: str) -> dict | None:
    """A JSON file of the repository, or None."""
    path = ROOT / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def models() -> dict[str, dict]:
    """Summaries by the model's name in the text, of those that are there."""
    found = {
        "shipped": read("results/small/summary.json"),
        "AN4 only": read("results/an4/summary.json"),
        "pretrained": read("results/study/pretrained.json"),
        "from scratch": read("results/study/scratch.json"),
        "without Common Voice": read("results/study/without_commonvoice.json"),
        "without AN4": read("results/study/without_an4.json"),
        "without LibriSpeech": read("results/study/without_librispeech.json"),
        "AN4, pretrained": read("results/study/an4_pretrained.json"),
        "AN4, from scratch": read("results/study/an4_scratch.json"),
    }
    return {name: summary for name, summary in found.items() if summary is not None}


def overthinking_rows() -> tuple[list[str], list[list[str]]]:
    """A row per model and set."""
    header = [
        "model",
        "set",
        "kind",
        "first",
        "best inner",
        "last [95 %]",
        "rise",
        "utterances",
        "words lost",
        "oracle A",
        "oracle B",
    ]
    rows = []
    for model, summary in models().items():
        for name, one in summary["sets"].items():
            wers, layers = one["wer_per_exit"], one["exit_layers"]
            best = int(np.argmin(wers[:-1]))
            words = one.get("words")
            rows.append(
                [
                    model,
                    name,
                    KINDS[one["label"]],
                    number(wers[0]),
                    f"{number(wers[best])} at {layers[best]}",
                    f"{number(wers[-1])} {interval(one['wer_interval_per_exit'][-1])}",
                    f"{wers[-1] - wers[best]:+.2f}",
                    f"{100 * one['overthinking']['inner_better_share']:.1f} %",
                    f"{100 * words['destructive']:.1f} %" if words else "-",
                    f"{number(one['oracle_a']['wer'])} @ {one['oracle_a']['depth']:.2f}",
                    f"{number(one['oracle_b']['wer'])} @ {one['oracle_b']['depth']:.2f}",
                ]
            )
    return header, rows


def trace_rows() -> tuple[list[str], list[list[str]]]:
    """The same of the public wav2vec 2.0 traces."""
    traces = read("results/exit-traces/results.json")["models"]
    header = ["model", "set", "first", "best inner", "last [95 %]", "utterances", "oracle A", "oracle B"]
    rows = []
    for model, sets in traces.items():
        for name, one in sets.items():
            if len(one["exits"]) == 1:
                continue
            inner = min(one["exits"][:-1], key=lambda exit_: exit_["wer"])
            last = one["exits"][-1]
            rows.append(
                [
                    model,
                    f"LibriSpeech test-{name}",
                    number(one["exits"][0]["wer"]),
                    f"{number(inner['wer'])} at {inner['layer']}",
                    f"{number(last['wer'])} {interval(last['wer_interval'])}",
                    f"{100 * one['overthinking']['better']:.1f} %",
                    *(f"{number(one['oracles'][k]['wer'])} @ {one['oracles'][k]['depth']:.2f}" for k in "ab"),
                ]
            )
    return header, rows


def policy_rows() -> tuple[list[str], list[list[str]]]:
    """Every policy minus the static line on every set at the budget, calibrated on dev."""
    names = list(models()["shipped"]["sets"]["commonvoice_test"]["policies"])
    rows = []
    for model, summary in models().items():
        for name, one in summary["sets"].items():
            found = [at_budget(one["policies"].get(policy)) for policy in names]
            static = next(at["static"] for at in found if at)
            rows.append([model, name, f"{number(static)} / {number(found[0]['oracle_c'])}", *map(brief, found)])
    return ["model", "set", "static line / oracle C", *(f"`{name}`" for name in names)], rows


def at_budget(found: dict | list | None) -> dict | None:
    """A policy at the first budget."""
    if not found:
        return None
    return (found if isinstance(found, list) else found.get("at_budgets") or [found["at_budget"]])[0]


def brief(at: dict | None) -> str:
    """Points below or above the static line at the same depth (bold: interval excludes 0), and the share of the gap."""
    if at is None:
        return "-"
    one, gap = at["minus_static"], at.get("gap_closed")
    sure = one["low"] > 0 or one["high"] < 0
    text = f"**{one['difference']:+.2f}**" if sure else f"{one['difference']:+.2f}"
    return text if gap is None else f"{text} ({100 * gap:.0f} %)"


def every_policy_rows() -> tuple[list[str], list[list[str]]]:
    """The same with depths and intervals."""
    header = ["model", "set", "policy", "depth", "WER", "minus static line [95 %]", "minus last [95 %]", "gap closed"]
    rows = []
    for model, summary in models().items():
        for name, one in summary["sets"].items():
            for policy, found in one["policies"].items():
                at = at_budget(found)
                gap = at.get("gap_closed")
                rows.append(
                    [model, name, f"`{policy}`", f"{at['depth']:.2f}", number(at["wer"])]
                    + [difference(at["minus_static"]), difference(at["minus_last"])]
                    + ["-" if gap is None else f"{100 * gap:.0f} %"]
                )
    return header, rows


def difference(one: dict) -> str:
    """Points, with their interval."""
    return f"{one['difference']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"


def pretraining_rows() -> tuple[list[str], list[list[str]]]:
    """Pretrained against from scratch, exit by exit."""
    header = ["labels", "set", "layer", "pretrained", "from scratch", "difference [95 %]", "relative"]
    rows = []
    for labels, name in (("all", "pretrained_minus_scratch"), ("AN4", "pretrained_minus_scratch_an4")):
        found = read(f"results/study/{name}.json")
        for test in ("commonvoice_test", "librispeech_test-other", "an4_test", "an4_test_unseen_text", "digits_test"):
            for one in found.get(test, []):
                if one["layer"] in (1, 4, 6, 8):
                    rows.append(
                        [labels, test, str(one["layer"]), number(one["wer"]), number(one["other_wer"]), difference(one)]
                        + [f"{100 * one['difference'] / one['other_wer']:+.1f} %"]
                    )
    return header, rows


def crossfit_rows() -> tuple[list[str], list[list[str]]]:
    """Policies fitted and calibrated on other speakers of the very test set."""
    header = ["budget", "policy", "depth", "WER", "minus static line [95 %]", "gap closed"]
    rows = []
    for policy, found in read("results/study/crossfit.json")["sets"]["commonvoice_test"]["policies"].items():
        for at in found:
            share = f"{100 * at['budget']:.0f} %"
            rows.append([share, f"`{policy}`", f"{at['depth']:.2f}", number(at["wer"]), difference(at["minus_static"])])
            rows[-1].append(f"{100 * at['gap_closed']:.0f} %")
    return header, sorted(rows)


def fusion_rows() -> tuple[list[str], list[list[str]]]:
    """Exits fused, at full depth; of the models that lack a corpus, on it and on the two others."""
    rows = []
    for model, file in FUSED.items():
        summary = models()[model]
        for name, one in read(f"results/study/{file}.json").items():
            if model == "shipped" or name in FUSED_ON:
                last, kind = one["exits"][-1], KINDS[summary["sets"][name]["label"]]
                numbers = [number(last["alone"]), number(last["wer"]), difference(one["minus_last"])]
                rows.append([model, name, kind, *numbers])
    for name, one in read("results/exit-traces/results.json")["fusion"].items():
        full = one["full_depth"]
        rows.append(["ee40", f"LibriSpeech test-{name}", "in domain", number(full["static"]), number(full["wer"])])
        rows[-1].append(above_static(full))
    return ["model", "set", "kind", "last exit", "fused", "difference [95 %]"], rows


def fused_depth_rows() -> tuple[list[str], list[list[str]]]:
    """Fused output at half the depth and more, against the static line."""
    rows = []
    for name, one in read("results/study/fusion.json").items():
        if name not in ("commonvoice_test", "librispeech_test-other", "an4_test", "commonvoice_6_1_validated"):
            continue
        for at in [*one["exits"][3:-1], *one["policies"]]:
            gap = at["gap_closed"]
            rows.append(
                [name, f"`{at['what']}`" if "budget" in at else at["what"], f"{at['depth']:.2f}"]
                + [number(at["static"]), number(at["oracle_c"]), number(at["wer"]), above_static(at)]
                + ["-" if gap is None else f"{100 * gap:.0f} %"]
            )
    header = [
        "set",
        "leaving at",
        "depth",
        "static line",
        "oracle C",
        "fused",
        "minus static line [95 %]",
        "gap closed",
    ]
    return header, rows


def above_static(one: dict) -> str:
    """Points above or below the static line, with their interval."""
    low, high = one["above_static_interval"]
    return difference({"difference": one["above_static"], "low": low, "high": high})


def speed_rows() -> tuple[list[str], list[list[str]]]:
    """Of `eeasr benchmark`, AN4 test, batch 1: lines of its table that the text discusses."""
    lines = (STUDY / "benchmark.md").read_text(encoding="utf-8").split("## Batch 1", 1)[1].split("## Batch", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines() if line.startswith("|")
    ]
    kept = [0, 1, 2, 3, 4, 9]
    return [cells[0][i] for i in kept], [[row[i] for i in kept] for row in cells[2:]]


def draw_exits(path: Path) -> None:
    """WER of every exit relative to the last: above 0 worse than the last, below 0 overthinking."""
    import matplotlib.pyplot as plt

    found = models()
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
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_growth(path: Path) -> None:
    """Share of utterances with a better inner exit against the WER of the last."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 5))
    markers = dict(zip(models(), "osD^v<>PX", strict=False))
    colours = {"in_domain": "#1b7837", "shifted": "#e08214", "ood": "#b2182b"}
    for model, summary in models().items():
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
    figure.savefig(path, dpi=110)
    plt.close(figure)


def written() -> str:
    """RESULTS.md: the reading (results/study/reading.md) with each `{{table}}` filled in."""
    text = (STUDY / "reading.md").read_text(encoding="utf-8")
    tables = {
        "overthinking": overthinking_rows(),
        "traces": trace_rows(),
        "policies": policy_rows(),
        "pretraining": pretraining_rows(),
        "crossfit": crossfit_rows(),
        "fusion": fusion_rows(),
        "fused_depth": fused_depth_rows(),
        "speed": speed_rows(),
    }
    for name, table in tables.items():
        text = text.replace("{{" + name + "}}", markdown_table(*table))
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
        write_json(STUDY / f"{name}.json", trimmed(summary))
    for name, runs in (one.split("=", 1) for one in options.compare):
        write_json(STUDY / f"{name}.json", compared(*map(Path, runs.split(","))))
    for name, runs in (one.split("=", 1) for one in options.tax):
        write_json(STUDY / f"{name}.json", taxed(*map(Path, runs.split(","))))
    for name, run in (one.split("=", 1) for one in options.fuse):
        write_json(STUDY / f"{name}.json", fused(Path(run)))
    draw_exits(STUDY / "exits.png")
    draw_growth(STUDY / "growth.png")
    (ROOT / "RESULTS.md").write_text(written(), encoding="utf-8")
    every = "# Every policy of the study\n\nBy `python benchmarks/study.py`; columns as in RESULTS.md.\n\n"
    (STUDY / "policies.md").write_text(every + markdown_table(*every_policy_rows()) + "\n", encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """JSON, and say so."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
