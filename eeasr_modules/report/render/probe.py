"""What `eeasr probe` says of a checkpoint: does it overthink, by which reading, how surely; for a paper.

`tables.tex`, `figures.pdf`, `methods.md` and `probe.json`, from the exit tables and the report of every reading.
"""

import importlib.metadata
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.exits import ExitTable
from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS, compare_choices, holm
from eeasr_modules.report.render.markdown import markdown_table, number

PACKAGES = ("torch", "transformers", "speechbrain", "numpy", "scipy", "scikit-learn")
# part of a checkpoint's name -> what its card on the hub says that it was trained on
TRAINED_ON = {
    r"(^|/)wav2vec2-base-100h|ls100": "LibriSpeech train-clean-100 with transcripts",
    r"960h|ls960-ft": "LibriSpeech 960 h with transcripts",
    r"(hubert-base-ls960|wavlm-base)$": "LibriSpeech 960 h without transcripts",
    r"ll60k|lv60|(large|xlarge)-ls960-ft": "Libri-Light without transcripts",
    r"whisper": "680,000 h of transcribed speech from the internet, not listed",
    r"moonshine": "200,000 h of transcribed speech from the internet and open corpora (arXiv 2410.15608 lists these)",
    r"xls-r": "436,000 h in 128 languages without transcripts, Common Voice and Multilingual LibriSpeech among them",
    r"xlsr-53": "53 languages without transcripts, Common Voice among them",
    r"wavlm-(base-plus|large)": "Libri-Light, GigaSpeech and VoxPopuli without transcripts",
}


def known_training(checkpoint: str) -> str:
    """What a checkpoint with this name was trained on.

    Example
    -------
    >>> known_training("facebook/wav2vec2-base-960h"), known_training("mine")
    ('LibriSpeech 960 h with transcripts', 'not known')
    """
    found = [said for part, said in TRAINED_ON.items() if re.search(part, checkpoint.lower())]
    return "; ".join(found) or "not known"


def probe_numbers(readings: Mapping[str, tuple[ExitTable, Sequence[ExitTable]]]) -> dict[str, Any]:
    """WER and CER of every layer, over the seeds, and whether an inner layer chosen on dev beats the last.

    Returns dict: `layers`; `lens`, what reads them ("own decoder", "own head", null); `sets`, by name: `wer` and `cer`
    per layer of each reading, `over_seeds` and `cer_over_seeds` with mean and standard deviation (n - 1; null for one
    seed); `tests`: the inner layer of the lowest dev WER minus the last, with the interval over speakers and `holm_p`,
    adjusted over the sets of one reading: another seed asks the same questions again, and no more of them. Below
    `MIN_SPEAKERS` named speakers `verdict` is "no conclusion". `agreement`: per set, how many seeds come to each
    verdict.

    `readings`: dev and tests of each reading: `lens`, `seed_<n>`.
    """
    sets: dict[str, Any] = {}
    tests = []
    for reading, (dev, tables) in readings.items():
        inner = int(np.argmin(dev.wer_per_exit[:-1])) if dev.n_exits > 1 else 0
        for table in tables:
            one = sets.setdefault(table.metadata["set_name"], {"label": table.metadata["set_label"], "wer": {}})
            one["wer"][reading] = table.wer_per_exit.tolist()
            one.setdefault("cer", {})[reading] = [float(value) for value in table.cer_per_exit]
            tests.append({"reading": reading, "set": table.metadata["set_name"], **_against_last(table, inner)})
    for reading in readings:
        family = [row for row in tests if row["reading"] == reading]
        for row, p in zip(family, holm([row["bootstrap_p"] for row in family]), strict=True):
            row["holm_p"] = float(p) if np.isfinite(p) else None
            row["verdict"] = _verdict(row)
    for one in sets.values():
        for name, rates in (("over_seeds", one["wer"]), ("cer_over_seeds", one["cer"])):
            one[name] = _over_seeds([rates[reading] for reading in _seeds(readings)])
    dev = next(iter(readings.values()))[0]
    lens = None if "lens" not in readings else "own decoder" if dev.metadata.get("decoding") == "own" else "own head"
    of_seeds = [row for row in tests if row["reading"] in _seeds(readings)]
    agreement = {name: dict(Counter(row["verdict"] for row in of_seeds if row["set"] == name)) for name in sets}
    layers = [int(layer) for layer in dev.exit_layers]
    return {"layers": layers, "lens": lens, "sets": sets, "tests": tests, "agreement": agreement}


def _seeds(readings) -> list[str]:
    return [name for name in readings if name.startswith("seed_")]


def _against_last(table: ExitTable, inner: int) -> dict[str, Any]:
    errors = table.errors
    found = compare_choices(
        errors[:, inner],
        errors[:, -1],
        n_ref_words=table.n_ref_words,
        speakers=table.speakers,
        rng=np.random.default_rng(0),
    )
    n_speakers = len(set(table.speakers) - {""})
    better = float((errors[:, :-1].min(axis=1) < errors[:, -1]).mean()) if table.n_exits > 1 else 0.0
    return {"layer": int(table.exit_layers[inner]), "n_speakers": n_speakers, "overthought": better, **found.as_dict()}


def _verdict(row: Mapping[str, Any]) -> str:
    if row["n_speakers"] < MIN_SPEAKERS:
        return "no conclusion"
    if row["holm_p"] is None or row["holm_p"] > 0.05:
        return "no difference shown"
    return "overthinks" if row["difference"] < 0 else "the last layer is better"


def _over_seeds(wers: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    if not wers:
        return None
    spread = np.std(wers, axis=0, ddof=1).tolist() if len(wers) > 1 else None
    return {"n_seeds": len(wers), "mean": np.mean(wers, axis=0).tolist(), "sd": spread}


def layer_rows(numbers: Mapping[str, Any], *, rate: str = "wer") -> tuple[list[str], list[list[str]]]:
    """Header and rows of WER (or `cer`) per layer: the lens, the mean of the seeds, and their standard deviation."""
    rows = []
    for name, one in numbers["sets"].items():
        seeds = one["over_seeds" if rate == "wer" else "cer_over_seeds"]
        lines = {
            "lens": one[rate].get("lens"),
            "heads": seeds and seeds["mean"],
            "sd over seeds": seeds and seeds["sd"],
        }
        rows += [[name, what, *map(number, values)] for what, values in lines.items() if values]
    return ["set", "reading", *[f"layer {layer}" for layer in numbers["layers"]]], rows


def paired_rows(numbers: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paired tests: the inner layer of the lowest dev WER against the last."""
    rows = []
    for row in numbers["tests"]:
        p = "none" if row["holm_p"] is None else f"{row['holm_p']:.3f}"
        said = f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        if row["n_speakers"] < MIN_SPEAKERS:
            said, p = f"{row['difference']:+.2f}", "none"
        better = f"{100 * row['overthought']:.1f} %"
        rows.append([row["set"], row["reading"], str(row["layer"]), said, p, better, row["verdict"]])
    return ["set", "reading", "inner layer", "WER minus last", "p, Holm", "overthought", "verdict"], rows


def policy_numbers(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """WER and mean depth decided of every policy at the budget, and of the oracle: set -> policy -> reading."""
    found: dict[str, Any] = {}
    for reading, summary in summaries.items():
        for name, one in summary["sets"].items():
            points = {"last layer": (one["wer_per_exit"][-1], one["exit_layers"][-1])}
            for policy, said in one["policies"].items():
                if at := said.get("at_budget"):
                    points[policy] = (at["wer"], at["depth"])
            points["oracle (knows the reference)"] = (one["oracle_a"]["wer"], one["oracle_a"]["depth"])
            for policy, point in points.items():
                found.setdefault(name, {}).setdefault(policy, {})[reading] = list(point)
    return found


def policy_rows(numbers: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the policies: WER @ mean depth decided, of the lens and over the seeds that have it."""
    rows = []
    for name, policies in numbers["policies"].items():
        for policy in sorted(policies, key=lambda policy: policy.startswith("oracle")):
            by_reading = policies[policy]
            lens = by_reading.get("lens")
            seeds = np.array([by_reading[reading] for reading in _seeds(by_reading)])
            told = [f"{lens[0]:.2f} @ {lens[1]:.2f}" if lens else "", "", ""]
            if len(seeds):
                told[1] = "{:.2f} @ {:.2f}".format(*seeds.mean(axis=0))
            if len(seeds) > 1:
                told[2] = "{:.2f} @ {:.2f}".format(*seeds.std(axis=0, ddof=1))
            rows.append([name, policy, *told])
    return ["set", "policy", "lens", "heads, mean of seeds", "sd over seeds"], rows


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> str:
    """A `booktabs` table; text is escaped."""
    lines = [" & ".join(map(_tex, row)) + r" \\" for row in (header, *rows)]
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    columns = "ll" + "r" * (len(header) - 2)
    return (
        f"\\begin{{table}}\n\\caption{{{_tex(caption)}}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def _tex(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", str(text))


def draw_layers(numbers: Mapping[str, Any], path: Path) -> None:
    """WER and CER against layer for every set: the lens, up to 110 %, and the seeds with their range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets, layers = numbers["sets"], numbers["layers"]
    figure, axes = plt.subplots(2, len(sets), figsize=(4.5 * len(sets), 6.4), squeeze=False)
    for row, rate in zip(axes, ("wer", "cer"), strict=True):
        for axis, (name, one) in zip(row, sets.items(), strict=True):
            seeds = [values for reading, values in one[rate].items() if reading.startswith("seed_")]
            if "lens" in one[rate]:
                label = f"{numbers['lens']} (lens)"
                axis.plot(layers, one[rate]["lens"], "--", color="#4d4d4d", label=label)
            if seeds:
                axis.plot(layers, np.mean(seeds, axis=0), "o-", color="#2166ac", label="heads, mean of seeds")
                axis.fill_between(layers, np.min(seeds, axis=0), np.max(seeds, axis=0), color="#2166ac", alpha=0.25)
            highest = max(max(values) for values in one[rate].values())
            axis.set(title=name, xlabel="layer", ylabel=f"{rate.upper()} (%)", ylim=(0, min(1.05 * highest, 110) or 1))
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def write_probe(
    out: Path,
    readings: Mapping[str, tuple[ExitTable, Sequence[ExitTable]]],
    *,
    checkpoint: str,
    command: str,
    overlap: Mapping[str, tuple[int, int]],
    needs: str,
    summaries: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Write `probe.json`, `probe.md`, `tables.tex`, `figures.pdf` and `methods.md`.

    Returns dict: the content of `probe.json`. `checkpoint`, `command`, `needs`: what was probed, how, and what it was
    said to need. `overlap`: per set: speakers that training has too, utterances whose text it has too.
    """
    numbers = {"checkpoint": checkpoint, **probe_numbers(readings), "policies": policy_numbers(summaries)}
    tables = {
        "WER (%) after each layer": layer_rows(numbers),
        "CER (%) after each layer": layer_rows(numbers, rate="cer"),
        "The inner layer of the lowest dev WER against the last layer": paired_rows(numbers),
        "Policies at the budget: WER (%) @ mean layer at which they decide": policy_rows(numbers),
    }
    tex = [latex_table(*table, caption=caption) for caption, table in tables.items()]
    page = "\n\n".join(
        [
            f"# Does `{checkpoint}` overthink?",
            *(f"{caption}:\n\n{markdown_table(*table, n_left=2)}" for caption, table in tables.items()),
        ]
    )
    seeds = _seeds(readings)
    said = [
        f"{name}: " + ", ".join(f"{what} ({n} of {len(seeds)} seeds)" for what, n in verdicts.items())
        for name, verdicts in numbers["agreement"].items()
        if seeds
    ]
    note = "; ".join(said) + (". " if seeds else "")
    note += f"A set of fewer than {MIN_SPEAKERS} speakers has no interval and no conclusion. Policies: `*/report`."
    texts = {"probe.json": json.dumps(numbers, indent=1), "probe.md": f"{page}\n\n{note}", "tables.tex": "\n".join(tex)}
    about = {"checkpoint": checkpoint, "command": command, "overlap": overlap, "needs": needs}
    texts["methods.md"] = _methods(readings, lens=numbers["lens"], **about)
    for name, text in texts.items():
        (out / name).write_text(text + "\n", encoding="utf-8")
    draw_layers(numbers, out / "figures.pdf")
    return numbers


def _methods(readings, *, lens: str | None, checkpoint: str, command: str, overlap, needs: str) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    models = {name: dev.metadata["model_digest"][:16] for name, (dev, _) in readings.items()}
    _, tables = next(iter(readings.values()))
    sets = [
        [
            table.metadata["set_name"],
            table.metadata["set_label"],
            f"{table.n_utterances:,}",
            str(len(set(table.speakers) - {""})),
            f"{table.duration_s.sum() / 3600:.2f}",
            *map(str, overlap[table.metadata["set_name"]]),
            table.metadata["manifest_digest"][:16],
        ]
        for table in tables
    ]
    header = ["set", "kind", "utterances", "speakers", "hours", "speakers in training", "texts in training", "digest"]
    said = ["No lens: not asked for (--no-lens), or no decoder and no CTC head that spells the texts."]
    if lens is not None:
        own = {"own decoder": "decoder (greedy)", "own head": "CTC head"}[lens]
        said = [f"lens: the checkpoint's own {own} after every layer, with the encoder's final norm if any, untrained."]
    if lens == "own decoder":
        said.append("Numbers that the decoder writes in digits are spelled out as the references are.")
    if _seeds(readings):
        said.append(
            "Heads: one for each layer, trained by CTC on the frozen encoder's states, the same for all seeds; best "
            "epoch on dev."
        )
    again = ""
    if _seeds(readings):
        again = (
            "; seeds repeat the same tests with other heads, so that they form families of their own; how many of them "
            "come to each verdict is told beside them, with the standard deviation over seeds"
        )
    return "\n\n".join(
        [
            "# Methods",
            f"`{command}`",
            f"Checkpoint `{checkpoint}`; known to have been trained on: {known_training(checkpoint)}. {versions}.",
            "Readings: " + "; ".join(f"{name} (model {digest})" for name, digest in models.items()) + ".",
            " ".join([*said, "The encoder's weights never change."]),
            markdown_table(header, sets, n_left=2),
            "WER is summed errors over summed reference words. The inner layer is the one of the lowest WER on dev; it "
            "is compared with the last on the same utterances, intervals and p-values by drawing speakers anew (1,000 "
            "times). The tests of one reading, one for each set, form a family, in which p-values are adjusted (Holm "
            f"1979){again}. Costs of policies are those of the exit decided. Said before: {needs}.",
        ]
    )
