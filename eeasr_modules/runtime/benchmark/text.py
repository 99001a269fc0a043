"""What `eeasr benchmark` prints and writes: Markdown for reading, CSV for the rest."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch

from eeasr_modules.common.files import write_aside
from eeasr_modules.runtime.benchmark.bench import Result, compared
from eeasr_modules.runtime.files.inputs import Material

LEGEND = (
    "Measured: WER, exit, layers run, seconds (median, range), CPU s (median), RTF, speed (median over repeats of the "
    "first line's time over this one's: {clock}), peak memory beyond what was there before.",
    "Computed: GMACs per second of audio (front end, layers, heads that were read; no padding).",
    "Exit and layers run are means weighted by duration; 'whole-batch break' stops a batch on its mean signal.",
)


def benchmark_markdown(
    results: Sequence[Result],
    material: Material,
    *,
    model: str,
    device: torch.device,
    threads: int,
    precision: str = "float32",
    command: str = "",
) -> str:
    """The tables, one per batch size, with what they were measured on.

    Arguments
    ---------
    command : str
        As it was typed; "" leaves it out.
    """
    on_gpu = device.type == "cuda"
    lines = [f"# Benchmark of {model}", ""]
    lines += [f"`{command}`", ""] if command else []
    lines += [machine_line(device, threads, precision), ""]
    lines += [
        f"{len(material.wavs)} utterances, {results[0].duration_s:.1f} s of audio; {len(results[0].seconds)} "
        "interleaved repeats.",
        *(f"- {note}" for note in material.notes),
    ]
    for batch in dict.fromkeys(one.batch for one in results):
        lines += ["", f"## Batch {batch}", ""]
        lines += _table([one for one in results if one.batch == batch], on_gpu=on_gpu)
    clock = "wall time" if on_gpu else "CPU time"
    return "\n".join([*lines, "", *(f"{line.format(clock=clock)}  " for line in LEGEND)]).rstrip() + "\n"


def _table(results: Sequence[Result], *, on_gpu: bool) -> list[str]:
    lines = [
        "| way | policy | WER (%) | exit | layers run | GMACs/s | seconds | CPU s | RTF | speed | peak MiB |",
        "|---|---|" + "---:|" * 9,
    ]
    for one in results:
        cells = [
            one.way,
            f"`{one.policy}`" if one.policy else "",
            _number(one.wer, 2),
            f"{one.exit_layer:.2f}",
            f"{one.layers_run:.2f}",
            f"{one.gmacs_per_s:.3f}",
            f"{np.median(one.seconds):.3f} ({min(one.seconds):.3f} to {max(one.seconds):.3f})",
            f"{np.median(one.cpu_s):.3f}",
            f"{one.rtf:.4f}",
            f"{compared(one, results[0], on_gpu=on_gpu):.2f}",
            _number(one.peak_mib, 0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def benchmark_csv(results: Sequence[Result], *, device: torch.device) -> str:
    """A row per way and batch size, seconds of every repeat joined by spaces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("way", "policy", "batch", "wer", "mean_exit_layer", "mean_layers_run", "gmacs_per_audio_s", "median_s")
        + ("median_cpu_s", "rtf", "speed", "peak_mib", "audio_s", "repeats_s", "repeats_cpu_s")
    )
    first = {one.batch: one for one in reversed(results)}
    for one in results:
        speed = compared(one, first[one.batch], on_gpu=device.type == "cuda")
        writer.writerow(
            [
                one.way,
                one.policy,
                one.batch,
                _number(one.wer, 4),
                f"{one.exit_layer:.4f}",
                f"{one.layers_run:.4f}",
                f"{one.gmacs_per_s:.5f}",
                f"{np.median(one.seconds):.5f}",
                f"{np.median(one.cpu_s):.5f}",
                f"{one.rtf:.6f}",
                f"{speed:.4f}",
                _number(one.peak_mib, 1),
                f"{one.duration_s:.3f}",
                " ".join(f"{value:.5f}" for value in one.seconds),
                " ".join(f"{value:.5f}" for value in one.cpu_s),
            ]
        )
    return text.getvalue()


def write_benchmark(folder: str | Path, markdown: str, table: str) -> list[Path]:
    """`benchmark.md` and `benchmark.csv`, written aside and renamed."""
    texts = {"benchmark.md": markdown, "benchmark.csv": table}
    return [write_aside(Path(folder) / name, text) for name, text in texts.items()]


def machine_line(device: torch.device, threads: int, precision: str) -> str:
    """Processor with its instructions, or GPU, threads, precision, versions and date."""
    import transformers

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()} ({isa()})"
    return (
        f"{name}, {threads} thread{'s' if threads > 1 else ''}, {precision}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}; {date.today().isoformat()}."
    )


def isa() -> str:
    """The vector instructions that torch found, and whether there are matrix units."""
    amx = "AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
    return f"{torch.backends.cpu.get_cpu_capability()}, {amx}"


def processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
