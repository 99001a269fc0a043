"""From waveform to words at the same words: transformers, ONNX Runtime, OpenVINO, our runtime without and with exits.

    python benchmarks/end_to_end.py [--shapes base,large] [--seconds 10] [--repeats 5] [--traces TRACES]
                                    [--batch 1] [--threads 1] [--out results/end_to_end/README.md]

wav2vec2-base and -large shapes with random weights, an exit after every sixth of the layers, 29 tokens, noise.
Medians over interleaved rounds of CPU time (of wall clock with several threads), each way right after a run that does
not count, and, round by round, ratios with their quartiles.

Measured: every way; "products", the products of full depth in oneDNN and nothing else (no attention, norms or
activations); "leaving" at each exit, where the head and the entropy of every exit passed are read as a policy would;
and where the time of full depth goes. Peers run the stock forward and the last head, exported for this one shape;
their int8 is ONNX Runtime's dynamic quantisation of MatMul, ours that of torch. Computed: "exits", the mean of the
times of "leaving" by the shares of `SHARES`, within each round: how often the policy `gain`, cross-fitted on the
public exit traces of a trained wav2vec2-base (test-clean, budget 9.5 of 12 layers), leaves after each; it gave there
a WER 0.09 points above the last exit's. `--traces TRACES` works them out again; on "large" shapes the same relative
depths are used. The weights here are random, so times hold and words mean nothing.
"""

import argparse
import os
import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import ClassVar

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # as train.py does

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from exit_time import SHAPES, build, inputs, stock_way  # noqa: E402
from front_end import bare_products, convolution_sizes  # noqa: E402
from transformers import Wav2Vec2Config  # noqa: E402

from eeasr_modules.common.files import write_aside  # noqa: E402
from eeasr_modules.data.text import CharVocabulary  # noqa: E402
from eeasr_modules.exits.policies.rules import Static  # noqa: E402
from eeasr_modules.models import MultiExit  # noqa: E402
from eeasr_modules.models.device import isa, processor  # noqa: E402
from eeasr_modules.models.fast.switches import made_faster  # noqa: E402
from eeasr_modules.report.render.markdown import markdown_table  # noqa: E402
from eeasr_modules.runtime import Engine  # noqa: E402
from eeasr_modules.runtime.benchmark.ways import missing_peers, peer_ways  # noqa: E402

BUDGET = 9.5
SHARES = (0.0, 0.0015, 0.0363, 0.3405, 0.5011, 0.1206)
"""Of utterances, that leave after each sixth of the layers; from --traces."""
KINDS = {
    "products and what is fused in": (
        "_linear_pointwise",
        "::mm",
        "addmm",
        "bmm",
        "matmul",
        "linear",
        "onednn",
    ),
    "attention": ("scaled_dot_product", "_softmax"),
    "GELU": ("gelu",),
    "norms": ("layer_norm", "group_norm"),
    "copies and conversions": ("copy_", "cat", "clone", "contiguous"),
    "sums": ("::add", "::sub", "::mul", "::sum", "::div"),
    "transforms": ("fft",),
    "allocation": ("empty", "resize"),
}
"""Operators by what they are, the first that fits."""
ABOUT = (
    "Medians over interleaved rounds and quartiles, ratios round by round. *Stock*: transformers. *Full*: ours at full "
    "depth. *Exits*: ours, leaving as often after each exit as the policy `gain` does on public traces of a trained "
    "wav2vec 2.0 base (WER 0.09 points above the last exit's there), the head and entropy of every exit passed read; "
    "computed from the measured times of each exit, at the same relative depths on other shapes. *Products*: matrix "
    "products of full depth and nothing else. Peers run the stock forward and the last head, exported for this shape."
)


@dataclass(frozen=True)
class Leaves:
    """Everybody leaves after a layer; until then the head of every exit is read, and its entropy.

    Arguments
    ---------
    layer : int
        Of an exit.
    """

    layer: int
    needs: ClassVar[tuple[str, ...]] = ("entropy", "exit_layer")
    is_open: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"leaves({self.layer})"

    def start(self, n: int) -> np.ndarray:
        """Nothing to remember."""
        return np.zeros((n, 0))

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop at the layer, whatever the entropy is."""
        return (signals["exit_layer"] >= self.layer) & np.isfinite(signals["entropy"]), state

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """Every head."""
        return np.ones(len(exit_layers), dtype=bool)


def shares_of(traces: Path) -> tuple[float, ...]:
    """How often `gain` leaves after each exit of the traces, cross-fitted over speakers; prints WER and depth.

    Arguments
    ---------
    traces : Path
        Folder with `ee40`.
    """
    from eeasr_modules.exits import import_transcripts, parse_policy
    from eeasr_modules.exits.measure.exitbench import lines_of, point_numbers
    from eeasr_modules.exits.tuning.calibration import cross_fit

    table = import_transcripts(traces, "clean", model="ee40")
    (chosen,) = cross_fit(table, parse_policy("gain"), budgets=(BUDGET,)).exit_index
    point = point_numbers(table, chosen, lines=lines_of(table), errors=None)
    shares = tuple(np.bincount(chosen, minlength=table.n_exits) / len(chosen))
    print(
        f"`gain` at a budget of {BUDGET:g}: mean depth {point['depth']:.2f} of 12, WER {point['wer']:.2f} %, the last "
        f"exit's {table.wer_per_exit[-1]:.2f} %; shares {', '.join(f'{share:.4f}' for share in shares)}\n"
    )
    return shares


def products(shape: str, dtype: torch.dtype, *, seconds: float, batch: int) -> Callable:
    """The convolutions' products from the second layer on and the layers', one after the other.

    Arguments
    ---------
    shape : str
        Of `exit_time.SHAPES`.
    dtype : torch.dtype
        Of weights and inputs.
    seconds : float
        Of audio.
    batch : int
        Utterances, one below the other.
    """
    config = Wav2Vec2Config(**SHAPES[shape])
    dim, inner = config.hidden_size, config.intermediate_size
    convolutions = [(batch * frames, *size) for frames, *size in convolution_sizes(config, seconds)]
    frames = convolutions[-1][0]
    layer = [(frames, dim, 3 * dim), (frames, dim, dim), (frames, dim, inner), (frames, inner, dim)]
    convolve, run_layer = bare_products(convolutions, dtype), bare_products(layer, dtype)

    def run() -> None:
        convolve()
        for _ in range(config.num_hidden_layers):
            run_layer()

    return run


def ways_of(shape: str, shares: tuple[float, ...], *, seconds: float, batch: int, threads: int) -> dict[str, Callable]:
    """What is timed, by name; "leaving" is followed by precision and layer.

    Arguments
    ---------
    shape : str
        Of `exit_time.SHAPES`.
    shares : tuple of float
        Exits that nobody leaves at are not run.
    seconds : float
        Of noise.
    batch, threads : int
        Utterances at a time, and threads of the peers.
    """
    n_layers = SHAPES[shape].get("num_hidden_layers", 12)
    model = build(shape, every=n_layers // len(shares), padded_front_end=False)
    vocabulary = CharVocabulary()
    wavs, n_samples, names = inputs(batch, seconds)
    last = Static(n_layers)

    def stock(own: MultiExit, dtype: torch.dtype) -> Callable:
        engine = Engine(own.to(dtype), vocabulary, policy=last)
        return stock_way(engine, wavs.to(dtype), n_samples, exit_index=len(shares) - 1)

    def ours(own: MultiExit, precision: str, policy) -> Callable:
        engine = Engine(own, vocabulary, policy=policy, precision=precision)
        return lambda: engine.run(wavs, n_samples, utt_ids=names)

    ways: dict[str, Callable] = {
        "stock float32": stock(model, torch.float32),
        "stock bfloat16": stock(deepcopy(model), torch.bfloat16),
    }
    ways |= peer_ways(Engine(model, vocabulary, policy=last), wavs, n_samples, threads=threads, int8=shape == "base")
    for precision in ("float32", "bfloat16"):
        ways[f"products {precision}"] = products(shape, getattr(torch, precision), seconds=seconds, batch=batch)
        own = made_faster(deepcopy(model), front_end="fast", precision=precision)
        ways[f"full {precision}"] = ours(own, precision, last)
        for share, layer in zip(shares, own.exit_layers, strict=True):
            if share:
                ways[f"leaving {precision} {layer}"] = ours(own, precision, Leaves(layer))
    if shape == "base":  # the larger ones in all precisions need 18 GB
        ways["full int8"] = ours(made_faster(deepcopy(model), front_end="fast", precision="int8"), "int8", last)
    return ways


def rounds(ways: dict[str, Callable], *, repeats: int, clock: Callable[[], float]) -> dict[str, np.ndarray]:
    """Milliseconds of each way by round, each right after a run that does not count; the order turns."""
    times, names = {name: np.zeros(repeats) for name in ways}, list(ways)
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            ways[name]()  # its weights are where the last one's were not
            start = clock()
            ways[name]()
            times[name][repeat] = 1000 * (clock() - start)
    return times


def with_leaving(times: dict[str, np.ndarray], shares: tuple[float, ...]) -> dict[str, np.ndarray]:
    """The times, and "ours, leaving" of each precision: the mean over layers by how many leave there.

    Arguments
    ---------
    times : dict of str to np.ndarray of shape (rounds,)
        Of `rounds`.
    shares : tuple of float
        Sum 1.
    """
    found = dict(times)
    for precision in ("float32", "bfloat16"):
        own = [values for name, values in times.items() if name.startswith(f"leaving {precision} ")]
        weights = [share for share in shares if share]
        found[f"exits {precision}"] = np.average(own, axis=0, weights=weights)
    return found


def time_rows(shape: str, ways: dict[str, Callable]) -> list[list[str]]:
    """Shares, in percent, of the kinds of operators in full depth, and pages that the system hands out for a run."""
    rows = []
    for precision in ("float32", "bfloat16"):
        run, spent = ways[f"full {precision}"], dict.fromkeys([*KINDS, "the rest"], 0.0)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        run()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run()
        for event in profile.key_averages():
            kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), "the rest")
            spent[kind] += event.self_cpu_time_total
        shares = [f"{100 * one / sum(spent.values()):.1f}" for one in spent.values()]
        rows.append([shape, f"full {precision}", *shares, str(faults)])
    return rows


def way_rows(shape: str, times: dict[str, np.ndarray]) -> list[list[str]]:
    """Of every way milliseconds, how many times as fast as stock float32 it is, and ours with exits than it.

    Ratios are taken round by round; medians with their quartiles.
    """
    rows = []
    for name, values in times.items():
        if name.startswith("leaving"):
            continue
        exits = f"exits {'float32' if name.endswith('float32') else 'bfloat16'}"
        bare = name.startswith(("exits", "products"))
        cells = [shown(values, digits=0), shown(times["stock float32"] / values)]
        rows.append([shape, name, *cells, "" if bare else shown(values / times[exits])])
    return rows


def shown(values: np.ndarray, *, digits: int = 2) -> str:
    """The median and quartiles of rounds.

    Example
    -------
    >>> shown(np.array([1.0, 2.0, 3.0]))
    '2.00 [1.50, 2.50]'
    """
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="base,large")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also written here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shares = shares_of(options.traces) if options.traces else SHARES
    shares = tuple(share / sum(shares) for share in shares)
    taken, went = [], []
    clock = time.process_time if options.threads == 1 else time.perf_counter
    with torch.inference_mode():
        for shape in options.shapes.split(","):
            found = measured(shape, shares, options, clock=clock)
            for rows, of_shape in zip((taken, went), found, strict=True):
                rows += of_shape
            text = page(options, shares, taken, went)
            if options.out:  # after each shape, lest the next one takes it along
                write_aside(options.out, text)
    print(text)


def measured(shape: str, shares: tuple[float, ...], options: argparse.Namespace, *, clock: Callable) -> tuple:
    """Rows of one shape: times, and where the time goes."""
    ways = ways_of(shape, shares, seconds=options.seconds, batch=options.batch, threads=options.threads)
    times = with_leaving(rounds(ways, repeats=options.repeats, clock=clock), shares)
    return way_rows(shape, times), time_rows(shape, ways)


def page(options: argparse.Namespace, shares: tuple[float, ...], taken: list, went: list) -> str:
    """The results as Markdown."""
    first = options.out is None or options.out.name == "README.md"  # the others are read beside it
    threads, depth = options.threads, 12 * sum(share * (i + 1) for i, share in enumerate(shares)) / len(shares)
    clock = "CPU time" if threads == 1 else "wall clock"
    rows = [row for row in taken if first or not row[1].startswith("products")]
    parts = [
        "# From waveform to words, at the same words",
        "How much faster than transformers, ONNX Runtime and OpenVINO is this runtime, without and with exits? "
        + (
            f"Random weights and noise: times hold, words mean nothing. {ABOUT}" if first else "How: [base](README.md)."
        ),
        f"    python {shlex.join(['benchmarks/end_to_end.py', *sys.argv[1:]])}",
        f"{date.today().isoformat()}, {processor()} ({isa()}), torch {torch.__version__}, {threads} "
        f"thread{'s' if threads > 1 else ''}, batch {options.batch}, {options.seconds:g} s of noise, "
        f"{options.repeats} rounds, {clock}; mean depth of the exits {depth:.2f} of 12.",
        *(f"{line}." for line in missing_peers()),
        markdown_table(["shape", "way", "ms", "as fast as stock float32", "exits are so much faster"], rows, n_left=2),
    ]
    if first:
        parts += [
            "Where the time goes: percent of a run of full depth in torch's profiler; page faults of another.",
            markdown_table(["way", *KINDS, "the rest", "page faults"], [row[1:] for row in went]),
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
