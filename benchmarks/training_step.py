"""What exits cost in training: a step with heads at every second layer, and of heads alone, against a single-exit step.

    python benchmarks/training_step.py                       base shape, random weights, one CPU thread
    python benchmarks/training_step.py --shape large --device cuda --precision bf16 --seconds 15 --batch 8

A step is forward, CTC losses, backward and AdamW. Prints ratios of medians of interleaved steps, measured in this one
run on this one machine, and peak memory (of a fresh process on CPU, of torch's allocator on a GPU).
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import torch  # noqa: E402

from eeasr_modules.models import MultiExit  # noqa: E402
from eeasr_modules.training.objectives import exit_ctc_losses  # noqa: E402

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
LARGE |= {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
SHAPES = {"base": {}, "large": LARGE}
GOALS = {"single exit": (1.0, 1.0), "joint": (1.10, 1.10), "heads only": (0.45, 1.10)}
N_TOKENS, TOKENS_PER_SECOND = 32, 14


def build(name: str, arguments: argparse.Namespace) -> MultiExit:
    """`single exit`, `joint` (an exit after every second layer) or `heads only` (the same, encoder frozen)."""
    torch.manual_seed(0)
    encoder = {"encoder": "huggingface", "hf_config": {"model_type": arguments.kind, **SHAPES[arguments.shape]}}
    encoder["freeze_feature_extractor"] = not arguments.train_convolutions
    n_layers = SHAPES[arguments.shape].get("num_hidden_layers", 12)
    exit_layers = [n_layers] if name == "single exit" else list(range(2, n_layers + 1, 2))
    model = MultiExit({"encoder": encoder, "exit_layers": exit_layers, "n_tokens": N_TOKENS, "blank_index": 0})
    if name == "heads only":
        model.freeze_encoder()
    return model.to(arguments.device).train()


class Trainee:
    """A model with its optimizer and a batch of noise.

    Arguments
    ---------
    name : str
        See `build`.
    arguments : argparse.Namespace
        Of the command line.
    """

    def __init__(self, name: str, arguments: argparse.Namespace):
        self.model, self.device = build(name, arguments), arguments.device
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-5)
        n_samples = int(16000 * arguments.seconds)
        lengths = torch.linspace(0.8, 1.0, arguments.batch) * n_samples
        self.wavs = torch.randn(arguments.batch, n_samples, device=self.device)
        self.n_samples = lengths.long().to(self.device)
        n_tokens = int(TOKENS_PER_SECOND * arguments.seconds * 0.8)
        self.tokens = torch.randint(1, N_TOKENS, (arguments.batch, n_tokens), device=self.device)
        self.n_tokens = torch.full((arguments.batch,), n_tokens, device=self.device)
        half = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[arguments.precision]
        self.autocast = nullcontext() if half is None else torch.autocast(arguments.device, half)

    def step(self) -> float:
        """Wall seconds of one step."""
        self._wait()
        start = time.perf_counter()
        with self.autocast:
            log_probs, n_frames = self.model(self.wavs, self.n_samples)
        exit_ctc_losses(log_probs, n_frames, self.tokens, self.n_tokens, blank_index=0).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._wait()
        return time.perf_counter() - start

    def _wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def peak_mib(name: str, arguments: argparse.Namespace) -> float:
    """Peak memory of two steps in a fresh process, in MiB."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="wav2vec2", choices=("wav2vec2", "hubert", "wavlm"))
    parser.add_argument("--shape", default="base", choices=tuple(SHAPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train-convolutions", action="store_true")
    parser.add_argument("--memory-of", choices=tuple(GOALS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        trainee = Trainee(arguments.memory_of, arguments)
        trainee.step(), trainee.step()
        on_gpu = arguments.device == "cuda"
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(torch.cuda.max_memory_allocated() / 2**20 if on_gpu else kib / 1024)
        return
    memory = {}
    for name in GOALS:
        print(f"memory of {name} ...", file=sys.stderr)
        memory[name] = peak_mib(name, arguments)
    trainees = {name: Trainee(name, arguments) for name in GOALS}
    times = {name: [] for name in GOALS}
    for repeat in range(arguments.repeats + 1):
        print(f"round {repeat} of {arguments.repeats} ...", file=sys.stderr)
        for name, trainee in trainees.items():
            seconds = trainee.step()
            if repeat:  # the first round warms up
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{arguments.kind} {arguments.shape}, {arguments.batch} x {arguments.seconds:g} s, {arguments.precision}")
    for name, (time_goal, memory_goal) in GOALS.items():
        share, more = medians[name] / medians["single exit"], memory[name] / memory["single exit"]
        print(
            f"{name:12} {medians[name]:7.3f} s a step: {share:.3f} x (goal {time_goal:.2f});"
            f"{memory[name]:7.0f} MiB: {more:.3f} x (goal {memory_goal:.2f})"
        )


if __name__ == "__main__":
    main()
