"""The faster front end and layers against stock and torch.compile: times, ratios, largest differences.

    python benchmarks/front_end.py [--shapes base,large] [--seconds 10] [--repeats 15] [--layers float32,bfloat16]

Random weights and noise (times and differences depend on neither much), one thread. Prints Markdown: medians of
interleaved runs in milliseconds of CPU time, the median of each round's ratio to stock float32, and the largest
difference from it, with the output's standard deviation for scale. "bare products": the convolutions' products from the
second layer on in oneDNN, one after the other and nothing else, which is what any way of computing them all takes at
least. Measured in this one run on this one machine.

`--layers` instead times two layers, as they lie between two exits: stock, faster, and stock by torch.compile for
any length, as it is and with its weights frozen (constants that the compiler lays out anew); bfloat16 is autocast's.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # as train.py does

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import torch  # noqa: E402
from transformers import Wav2Vec2Config, Wav2Vec2Model  # noqa: E402

from eeasr_modules.models.fast.front_end import faster_front_end  # noqa: E402
from eeasr_modules.models.fast.layers import faster_layers  # noqa: E402

LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
SHAPES = {"base": {}, "large": {**LARGE, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}}
STOCK = "stock float32"


def tasks_of(shape: str, *, seconds: float) -> dict[str, dict[str, Callable[[], torch.Tensor]]]:
    """What is timed: by part, then by name, stock float32 first."""
    torch.manual_seed(0)
    stock = Wav2Vec2Model(Wav2Vec2Config(num_hidden_layers=1, **SHAPES[shape])).eval()
    models = {
        STOCK: stock,
        "faster float32": faster_front_end(deepcopy(stock)),
        "stock bfloat16": deepcopy(stock).to(torch.bfloat16),
        "faster bfloat16": faster_front_end(deepcopy(stock), precision="bfloat16"),
    }
    wav = torch.randn(1, int(16000 * seconds))
    hidden = torch.randn(1, int(50 * seconds) - 1, stock.config.hidden_size)

    def convolutions(model: Wav2Vec2Model) -> Callable[[], torch.Tensor]:
        return lambda: model.feature_extractor(wav.to(model.dtype))

    def positions(model: Wav2Vec2Model) -> Callable[[], torch.Tensor]:
        return lambda: model.encoder.pos_conv_embed(hidden.to(model.dtype))

    tasks = {
        part: {name: task(model) for name, model in models.items()}
        for part, task in (("convolutions", convolutions), ("position convolution", positions))
    }
    sizes = convolution_sizes(stock.config, seconds)
    for precision in ("float32", "bfloat16"):
        tasks["convolutions"][f"bare products {precision}"] = bare_products(sizes, getattr(torch, precision))
    return tasks


def layer_tasks(shape: str, precision: str, *, seconds: float) -> dict[str, Callable[[], torch.Tensor]]:
    """Two layers, by name, stock in float32 first."""
    torch.manual_seed(0)
    stock = Wav2Vec2Model(Wav2Vec2Config(num_hidden_layers=2, **SHAPES[shape])).eval().encoder.layers
    hidden = torch.randn(1, int(50 * seconds) - 1, SHAPES[shape].get("hidden_size", 768))
    holder = torch.nn.Module()
    holder.layers, holder.pos_conv_embed = deepcopy(stock), None
    faster = faster_layers(holder).layers

    def run(layers: torch.nn.ModuleList) -> Callable[[torch.Tensor], torch.Tensor]:
        def group(x: torch.Tensor) -> torch.Tensor:
            for layer in layers:
                x = layer(x, attention_mask=None)
                x = x[0] if isinstance(x, tuple) else x
            return x

        return group

    ways = {f"stock {precision}": run(stock), f"faster {precision}": run(faster)}
    for name, options in (("compiled", {}), ("compiled, frozen", {"freezing": True})):
        ways[f"{name} {precision}"] = torch.compile(run(deepcopy(stock)), dynamic=True, options=options)

    def timed(way: Callable[[torch.Tensor], torch.Tensor], dtype: str) -> Callable[[], torch.Tensor]:
        def task() -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
                return way(hidden)

        return task

    return {STOCK: timed(run(stock), "float32"), **{name: timed(way, precision) for name, way in ways.items()}}


def convolution_sizes(config: Wav2Vec2Config, seconds: float) -> list[tuple[int, int, int]]:
    """Products of the convolutions from the second layer on: (frames, inputs, outputs) of each.

    Arguments
    ---------
    config : Wav2Vec2Config
        Its kernels, strides and widths.
    seconds : float
        Of audio at 16 kHz.
    """
    frames, sizes = int(16000 * seconds), []
    for i, (kernel, stride) in enumerate(zip(config.conv_kernel, config.conv_stride)):
        frames = (frames - kernel) // stride + 1
        sizes.append((frames, kernel * config.conv_dim[i - 1], config.conv_dim[i]))
    return sizes[1:]


def bare_products(sizes: list[tuple[int, int, int]], dtype: torch.dtype) -> Callable[[], None]:
    """Products of these sizes, one after the other, weights laid out for oneDNN.

    Arguments
    ---------
    sizes : list of (int, int, int)
        Frames, inputs and outputs.
    dtype : torch.dtype
        Of inputs and weights.
    """
    weights = [torch.randn(width, n).to(dtype) for _, n, width in sizes]
    weights = [torch.ops.mkldnn._reorder_linear_weight(one, None) for one in weights]
    inputs = [torch.randn(frames, n).to(dtype) for frames, n, _ in sizes]

    def run() -> None:
        for x, weight in zip(inputs, weights):
            torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], None)

    return run


def measured(tasks: dict[str, Callable[[], torch.Tensor]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of CPU time of each, run by run in turn; one round warms up."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            if repeat:
                times[name].append(1000 * (time.process_time() - start))
    return times


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="base,large")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--layers", help="precisions: time two layers instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    isa = torch.backends.cpu.get_cpu_capability()
    print(f"{arguments.seconds:g} s of audio, batch 1, one thread, torch {torch.__version__}, {isa}\n")
    print("| shape | part | | CPU ms | times as fast | largest difference | deviation of the output |")
    print("|---|---|---|---|---|---|---|")
    for shape in arguments.shapes.split(","):
        if arguments.layers:
            precisions = arguments.layers.split(",")
            parts = {f"layers, {one}": layer_tasks(shape, one, seconds=arguments.seconds) for one in precisions}
        else:
            parts = tasks_of(shape, seconds=arguments.seconds)
        for part, tasks in parts.items():
            reference = tasks[STOCK]()
            for name, times in (found := measured(tasks, arguments.repeats)).items():
                ratio = statistics.median(stock / own for stock, own in zip(found[STOCK], times))
                made = tasks[name]()
                said = "" if made is None else f"{(made.float() - reference).abs().max().item():.1e}"
                print(
                    f"| {shape} | {part} | {name} | {statistics.median(times):.1f} | {ratio:.2f} | {said} "
                    f"| {reference.std().item():.2f} |"
                )


if __name__ == "__main__":
    main()
