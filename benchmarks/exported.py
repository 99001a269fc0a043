"""An export against the torch runtime: transcripts, WER and processor time.

    python benchmarks/exported.py --audio runs/mini/manifests/spoken_test.csv ... [--policy gain] [--write]

MODEL (default: the shipped one) is exported with int8 graphs beside the float32 ones and checked on each manifest with
the policy. Then, on the first manifest, one recording at a time and one thread: processor time, medians of interleaved
repeats. `--write` puts the tables into `docs/export.md`.
"""

# ruff: noqa: E402 (torchaudio is mended before it is imported)
import argparse
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

from eeasr_modules.compat import ensure_torchaudio

ensure_torchaudio()

import numpy as np
import torch

from eeasr_modules.common.files import write_aside
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.runtime.files.inputs import read_material
from eeasr_modules.runtime.onnx.export import check_export, export_model
from eeasr_modules.runtime.onnx.loop import OnnxASR

BEGIN, END = "<!-- exported: written by benchmarks/exported.py -->", "<!-- /exported -->"


def checked(model: str, export: Path, manifest: str) -> list[str]:
    """Rows of one set: WER, and how many transcripts and exits differ from torch."""
    found = check_export(model, export, [manifest])
    name, n = Path(manifest).stem, found["n_utterances"]
    rows = []
    for precision in ("float32", "int8"):
        one = found[precision]
        rows.append(
            f"| {name} | ONNX {precision} | {one['n_other_transcripts']} of {n} | {one['n_other_exits']} "
            f"| {one['wer']:.2f} ({found['torch_wer']:.2f}) |"
        )
    return rows


def timed(model: str, export: Path, manifest: str, *, policy: str, repeats: int, utterances: int) -> list[str]:
    """Lines that say how many times as fast as torch the graphs are."""
    wavs = [np.asarray(wav) for wav in read_material([manifest], sample_rate=16000).wavs[:utterances]]
    ways = {"torch": EarlyExitASR.from_pretrained(model, device="cpu", policy=policy)}
    ways |= {f"ONNX {one}": OnnxASR(export, precision=one) for one in ("float32", "int8")}
    seconds = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            for wav in wavs:
                way.transcribe(wav)
            if repeat:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    base = statistics.median(seconds["torch"])
    return [
        f"| {name} | {base / statistics.median(taken):.2f} | {base / max(taken):.2f} to {base / min(taken):.2f} |"
        for name, taken in seconds.items()
    ]


def main():
    """Command line."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", nargs="+", required=True, metavar="MANIFEST")
    parser.add_argument("--model", default=str(root / "eeasr_modules/shipped/base"))
    parser.add_argument("--policy", default="gain", help="one that the export computes")
    parser.add_argument("--write", action="store_true", help="the tables into docs/export.md")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--utterances", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder) / "export"
        export_model(options.model, export, int8=True, policy=options.policy)
        megabytes = {
            precision: sum(path.stat().st_size for path in export.glob("*.onnx") if ("int8" in path.name) == is_int8)
            / 1e6
            for precision, is_int8 in (("float32", False), ("int8", True))
        }
        lines = [
            "| set | | transcripts unlike torch | exits unlike torch | WER (torch's) |",
            "|---|---|---:|---:|---:|",
        ]
        for manifest in options.audio:
            lines += checked(options.model, export, manifest)
        lines += ["", "| | times as fast as torch | spread |", "|---|---:|---:|"]
        shape = {"policy": options.policy, "repeats": options.repeats, "utterances": options.utterances}
        lines += timed(options.model, export, options.audio[0], **shape)
    sizes = ", ".join(f"{precision} {size:.1f} MB" for precision, size in megabytes.items())
    lines += ["", f"One thread, {torch.backends.cpu.get_cpu_capability()}, {date.today()}. Graphs: {sizes}."]
    print("\n".join(lines))
    if options.write:
        page = root / "docs" / "export.md"
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        write_aside(page, "\n".join([before + BEGIN, "", *lines, "", END + rest.split(END)[1]]))


if __name__ == "__main__":
    main()
