"""`eeasr benchmark`: every way of transcribing timed in one run, side by side.

Repeats are interleaved (each way once, then each again, the order turning), so that what else the machine does falls
on all alike, and ways are compared repeat by repeat. Batches are of similar length, the same ones for every way. What
came out is written as Markdown for reading and CSV for the rest.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import io
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch

from eeasr_modules.common.files import write_aside
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.policies.text import parse_policies
from eeasr_modules.exits.tables.plain_transcripts import NORMALISERS
from eeasr_modules.models.device import computed_in, isa, processor, wait_for
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime.benchmark.ways import Heard, Way, all_ways
from eeasr_modules.runtime.files.inputs import Material
from eeasr_modules.runtime.recogniser import EarlyExitASR

NORMALISER = "upper"
LEGEND = (
    "Seconds: median (range); speed: median over repeats of the first line's {clock} over this one's; GMACs/s are "
    "computed, all else is measured (docs/benchmark.md)."
)


@dataclass(frozen=True, eq=False)
class Result:
    """One way at one batch size."""

    way: str
    policy: str  # what decided; "" where nothing did
    batch: int  # utterances in a batch
    wer: float | None  # percent, over the utterances that have a reference
    exit_layer: float  # mean over utterances, weighted by duration, of the layer whose transcript came out
    layers_run: float  # the same mean of the layers that ran
    # computed: 10^9 multiply-accumulates per second of audio (front end, layers, heads), without padding
    gmacs_per_s: float
    seconds: tuple[float, ...]  # wall time of the whole material, one per repeat
    cpu_s: tuple[float, ...]  # CPU time of the process likewise
    duration_s: float
    peak_mib: float | None  # most memory beyond what was there before, in 2^20 bytes; None where it cannot be read

    @property
    def rtf(self) -> float:
        """Median seconds per second of audio."""
        return float(np.median(self.seconds)) / self.duration_s


def bench_policies(asr: EarlyExitASR, text: str | None, *, budget: float | None) -> list[Policy]:
    """Policies to time, with their numbers. ValueError as of `choose_policy`.

    `text`: policies with commas between them; None for the model's own first one, none where it has only one exit.
    """
    source = asr.source
    source.refuse_own_decoder("eeasr benchmark")
    if text is None:
        if not source.calibrated and budget is None:
            return []
        return [source.policy(None, budget=budget)]
    return [source.policy(str(one), budget=budget if one.is_open else None) for one in parse_policies(text)]


def run_benchmark(
    asr: EarlyExitASR,
    material: Material,
    policies: Sequence[Policy],
    *,
    batches: Sequence[int] = (1, 8, 32),
    repeats: int = 5,
    threads: int = 1,
    normaliser: str = NORMALISER,
    keep: Callable[[Way], bool] = lambda way: True,
    beside: Sequence[Way] = (),
    progress: Callable[[str], object] = lambda line: None,
) -> list[Result]:
    """Time every way at every batch size.

    Returns: batch by batch; the first way of each is what others are compared with. ValueError when a number is below
    1, or there is no such normaliser.

    Arguments
    ---------
    asr : EarlyExitASR
        The model; its own policy is not used.
    repeats : int
        Timed ones; before them a batch that warms up, and a pass that takes down transcripts and memory.
    normaliser : str
        For references and transcripts: one of `exits.tables.plain_transcripts.NORMALISERS`.
    beside : sequence of Way
        Timed as well, last, such as those of `peers_beside`.
    """
    for name, value in (("batch", min(batches, default=0)), ("repeats", repeats), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if normaliser not in NORMALISERS:
        raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}, got {normaliser!r}")
    engine, results = asr.engine, []
    ways = [*(way for way in all_ways(engine, policies) if keep(way)), *beside]
    with _threads(threads), computed_in(engine.precision, engine.device):  # every way, not ours alone
        for batch in batches:
            bench = _Bench(material, batch, engine.device, engine.sample_rate)
            timed = [way for way in ways if batch >= way.least_batch]
            for number, way in enumerate(timed, start=1):
                progress(f"batch {batch}: looking at {number} of {len(timed)} ways")
                bench.look_at(way)
            for repeat in range(repeats):
                progress(f"batch {batch}: repeat {repeat + 1} of {repeats}")
                start = repeat % len(timed)
                for way in timed[start:] + timed[:start]:
                    bench.time(way)
            results += [bench.result(way, engine.model, normaliser) for way in timed]
    return results


class _Bench:
    """One batch size: the batches, and what was seen of each way."""

    def __init__(self, material: Material, batch: int, device: torch.device, sample_rate: int):
        self.material, self.batch, self.device, self.sample_rate = material, batch, device, sample_rate
        self.n_samples = np.array([len(wav) for wav in material.wavs])
        order = np.argsort(-self.n_samples, kind="stable")
        self.rows = [order[i : i + batch] for i in range(0, len(order), batch)]
        self.batches = [self._padded(rows) for rows in self.rows]
        self.heard: dict[Way, list[Heard]] = {}
        self.peak_mib: dict[Way, float | None] = {}
        self.times: dict[Way, list[tuple[float, float]]] = {}

    def _padded(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        wavs = torch.nn.utils.rnn.pad_sequence([self.material.wavs[i] for i in rows], batch_first=True)
        return wavs, torch.from_numpy(self.n_samples[rows]), [self.material.utt_ids[i] for i in rows]

    def look_at(self, way: Way) -> None:
        """Warm up, then note transcripts and memory."""
        way.run(*self.batches[0])
        self.times[way] = []
        with _peak_memory(self.device) as grown:
            said = [way.run(*batch) for batch in self.batches]
        self.peak_mib[way] = grown[0]
        heard: list[Heard | None] = [None] * len(self.n_samples)
        for rows, ones in zip(self.rows, said, strict=True):
            for i, one in zip(rows, ones, strict=True):
                heard[i] = one
        self.heard[way] = heard

    def time(self, way: Way) -> None:
        """One repeat."""
        wait_for(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in self.batches:
            way.run(*batch)
        wait_for(self.device)
        self.times[way].append((time.perf_counter() - wall, time.process_time() - cpu))

    def result(self, way: Way, model: MultiExit, normaliser: str) -> Result:
        """What was seen of a way."""
        heard = self.heard[way]
        seconds = self.n_samples / self.sample_rate
        macs = sum(_macs(model, int(n), one, way.reads) for n, one in zip(self.n_samples, heard, strict=True))
        return Result(
            way.name,
            way.policy,
            self.batch,
            _wer([one.text for one in heard], self.material.references, NORMALISERS[normaliser]),
            float(np.average([one.exit_layer for one in heard], weights=seconds)),
            float(np.average([one.layers_run for one in heard], weights=seconds)),
            macs / float(seconds.sum()) / 1e9,
            tuple(wall for wall, _ in self.times[way]),
            tuple(cpu for _, cpu in self.times[way]),
            float(seconds.sum()),
            self.peak_mib[way],
        )


def _macs(model: MultiExit, n_samples: int, heard: Heard, reads: Sequence[bool]) -> float:
    """Front end, the layers that ran, the heads read on the way, and the one that gave the transcript."""
    layers, (_, heads) = model.exit_layers, model.macs(n_samples)
    n_frames = int(model.encoder.frames_for(n_samples))
    emitting = layers.index(heard.exit_layer)
    read = {k for k, layer in enumerate(layers) if reads[k] and layer <= heard.layers_run} | {emitting}
    body = model.encoder.front_end_macs(n_samples) + heard.layers_run * model.encoder.layer_macs(n_frames)
    return body + model.told_macs(n_frames, n_layers=heard.layers_run) + sum(heads[k] for k in read)


def _wer(texts: Sequence[str], references: Sequence[str | None], normal: Callable[[str], str]) -> float | None:
    pairs = [(normal(said), normal(text)) for said, text in zip(references, texts, strict=True) if said is not None]
    n_words = sum(len(said.split()) for said, _ in pairs)
    return 100 * sum(sum(count_edits(*pair)) for pair in pairs) / n_words if n_words else None


def compared(result: Result, reference: Result, *, on_gpu: bool) -> float:
    """Median over repeats of the reference's time over this one's: above 1 is faster.

    `on_gpu`: compare wall times; CPU times otherwise, in which what else the machine does counts less.
    """
    ours, theirs = ((one.seconds if on_gpu else one.cpu_s) for one in (result, reference))
    return float(np.median([b / max(a, 1e-9) for a, b in zip(ours, theirs, strict=True)]))


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _peak_memory(device: torch.device) -> Iterator[list[float | None]]:
    """Most memory beyond what was there, in MiB, as the only item of a list that is filled at the end."""
    grown: list[float | None] = [None]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield grown
        grown[0] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    _trim()
    can_reset = _reset_peak()
    before = _resident().get("VmRSS")
    yield grown
    peak = _resident().get("VmHWM")
    if can_reset and before is not None and peak is not None:
        grown[0] = max(0.0, peak - before)


def _reset_peak() -> bool:
    """Linux: let the process's highest resident memory begin anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _trim() -> None:
    """Give freed memory back to the system, so that a later way does not hide in what an earlier one left."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> Mapping[str, float]:
    """Lines of /proc/self/status that count memory, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith("Vm"))
    return {name.rstrip(":"): int(kib) / 1024 for name, kib, *_ in fields}


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

    `command`: as it was typed; "" leaves it out.
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
    return "\n".join([*lines, "", LEGEND.format(clock=clock)]) + "\n"


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
