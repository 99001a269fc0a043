"""What reading an exit costs, signal by signal, against one encoder layer.

    python benchmarks/signal_cost.py [--encoder conformer|base] [--tokens 29] [--seconds 5] [--batch 8] [--repeats 15]

Random weights and noise (only the beam search's time depends on them), one thread. Prints a Markdown table: medians
of interleaved runs in milliseconds of CPU time (a busy machine does not count), and their shares of one layer's. Each
signal is computed alone, from the log-probs, so what several share (the exponential of the log-probs, the greedy path)
is in each of them; the line of all signals together shares it. Measured in this one run on this one machine.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # as train.py does

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import torch  # noqa: E402

from eeasr_modules.exits.words.signals import text_signals_at_exit  # noqa: E402
from eeasr_modules.models import MultiExit, Walk  # noqa: E402
from eeasr_modules.models.decoding.ctc import (  # noqa: E402
    NBest,
    average_posteriors,
    greedy_decode,
)
from eeasr_modules.models.signals import ACOUSTIC_SIGNALS, WordFrames, acoustic_signals, word_signals  # noqa: E402  # noqa: E402
from eeasr_modules.training.config.config import load  # noqa: E402

BEAM = 8
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"


def build(encoder: str, *, n_tokens: int) -> MultiExit:
    """The Conformer of hparams/an4.yaml or a wav2vec2-base, random weights, with exits after its last two layers."""
    torch.manual_seed(0)
    if encoder == "base":
        settings, n_layers = {"encoder": "huggingface", "hf_config": {"model_type": "wav2vec2"}}, 12
    else:
        config = load(ROOT / "hparams" / "an4.yaml", {}, recipes=ROOT / "recipes")
        settings, n_layers = config.encoder_settings, config.n_layers
    exits = [n_layers - 1, n_layers]
    return MultiExit({"encoder": settings, "exit_layers": exits, "n_tokens": n_tokens, "blank_index": 0}).eval()


def spellings_of(n_tokens: int) -> list[str]:
    """Blank, space, and as many one-letter tokens as are left; only where words begin matters to the times."""
    return ["", " ", *(LETTERS[index % len(LETTERS)] for index in range(n_tokens - 2))]


def sure_log_probs(n_tokens: int, *, batch: int, n_frames: int) -> torch.Tensor:
    """Log-probs as a trained head gives them: blank two thirds of the time, one frame in ten unsure, the rest sure."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(batch, n_frames, n_tokens, generator=generator)
    best = torch.randint(1, n_tokens, (batch, n_frames, 1), generator=generator)
    best = torch.where(torch.rand(batch, n_frames, 1, generator=generator) < 2 / 3, torch.zeros_like(best), best)
    unsure = torch.rand(batch, n_frames, 1, generator=generator) < 0.1
    sureness = torch.where(unsure, 4.0, 11.0)
    return logits.scatter_add(2, best, sureness).log_softmax(dim=-1)


@torch.no_grad()
def tasks_of(model: MultiExit, *, n_tokens: int, seconds: float, batch: int) -> dict[str, Callable[[], object]]:
    """Everything that is timed, by the name it has in the table; the layer first."""
    n_samples = torch.full((batch,), int(16000 * seconds))
    walk = Walk(model.encoder, torch.randn(batch, int(n_samples[0])), n_samples)
    states, n_frames = walk.advance(model.exit_layers[0]), walk.n_frames
    before, layer = walk.state, model.exit_layers[1]
    log_probs = sure_log_probs(n_tokens, batch=batch, n_frames=states.shape[1])
    previous = sure_log_probs(n_tokens, batch=batch, n_frames=states.shape[1]).roll(1, dims=1)
    spellings = spellings_of(n_tokens)
    words = WordFrames(spellings, blank_index=0)
    beam = NBest(["<blank>", *spellings[1:]], blank_index=0, beam_size=BEAM)
    texts, earlier = (
        ["".join(spellings[token] for token in ids) for ids in greedy_decode(one, n_frames, blank_index=0)]
        for one in (log_probs, previous)
    )

    def signals(*names: str) -> Callable[[], object]:
        return lambda: acoustic_signals(
            log_probs,
            states,
            n_frames,
            previous_log_probs=previous,
            previous_hidden=states,
            blank_index=0,
            names=names,
        )

    return {
        "one encoder layer": lambda: model.encoder.run_layer(layer, before),
        "head": lambda: model.heads[0](states, n_frames),
        "greedy transcript": lambda: greedy_decode(log_probs, n_frames, blank_index=0),
        **{f"`{name}`": signals(name) for name in ACOUSTIC_SIGNALS},
        "all acoustic signals together": signals(*ACOUSTIC_SIGNALS),
        "signals of words": lambda: word_signals(log_probs, n_frames, words=words, frame_s=0.04),
        "text signals": lambda: text_signals_at_exit(texts, earlier),
        "averaging two exits, with transcript": lambda: greedy_decode(
            average_posteriors([previous, log_probs]), n_frames, blank_index=0
        ),
        f"`nbest_posterior`, beam {BEAM}": lambda: beam.posterior(log_probs, n_frames),
    }


@torch.no_grad()
def medians_ms(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of CPU time of each; one round warms up."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            if repeat:
                times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=("conformer", "base"), default="conformer")
    parser.add_argument("--tokens", type=int, default=29)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = build(arguments.encoder, n_tokens=arguments.tokens)
    tasks = tasks_of(model, n_tokens=arguments.tokens, seconds=arguments.seconds, batch=arguments.batch)
    found = medians_ms(tasks, arguments.repeats)
    layer = found["one encoder layer"]
    print(f"{arguments.encoder}, {arguments.tokens} tokens, {arguments.batch} utterances of {arguments.seconds:g} s\n")
    print("| at one exit | CPU ms | share of a layer |\n|---|---|---|")
    for name, milliseconds in found.items():
        print(f"| {name} | {milliseconds:.3f} | {100 * milliseconds / layer:.2f} % |")


if __name__ == "__main__":
    main()
