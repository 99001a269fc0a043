"""What the test pass costs: reading every exit against the last one only, and memory against the size of the set.

    python benchmarks/test_pass.py [--utterances 64] [--seconds 5] [--repeats 5]

Random weights and noise (times do not depend on either), the shape of hparams/an4.yaml, one thread. Prints ratios of
medians of interleaved runs, measured in this one run on this one machine.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import torch  # noqa: E402

from eeasr_modules.models import MultiExit  # noqa: E402
from eeasr_modules.training.collect import read_exits  # noqa: E402
from eeasr_modules.training.config import load  # noqa: E402

BATCH = 8


def build(exit_layers: list[int]) -> MultiExit:
    """The model of hparams/an4.yaml with exits at `exit_layers`, random weights."""
    config = load(ROOT / "hparams" / "an4.yaml", {"exit_layers": exit_layers}, recipes=ROOT / "recipes")
    torch.manual_seed(0)
    settings = {"encoder": config.encoder_settings, "exit_layers": exit_layers, "n_tokens": 29, "blank_index": 0}
    return MultiExit(settings).eval()


def run(model: MultiExit, n_utterances: int, seconds: float) -> float:
    """Wall seconds to read `n_utterances`, batch after batch, keeping what a table keeps."""
    n_samples = int(16000 * seconds)
    kept, start = [], time.perf_counter()
    for _ in range(0, n_utterances, BATCH):
        tokens, signals, _ = read_exits(model, torch.randn(BATCH, n_samples), torch.full((BATCH,), n_samples))
        kept.append((tokens, signals))
    return time.perf_counter() - start


def peak_mib(n_utterances: int, seconds: float) -> float:
    """Peak resident memory of a fresh process that reads so many utterances, in MiB."""
    command = [sys.executable, __file__, "--memory-of", str(n_utterances), "--seconds", str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every, last = build(list(range(1, 9))), build([8])
    if arguments.memory_of:
        run(every, arguments.memory_of, arguments.seconds)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    times = {"every exit": [], "last exit": []}
    for repeat in range(arguments.repeats + 1):
        for name, model in (("every exit", every), ("last exit", last)):
            seconds = run(model, arguments.utterances, arguments.seconds)
            if repeat:  # the first round warms up
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    audio_s = arguments.utterances * arguments.seconds
    for name, seconds in medians.items():
        print(f"{name}: {seconds:.2f} s for {audio_s:.0f} s of audio ({audio_s / seconds:.0f} x real time)")
    print(f"reading 8 exits instead of 1 takes {medians['every exit'] / medians['last exit']:.3f} x the time")
    few, many = (peak_mib(n, arguments.seconds) for n in (arguments.utterances, 4 * arguments.utterances))
    print(f"peak memory: {few:.0f} MiB for {arguments.utterances} utterances, {many:.0f} MiB for 4 x as many")


if __name__ == "__main__":
    main()
