"""From waveform to words, at the same words: transformers, our runtime at full depth, and our runtime with exits.

    python benchmarks/end_to_end.py [--shapes base,large] [--seconds 10] [--repeats 5] [--traces TRACES]

wav2vec2-base and -large shapes with random weights, an exit after every sixth of the layers, 29 tokens, noise, batch 1,
one thread. Prints Markdown: medians of CPU time over interleaved runs and, round by round, ratios with their quartiles.

Measured: every way, the bare products of full depth in oneDNN (no attention, norms or activations: what is left when
all else costs nothing), and ours leaving at each exit, where the head and the entropy of every exit passed are read as
a policy would. Computed: the time of "exits", the mean of those times by the shares of `SHARES`, within each round.
Those are how often the policy `gain`, cross-fitted on the public exit traces of a trained wav2vec2-base
(test-clean, budget 9.5 of 12 layers), leaves after each; it gave there a WER 0.09 points above the last exit's.
`--traces TRACES` works them out again; on "large" shapes the same relative depths are used. The weights here are
random, so times hold and words mean nothing.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
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

from eeasr_modules.data.text import CharVocabulary  # noqa: E402
from eeasr_modules.exits.policies.rules import Static  # noqa: E402
from eeasr_modules.models import MultiExit  # noqa: E402
from eeasr_modules.models.fast.switches import made_faster  # noqa: E402
from eeasr_modules.report.render.tables import markdown_table  # noqa: E402
from eeasr_modules.runtime import Engine  # noqa: E402
from eeasr_modules.runtime.benchmark.peers import missing_peers, peer_ways  # noqa: E402

BUDGET = 9.5
SHARES = (0.0, 0.0015, 0.0363, 0.3405, 0.5011, 0.1206)
"""Of utterances, that leave after each sixth of the layers; from --traces."""


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


def products(shape: str, dtype: torch.dtype, *, seconds: float) -> Callable:
    """The convolutions' products from the second layer on and the layers', one after the other.

    Arguments
    ---------
    shape : str
        Of `exit_time.SHAPES`.
    dtype : torch.dtype
        Of weights and inputs.
    seconds : float
        Of audio.
    """
    config = Wav2Vec2Config(**SHAPES[shape])
    dim, inner = config.hidden_size, config.intermediate_size
    convolutions = convolution_sizes(config, seconds)
    frames = convolutions[-1][0]
    layer = [(frames, dim, 3 * dim), (frames, dim, dim), (frames, dim, inner), (frames, inner, dim)]
    convolve, run_layer = bare_products(convolutions, dtype), bare_products(layer, dtype)

    def run() -> None:
        convolve()
        for _ in range(config.num_hidden_layers):
            run_layer()

    return run


def ways_of(shape: str, shares: tuple[float, ...], *, seconds: float) -> dict[str, Callable]:
    """What is timed, by name; "leaving" is followed by precision and layer.

    Arguments
    ---------
    shape : str
        Of `exit_time.SHAPES`.
    shares : tuple of float
        Exits that nobody leaves at are not run.
    seconds : float
        Of noise.
    """
    n_layers = SHAPES[shape].get("num_hidden_layers", 12)
    model = build(shape, every=n_layers // len(shares), padded_front_end=False)
    vocabulary = CharVocabulary()
    wavs, n_samples, names = inputs(1, seconds)
    last = Static(n_layers)

    def stock(own: MultiExit, dtype: torch.dtype) -> Callable:
        engine = Engine(own.to(dtype), vocabulary, policy=last)
        return stock_way(engine, wavs.to(dtype), n_samples, exit_index=len(shares) - 1)

    def ours(own: MultiExit, precision: str, policy) -> Callable:
        engine = Engine(own, vocabulary, policy=policy, precision=precision)
        return lambda: engine.run(wavs, n_samples, utt_ids=names)

    ways: dict[str, Callable] = {
        "stock float32": stock(deepcopy(model), torch.float32),
        "stock bfloat16": stock(deepcopy(model), torch.bfloat16),
    }
    ways |= peer_ways(Engine(deepcopy(model), vocabulary, policy=last), wavs, n_samples)
    for precision in ("float32", "bfloat16"):
        ways[f"products {precision}"] = products(shape, getattr(torch, precision), seconds=seconds)
        own = made_faster(deepcopy(model), front_end="fast", precision=precision)
        ways[f"full {precision}"] = ours(own, precision, last)
        for share, layer in zip(shares, own.exit_layers, strict=True):
            if share:
                ways[f"leaving {precision} {layer}"] = ours(own, precision, Leaves(layer))
    return ways


def rounds(ways: dict[str, Callable], *, repeats: int) -> dict[str, np.ndarray]:
    """Milliseconds of CPU time of each way by round, after a run that does not count; the order turns."""
    for way in ways.values():
        way()
    times, names = {name: np.zeros(repeats) for name in ways}, list(ways)
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            start = time.process_time()
            ways[name]()
            times[name][repeat] = 1000 * (time.process_time() - start)
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


def ratio_rows(shape: str, times: dict[str, np.ndarray]) -> list[list[str]]:
    """The medians of the rounds' ratios and their quartiles."""
    pairs = {
        "float32 / stock float32": ("stock float32", "exits float32"),
        "of that engineering": ("stock float32", "full float32"),
        "of that exits": ("full float32", "exits float32"),
        "bfloat16 / stock float32": ("stock float32", "exits bfloat16"),
        "bfloat16 / stock bfloat16": ("stock bfloat16", "exits bfloat16"),
        "of that engineering, bfloat16": ("stock bfloat16", "full bfloat16"),
        "exits alone": ("full bfloat16", "exits bfloat16"),
        "bare products, float32": ("stock float32", "products float32"),
        "bare products, bfloat16": ("stock float32", "products bfloat16"),
    }
    for peer in (name for name in times if name.startswith(("ONNX Runtime", "OpenVINO"))):
        pairs[f"{peer} / stock float32"] = ("stock float32", peer)
        precision = "float32" if peer.endswith("float32") else "bfloat16"
        pairs[f"full {precision} / {peer}"] = (peer, f"full {precision}")
    rows = []
    for what, (slow, fast) in pairs.items():
        ratios = times[slow] / times[fast]
        low, high = np.percentile(ratios, [25, 75])
        rows.append([shape, what, f"{slow} / {fast}", f"{np.median(ratios):.2f}", f"{low:.2f} to {high:.2f}"])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="base,large")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--traces", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shares = shares_of(options.traces) if options.traces else SHARES
    shares = tuple(share / sum(shares) for share in shares)
    depth = 12 * sum(share * (i + 1) for i, share in enumerate(shares)) / len(shares)
    print(f"{options.seconds:g} s of noise, batch 1, {options.repeats} rounds, torch {torch.__version__}, 1 thread;")
    print(f"{torch.backends.cpu.get_cpu_capability()}, {'AMX' if torch.cpu._is_amx_tile_supported() else 'no AMX'};")
    print(f"leaving after each sixth of the layers: {', '.join(f'{100 * share:.1f} %' for share in shares)}")
    print(f"(mean depth {depth:.2f} of 12)\n")
    print("".join(f"{line}.\n" for line in missing_peers()))
    taken, ratios = [], []
    with torch.inference_mode():
        for shape in options.shapes.split(","):
            times = with_leaving(
                rounds(ways_of(shape, shares, seconds=options.seconds), repeats=options.repeats), shares
            )
            for name, values in times.items():
                low, high = np.percentile(values, [25, 75])
                how = "computed" if name.startswith("exits") else "measured"
                taken.append([shape, name, how, f"{np.median(values):.0f}", f"{low:.0f} to {high:.0f}"])
            ratios += ratio_rows(shape, times)
    print(markdown_table(["shape", "way", "", "CPU ms", "quartiles"], taken), "\n")
    header = ["shape", "times as fast", "measured as", "median", "quartiles"]
    print(markdown_table(header, ratios))


if __name__ == "__main__":
    main()
