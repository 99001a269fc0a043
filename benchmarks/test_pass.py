"""What the test pass costs: reading every exit against the last one only, and memory against the size of the set.

    python benchmarks/test_pass.py [--utterances 64] [--seconds 5] [--repeats 5]
    python benchmarks/test_pass.py --encoder base --utterances 100 --repeats 0     memory only, wav2vec2-base

Random weights and noise (times do not depend on either), one thread; utterances of as many lengths as there are, around
`--seconds`. Prints ratios of medians of interleaved runs, and peak memory of fresh processes, measured in this one run
on this one machine.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # as train.py does

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import torch  # noqa: E402

from eeasr_modules.models import MultiExit  # noqa: E402
from eeasr_modules.training.config.config import load  # noqa: E402
from eeasr_modules.training.test_pass import read_exits  # noqa: E402

BATCH = 8


def build(encoder: str, *, every: bool) -> MultiExit:
    """The Conformer of hparams/an4.yaml or a wav2vec2-base, random weights, with every exit or the last one only."""
    torch.manual_seed(0)
    if encoder == "base":
        settings = {"encoder": "huggingface", "hf_config": {"model_type": "wav2vec2"}}
        n_layers, step = 12, 2
    else:
        config = load(ROOT / "hparams" / "an4.yaml", {}, recipes=ROOT / "recipes")
        settings, n_layers, step = config.encoder_settings, config.n_layers, 1
    exit_layers = list(range(step, n_layers + 1, step)) if every else [n_layers]
    return MultiExit({"encoder": settings, "exit_layers": exit_layers, "n_tokens": 29, "blank_index": 0}).eval()


def run(model: MultiExit, n_utterances: int, seconds: float) -> float:
    """Wall seconds to read `n_utterances`, batch after batch, keeping what a table keeps."""
    lengths = torch.linspace(0.5, 1.5, n_utterances).mul(16000 * seconds).long()
    kept, start = [], time.perf_counter()
    for batch in lengths.split(BATCH):
        wavs = torch.randn(len(batch), int(batch.max()))
        wavs *= torch.arange(wavs.shape[1]) < batch.unsqueeze(1)
        tokens, signals, _ = read_exits(model, wavs, batch)
        kept.append((tokens, signals))
    return time.perf_counter() - start


def peak_mib(encoder: str, n_utterances: int, seconds: float) -> float:
    """Peak resident memory of a fresh process that reads so many utterances, in MiB."""
    command = [sys.executable, __file__, "--encoder", encoder, "--memory-of", str(n_utterances)]
    command += ["--seconds", str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=("conformer", "base"), default="conformer")
    parser.add_argument("--utterances", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        run(build(arguments.encoder, every=True), arguments.memory_of, arguments.seconds)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    if arguments.repeats:
        compare_times(arguments)
    sizes = [max(BATCH, arguments.utterances // 4), arguments.utterances, 2 * arguments.utterances]
    for n_utterances in sizes:
        print(
            f"peak memory with {n_utterances} utterances: "
            f"{peak_mib(arguments.encoder, n_utterances, arguments.seconds):.0f} MiB"
        )


def compare_times(arguments: argparse.Namespace) -> None:
    """Time with every exit read against the last one only; prints."""
    models = {"every exit": build(arguments.encoder, every=True), "last exit": build(arguments.encoder, every=False)}
    times = {name: [] for name in models}
    for repeat in range(arguments.repeats + 1):
        for name, model in models.items():
            seconds = run(model, arguments.utterances, arguments.seconds)
            if repeat:  # the first round warms up
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    audio_s = arguments.utterances * arguments.seconds
    for name, seconds in medians.items():
        print(f"{name}: {seconds:.2f} s for {audio_s:.0f} s of audio ({audio_s / seconds:.0f} x real time)")
    n_exits = len(models["every exit"].exit_layers)
    ratio = medians["every exit"] / medians["last exit"]
    print(f"reading {n_exits} exits instead of 1 takes {ratio:.3f} x the time")


if __name__ == "__main__":
    main()
