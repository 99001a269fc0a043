"""What bfloat16 and int8 change in the words of a model, and in processor time.

    python benchmarks/precision.py MODEL MANIFEST.csv... [--policy TEXT] [-o results/precision]

Every utterance goes through all precisions, one after another, the order turned by one from utterance to utterance; one
thread; files are decoded before. WER with its difference from float32's [95 % over speakers], transcripts and exits
unlike float32's, processor seconds over float32's. Saves `precision.json` and writes README.md beside it.
"""

# ruff: noqa: E402 (threads are told how to wait before torch is loaded)

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from eeasr_modules.compat import ensure_torchaudio, wait_passively

wait_passively()
ensure_torchaudio()

import numpy as np
import torch
from saved import json_lines
from tqdm import tqdm

from eeasr_modules.common.files import write_aside
from eeasr_modules.data.pipeline import AudioCache, manifest_items
from eeasr_modules.data.text import plain_words
from eeasr_modules.exits.measure.bootstrap import bootstrap_difference
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.models.device import isa
from eeasr_modules.report.render.markdown import markdown_table
from eeasr_modules.runtime import EarlyExitASR

PRECISIONS = ("float32", "bfloat16", "int8")


def measure(recognisers: dict[str, EarlyExitASR], items: dict[str, dict], *, title: str) -> dict[str, dict]:
    """By precision: errors, texts, exits and seconds of every utterance."""
    read, names = AudioCache(2000, sample_rate=16000), list(recognisers)
    found = {name: {"errors": [], "texts": [], "exits": [], "s": []} for name in names}
    wavs = [read(item["wav"]).numpy() for item in items.values()]
    for asr in recognisers.values():
        asr.transcribe(wavs[0])  # warm
    for number, (item, wav) in enumerate(tqdm(list(zip(items.values(), wavs, strict=True)), desc=title)):
        for at in range(len(names)):
            name = names[(number + at) % len(names)]
            start = time.process_time()
            said = recognisers[name].transcribe(wav)
            one = found[name]
            one["s"].append(time.process_time() - start)
            one["errors"].append(sum(count_edits(item["words"], plain_words(said.text))))
            one["texts"].append(said.text)
            one["exits"].append(said.exit_layer)
    return found


def summary(found: dict[str, dict], items: dict[str, dict]) -> dict[str, dict]:
    """Numbers of each precision against the first."""
    rng, first = np.random.default_rng(0), found[PRECISIONS[0]]
    n_words = np.array([len(item["words"].split()) for item in items.values()])
    speakers = np.array([item["speaker"] for item in items.values()])
    made = {}
    for name, one in found.items():
        pair = np.array(one["errors"]), np.array(first["errors"])
        gap = bootstrap_difference(*pair, n_ref_words=n_words, speakers=speakers, rng=rng)
        ratios = np.array(one["s"]) / np.array(first["s"])
        made[name] = {
            "wer": round(100 * sum(one["errors"]) / int(n_words.sum()), 3),
            "minus_float32": [round(value, 3) for value in (gap.estimate, gap.low, gap.high)],
            "texts_changed": sum(a != b for a, b in zip(one["texts"], first["texts"], strict=True)),
            "exits_changed": sum(a != b for a, b in zip(one["exits"], first["exits"], strict=True)),
            "ratio": [round(sum(one["s"]) / sum(first["s"]), 3), *np.percentile(ratios, [25, 75]).round(3).tolist()],
        }
    return made


def page(saved: dict) -> str:
    """The README."""
    rows = [
        (
            name,
            str(one["n"]),
            precision,
            f"{got['wer']:.2f}",
            "" if precision == PRECISIONS[0] else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*got["minus_float32"]),
            str(got["texts_changed"]),
            str(got["exits_changed"]),
            "{:.2f} [{:.2f}, {:.2f}]".format(*got["ratio"]),
        )
        for name, one in saved["sets"].items()
        for precision, got in one["precisions"].items()
    ]
    header = ("set", "utterances", "precision", "WER", "minus float32", "other words", "other exits", "seconds")
    return "\n".join(
        [
            "# What fewer bits change",
            "",
            f"`{saved['model']}` by `{saved['policy']}`, one at a time, one thread, {saved['isa']}. WER in percent,",
            "minus float32's [95 % over speakers]; utterances with other words, and that left elsewhere; processor",
            "seconds over float32's [quartiles over utterances], a ratio of one run.",
            "",
            markdown_table(header, rows),
            "",
            f"    {saved['command']}",
            "",
            f"{saved['date']}, torch {saved['torch']}.",
            "",
        ]
    )


def main() -> None:
    """Measure, save, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder")
    parser.add_argument("manifests", nargs="+", type=Path, help="of test sets")
    parser.add_argument("--policy", help="default: the model's first")
    parser.add_argument("--limit", type=int, help="utterances of a set, evenly spaced")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "results" / "precision")
    options = parser.parse_args()
    torch.set_num_threads(1)
    common = {"policy": options.policy, "device": "cpu"}
    recognisers = {one: EarlyExitASR.from_pretrained(options.model, precision=one, **common) for one in PRECISIONS}
    words = [Path(word).name if Path(word).suffix == ".csv" else word for word in sys.argv[1:]]
    saved = {
        "model": options.model,
        "policy": recognisers[PRECISIONS[0]].rule,
        "isa": isa(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/precision.py", *words]),
        "sets": {},
    }
    for manifest in options.manifests:
        items = manifest_items([manifest], limit=options.limit)
        found = measure(recognisers, items, title=manifest.stem)
        saved["sets"][manifest.stem] = {"n": len(items), "precisions": summary(found, items)}
        options.output.mkdir(parents=True, exist_ok=True)
        write_aside(options.output / "precision.json", json_lines(saved, depth=4))
        write_aside(options.output / "README.md", page(saved))
    print(json.dumps(saved["sets"], indent=1))


if __name__ == "__main__":
    main()
