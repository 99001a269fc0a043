"""Tables of the overthinking study, from what is committed: a header and rows of text each.

`benchmarks/study.py` puts them into RESULTS.md.
"""

import json
from pathlib import Path

import numpy as np

from eeasr_modules.report.render.markdown import number, set_interval, too_few_speakers

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "results/study"
KINDS = {"in_domain": "in domain", "shifted": "shifted", "ood": "out of domain"}
FUSED = {"shipped": "fusion_shipped", "small": "fusion"}
FUSED |= {f"without {name}": f"fusion_without_{name.lower()}" for name in ("AN4", "LibriSpeech")}
OWN = "frozen, own decoder"
# Model and set of the rows that are shown; the others are in the summaries.
SHOWN = (
    ("shipped", "commonvoice_test"),
    ("shipped", "librispeech_test-other"),
    ("shipped", "an4_test"),
    (OWN, "commonvoice_test"),
    (OWN, "an4_test"),
    ("small", "commonvoice_test"),
    ("small", "an4_test"),
    ("small", "commonvoice_test_noise_0db"),
    ("AN4 only", "commonvoice_test"),
    ("without Common Voice", "commonvoice_test"),
)
FUSED_ON = ("an4_test", "commonvoice_test", "librispeech_test-other")


def read(name: str) -> dict | None:
    """A JSON file of the repository, or None."""
    path = ROOT / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def models() -> dict[str, dict]:
    """Summaries by the model's name in the text, of those that are there."""
    found = {
        "shipped": read("results/base/summary.json"),
        OWN: read("results/study/frozen.json"),
        "small": read("results/study/small.json"),
        "AN4 only": read("results/an4/summary.json"),
        "pretrained": read("results/study/pretrained.json"),
        "from scratch": read("results/study/scratch.json"),
        "from scratch, 10 epochs": read("results/study/joint10.json"),
        "without Common Voice": read("results/study/without_commonvoice.json"),
        "without AN4": read("results/study/without_an4.json"),
        "without LibriSpeech": read("results/study/without_librispeech.json"),
        "AN4, pretrained": read("results/study/an4_pretrained.json"),
        "AN4, from scratch": read("results/study/an4_scratch.json"),
    }
    for path in sorted(STUDY.glob("gpu_*.json")):  # of benchmarks/study_on_gpu.sh
        found[path.stem.replace("_", " ")] = read(f"results/study/{path.name}")
    return {name: summary for name, summary in found.items() if summary is not None and "sets" in summary}


def shown_sets() -> list[tuple[str, str, dict]]:
    """Model, set and its summary, of `SHOWN` and of every model trained on a GPU."""
    found = models()
    more = [(model, "commonvoice_test") for model in found if model.startswith("gpu ")]
    pairs = [*SHOWN, *more]
    return [(model, name, found[model]["sets"][name]) for model, name in pairs if name in found[model]["sets"]]


def overthinking_rows() -> tuple[list[str], list[list[str]]]:
    """A row per model and set."""
    header = [
        "model",
        "set",
        "kind",
        "best inner",
        "last [95 %]",
        "utterances",
        "words lost",
        "oracle A",
    ]
    rows = []
    for model, name, one in shown_sets():
        wers, layers = one["wer_per_exit"], one["exit_layers"]
        best = int(np.argmin(wers[:-1]))
        words = one.get("words")
        rows.append(
            [
                model,
                name,
                KINDS[one["label"]],
                f"{number(wers[best])} at {layers[best]}",
                f"{number(wers[-1])} {set_interval(one['wer_interval_per_exit'][-1], one)}",
                f"{100 * one['overthinking']['inner_better_share']:.1f} %",
                f"{100 * words['destructive']:.1f} %" if words else "-",
                f"{number(one['oracle_a']['wer'])} @ {one['oracle_a']['depth']:.2f}",
            ]
        )
    return header, rows


def whole(wer: float, n_ref_words: int | None) -> float:
    """A WER of whole errors that was kept to three decimals, exactly: rounding twice would make 5.0453 into 5.04."""
    if n_ref_words is None:
        return wer
    exact = 100.0 * round(wer * n_ref_words / 100.0) / n_ref_words
    return exact if abs(exact - wer) < 0.0006 else wer


POLICIES = ("between(entropy)", "between(patience(1))", "lexical", "gain", "gain_words")


def policy_rows() -> tuple[list[str], list[list[str]]]:
    """Every policy minus the static line on every set in domain at the budget, calibrated on dev."""
    names = POLICIES
    rows = []
    for model, name, one in [row for row in shown_sets() if row[2]["label"] == "in_domain"]:
        found = [one["policies"].get(policy, {}).get("at_budget") for policy in names]
        static = next(at["static"] for at in found if at)
        rows.append([model, name, f"{number(static)} / {number(next(at['oracle_c'] for at in found if at))}"])
        rows[-1] += [brief(at, few=too_few_speakers(one)) for at in found]
    return ["model", "set", "static line / oracle C", *(f"`{name}`" for name in names)], rows


def brief(at: dict | None, *, few: bool = False) -> str:
    """Points below or above the static line at the same depth, and the share of the gap.

    Bold where the interval excludes 0, unless speakers are too few for that to say anything.
    """
    if at is None:
        return "-"
    one, gap = at["minus_static"], at.get("gap_closed")
    sure = not few and (one["low"] > 0 or one["high"] < 0)
    text = f"**{one['difference']:+.2f}**" if sure else f"{one['difference']:+.2f}"
    return text if gap is None else f"{text} ({100 * gap:.0f} %)"


def difference(one: dict, *, few: bool = False) -> str:
    """Points, with their interval; none where speakers are few."""
    if few:
        return f"{one['difference']:+.2f}, no interval"
    return f"{one['difference']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"


def fusion_rows() -> tuple[list[str], list[list[str]]]:
    """Exits fused, at full depth; of the models that lack a corpus, on it and on the two others."""
    rows = []
    for model, file in FUSED.items():
        summary = models()[model]
        for name, one in read(f"results/study/{file}.json").items():
            if name in FUSED_ON and (model in ("shipped", "small") or summary["sets"][name]["label"] == "ood"):
                last, its = one["exits"][-1], summary["sets"][name]
                numbers = [number(whole(last[key], its["n_ref_words"])) for key in ("alone", "wer")]
                numbers.append(difference(one["minus_last"], few=too_few_speakers(its)))
                rows.append([model, name, *numbers])
    for name, one in read("results/exit-traces/results.json")["fusion"].items():
        full = one["full_depth"]
        rows.append(["ee40", f"LibriSpeech test-{name}", number(full["static"]), number(full["wer"])])
        rows[-1].append(above_static(full))
    return ["model", "set", "last exit", "fused", "difference [95 %]"], rows


def above_static(one: dict) -> str:
    """Points above or below the static line, with their interval."""
    low, high = one["above_static_interval"]
    return difference({"difference": one["above_static"], "low": low, "high": high})
