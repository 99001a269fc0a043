"""Whether stopping is for free: overhead, leaving at an exit, and batches whose utterances leave at mixed depths.

    python benchmarks/exit_time.py [--parts overhead,leaving,mixed] [--shapes base,large] [--batches 1,8] [--seconds 10]
        [--repeats 5]

wav2vec2-base and -large shapes with random weights, 29 tokens, noise, one thread, float32; the front end over the
padded batch, as transformers has it, so that only the walk is compared. Prints Markdown: medians over interleaved runs
of the ratio of CPU times within a run (a busy machine does not count), and their quartiles.

overhead: an exit after every layer; a policy that never leaves against transformers' own forward with head and greedy
decoder; the same policy reading a signal at every exit. leaving: everybody out at layer k against transformers' model
with k layers, its head and decoder. mixed: 16 utterances leave at different layers, against the sum over layers of a
layer's time at the batch size that remains, and against a batch that breaks as a whole when its last utterance wants
to; the front end is not in these times.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # as train.py does

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from eeasr_modules.data.text import CharVocabulary  # noqa: E402
from eeasr_modules.exits.policies.rules import Static  # noqa: E402
from eeasr_modules.exits.policies.text import parse_policy  # noqa: E402
from eeasr_modules.models import MultiExit  # noqa: E402
from eeasr_modules.models.walk import WalkState  # noqa: E402
from eeasr_modules.runtime import Engine  # noqa: E402
from eeasr_modules.runtime.benchmark.ways import Stock, greedy  # noqa: E402

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
SHAPES = {"base": {}, "large": LARGE}
READING = ("entropy(0)", "margin(2)", "any(entropy(0), patience(40, 0))")  # never true
DEPTHS = (4, 6, 6, 8, 8, 8, 10, 10, 10, 10, 10, 12, 12, 12, 12, 12)  # of 12; mean 9.4
PARTS = ("overhead", "leaving", "mixed")


@dataclass(frozen=True)
class Scheduled:
    """Utterance i of the batch leaves at its layer.

    Arguments
    ---------
    depths : tuple of int
        One per utterance.
    """

    depths: tuple[int, ...]
    needs: ClassVar[tuple[str, ...]] = ("exit_layer",)
    is_open: ClassVar[bool] = False

    def __str__(self) -> str:
        return "scheduled"

    def start(self, n: int) -> np.ndarray:
        """The layers at which to leave."""
        return np.array(self.depths)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop where the layer has come."""
        return signals["exit_layer"] >= state, state

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """No head."""
        return np.zeros(len(exit_layers), dtype=bool)


def build(shape: str, *, every: int, padded_front_end: bool = True) -> MultiExit:
    """A model of random weights whose heads say blank two times in three; an exit after every `every` layers."""
    torch.manual_seed(0)
    hf_config = {"model_type": "wav2vec2", **SHAPES[shape]}
    settings = {"encoder": "huggingface", "hf_config": hf_config, "normalise_wavs": False}
    settings["padded_front_end"] = padded_front_end
    n_layers = SHAPES[shape].get("num_hidden_layers", 12)
    exits = list(range(every, n_layers + 1, every))
    model = MultiExit({"encoder": settings, "exit_layers": exits, "n_tokens": 29, "blank_index": 0}).eval()
    for head in model.heads:
        head.projection.bias.data[0] += 2.0
    return model


def interleaved(ways: dict[str, Callable], *, repeats: int) -> dict[str, list[float]]:
    """Seconds of CPU time of each way, after a run that does not count; the order turns from run to run."""
    for way in ways.values():
        way()
    times, names = {name: [] for name in ways}, list(ways)
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            start = time.process_time()
            ways[name]()
            times[name].append(time.process_time() - start)
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> tuple[float, float, float]:
    """Median of the paired ratios, and their quartiles."""
    ratios = [a / b for a, b in zip(times[name], times[to], strict=True)]
    return statistics.median(ratios), *np.percentile(ratios, [25, 75]).tolist()


def line(what: str, found: tuple[float, float, float]) -> None:
    """Print a row of the table."""
    print(f"| {what} | {found[0]:.3f} | {found[1]:.3f} to {found[2]:.3f} |")
    sys.stdout.flush()


def stock_way(engine: Engine, wavs: torch.Tensor, n_samples: torch.Tensor, *, exit_index: int) -> Callable:
    """Transformers' forward up to an exit, its head and greedy decoder."""
    stock = Stock(engine.model, n_layers=engine.model.exit_layers[exit_index])

    def run() -> list[str]:
        hidden, n_frames = stock(wavs, n_samples)
        return greedy(engine, hidden, n_frames, exit_index=exit_index)

    return run


def inputs(batch: int, seconds: float) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Noise of equal lengths, and names."""
    wavs = torch.randn(batch, int(16000 * seconds), generator=torch.Generator().manual_seed(1)) * 0.1
    return wavs, torch.full((batch,), wavs.shape[1]), [f"u{i}" for i in range(batch)]


def overhead(shape: str, batch: int, options: argparse.Namespace) -> None:
    """Never leaving, with and without signals, against transformers."""
    model, vocabulary = build(shape, every=1), CharVocabulary()
    wavs, n_samples, names = inputs(batch, options.seconds)
    policies = {"never": Static(model.exit_layers[-1]), **{text: parse_policy(text) for text in READING}}
    engines = {name: Engine(model, vocabulary, policy=policy) for name, policy in policies.items()}
    ways = {"stock": stock_way(engines["never"], wavs, n_samples, exit_index=len(model.exit_layers) - 1)}
    for name, engine in engines.items():
        ways[name] = lambda engine=engine: engine.run(wavs, n_samples, utt_ids=names)
    assert [one.text for one in ways["never"]()] == ways["stock"]()  # the same work
    times = interleaved(ways, repeats=options.repeats)
    what = f"{shape}, batch {batch}"
    line(f"{what}: never leaving / transformers", ratio(times, "never", "stock"))
    for text in READING:
        found = ratio(times, text, "never")
        line(f"{what}: {text} at all {len(model.exit_layers)} exits / never leaving", found)


def leaving(shape: str, batch: int, options: argparse.Namespace) -> None:
    """Everybody out at layer k against a model of k layers."""
    model, vocabulary = build(shape, every=2), CharVocabulary()
    wavs, n_samples, names = inputs(batch, options.seconds)
    for k, layer in enumerate(model.exit_layers):
        engine = Engine(model, vocabulary, policy=Static(layer))
        stock = stock_way(engine, wavs, n_samples, exit_index=k)
        ways = {"stock": stock, "ours": lambda engine=engine: engine.run(wavs, n_samples, utt_ids=names)}
        times = interleaved(ways, repeats=options.repeats)
        what = f"{shape}, batch {batch}: all leave at layer {layer} / model of {layer} layers"
        line(what, ratio(times, "ours", "stock"))


def mixed(options: argparse.Namespace) -> None:
    """Sixteen utterances that leave at `DEPTHS`, on the base shape, after the front end."""
    model, vocabulary = build("base", every=2), CharVocabulary()
    encoder, (wavs, n_samples, names) = model.encoder, inputs(len(DEPTHS), options.seconds)
    ready = encoder.front_end(wavs, n_samples)
    encoder.front_end = lambda *_: WalkState(ready.hidden, ready.n_frames, ready.extra)
    left = {layer: sum(depth >= layer for depth in DEPTHS) for layer in range(1, max(DEPTHS) + 1)}

    def ideal() -> None:
        for layer, n in left.items():
            encoder.run_layer(layer, states[n])

    def ideal_heads() -> None:
        for k, layer in enumerate(model.exit_layers):
            if n := DEPTHS.count(layer):
                greedy(engines["ours"], states[n].hidden, states[n].n_frames, exit_index=k)

    counts = set(left.values()) | {DEPTHS.count(depth) for depth in DEPTHS}
    states = {n: encoder.refresh(WalkState(ready.hidden[:n].clone(), ready.n_frames[:n])) for n in counts}
    scheduled = {"ours": Scheduled(DEPTHS), "whole batch": Static(max(DEPTHS))}
    engines = {name: Engine(model, vocabulary, policy=policy) for name, policy in scheduled.items()}
    ways = {name: lambda e=e: e.run(wavs, n_samples, utt_ids=names) for name, e in engines.items()}
    times = interleaved({**ways, "ideal": ideal, "heads": ideal_heads}, repeats=options.repeats)
    what = f"base, batch 16, mean depth {np.mean(DEPTHS):.1f} of 12"
    line(f"{what}: ours, heads and words included / ideal layers", ratio(times, "ours", "ideal"))
    line(f"{what}: decoded heads alone / ideal layers", ratio(times, "heads", "ideal"))
    predicted = len(DEPTHS) * max(DEPTHS) / sum(DEPTHS)
    low, high = sorted(1 / value for value in ratio(times, "ours", "whole batch")[1:])
    found = 1 / ratio(times, "ours", "whole batch")[0]
    print(
        f"\nWhole-batch break / ours: {found:.3f} ({low:.3f} to {high:.3f}); the histogram predicts {predicted:.3f} "
        "(computed: layers of both)."
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--shapes", default="base,large")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    shapes, batches = options.shapes.split(","), [int(batch) for batch in options.batches.split(",")]
    torch.set_num_threads(1)
    print(f"{options.seconds:g} s of noise, {options.repeats} interleaved runs, torch {torch.__version__}, 1 thread\n")
    print("| what | median ratio | quartiles |")
    print("|---|---:|---:|")
    with torch.inference_mode():
        for part, measure in (("overhead", overhead), ("leaving", leaving)):
            if part in options.parts.split(","):
                for shape in shapes:
                    for batch in batches:
                        measure(shape, batch, options)
        if "mixed" in options.parts.split(","):
            mixed(options)


if __name__ == "__main__":
    main()
