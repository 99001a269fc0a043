"""Ways of transcribing a batch that `eeasr benchmark` times side by side, each as its authors would run it.

Beside ours: the plain forward of transformers (or SpeechBrain) with a greedy decoder; a model cut off at an exit; all
layers first and the policy's pick afterwards, as services do that log every exit; and a break of the whole batch on
the batch's mean signal (Zaiem et al. 2023, "Fine-tuning Strategies for Faster Inference Using Speech Self-Supervised
Models"; their mean counts padding, this one does not).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.models.encoders import ENCODERS
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.signals import WORD_SIGNALS
from eeasr_modules.runtime.batch import LiveBatch
from eeasr_modules.runtime.engine import Engine


@dataclass(frozen=True)
class Heard:
    """What a way makes of one utterance."""

    text: str
    exit_layer: int  # layer of the exit that gave it
    layers_run: int  # encoder layers that ran with it in the batch


@dataclass(frozen=True, eq=False)
class Way:
    """One way of transcribing."""

    name: str  # such as "ours"
    policy: str  # what decides; "" where nothing does
    # padded waveforms (batch, samples), valid samples (batch,) and names to a list of `Heard`
    run: Callable[[torch.Tensor, torch.Tensor, Sequence[str]], list[Heard]]
    reads: tuple[bool, ...]  # heads that are read to decide, per exit; the emitting one comes on top
    least_batch: int = 1  # batch size from which it differs from another way


def all_ways(engine: Engine, policies: Sequence[Policy]) -> list[Way]:
    """Every way that a model and these policies have; the first is the one that others are compared with."""
    layers = engine.model.exit_layers
    never = (False,) * len(layers)
    full = with_policy(engine, Static(layers[-1]))
    ways = [Way("full depth, this runtime", "", _engine_run(full), never)]
    if ENCODERS[engine.model.config["encoder"]["encoder"]].stock is not None:
        stock = Stock(engine.model)
        ways.append(Way(f"full depth, {stock.name}", "", _stock_run(engine, stock), never))
    ways += [Way(f"cut off at layer {layer}", "", _cut_run(engine, k), never) for k, layer in enumerate(layers[:-1])]
    for policy in policies:
        own = with_policy(engine, policy)
        reads = tuple(bool(read) for read in own.plan.reads_head)
        ways.append(Way("ours", str(policy), _engine_run(own), reads))
        ways.append(Way("all layers, then pick", str(policy), _leaving_run(own, AllThenPick), reads))
        if averages(own):
            ways.append(Way("whole-batch break", str(policy), _leaving_run(own, WholeBatch), reads, 2))
    return ways


def with_policy(engine: Engine, policy: Policy) -> Engine:
    """The same model under another policy."""
    return Engine(
        engine.model,
        engine.vocabulary,
        policy=policy,
        compaction=engine.compaction,
        seed=engine.seed,
        language=engine.language,
    )


def averages(engine: Engine) -> bool:
    """Whether a batch mean of what the policy reads exists: not of transcripts or lists of words."""
    return not {"hypothesis", *WORD_SIGNALS} & set(engine.plan.names)


class AllThenPick(LiveBatch):
    """All layers for everybody, heads and signals at every exit that the policy may read; it picks as it would live."""

    def visit(self, k: int) -> None:
        """Exit k: ask the policy of everybody; the first exit that it takes counts."""
        if k == len(self.model.exit_layers) - 1:
            super().visit(k)
            return
        here = self._arrive(k)
        stop, self.state = self.engine.policy.step(self._signals(here), self.state)
        self._emit_decided(here, np.flatnonzero(stop))
        everybody = np.ones(len(stop), dtype=bool)
        self.before = [self._of_those_left(one, everybody) for one in [here, *self.before][: self.plan.n_before]]

    def _emit(self, here, who: np.ndarray, *, decided) -> None:
        first = np.array([i for i in who if self.results[i] is None], dtype=np.int64)
        if len(first):
            super()._emit(here, first, decided=decided)

    def _compact(self, *, n_layers: int) -> None:
        """Nobody leaves."""


class WholeBatch(LiveBatch):
    """Everybody stops where the policy says for the mean of the batch's signals."""

    def _signals(self, here) -> dict[str, np.ndarray]:
        signals = super()._signals(here)
        return {name: np.full(len(values), np.mean(values)) for name, values in signals.items()}


class Stock:
    """A model's encoder run by the forward of the library that it comes from, waveforms to states for the head.

    Arguments
    ---------
    n_layers : int or None
        Cut off there; None for all.
    """

    def __init__(self, model: MultiExit, *, n_layers: int | None = None):
        kind = ENCODERS[model.config["encoder"]["encoder"]]
        self.name, self.n_layers = kind.library, n_layers or model.encoder.n_layers
        self._forward = kind.stock_forward(model.encoder, self.n_layers)
        self.model = getattr(self._forward, "model", None)

    def __call__(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Layer states (batch, frames, dim) and valid frames (batch,)."""
        return self._forward(wavs, n_samples)


def _engine_run(engine: Engine):
    def run(wavs, n_samples, utt_ids):
        said = engine.run(wavs, n_samples, utt_ids=utt_ids)
        return [Heard(one.text, one.decided_layer, one.layers_run) for one in said]

    return run


def _leaving_run(engine: Engine, kind: type[LiveBatch]):
    @torch.inference_mode()
    def run(wavs, n_samples, utt_ids):
        said = kind.begin(engine, wavs, n_samples, utt_ids).run()
        return [Heard(one.text, one.decided_layer, one.layers_run) for one in said]

    return run


def greedy(engine: Engine, hidden: torch.Tensor, n_frames: torch.Tensor, *, exit_index: int) -> list[str]:
    """Transcripts of one exit's head, with nothing beside them."""
    if engine.model.reach:
        raise ValueError("the benchmark reads one exit at a time, but this model averages the states of several")
    log_probs = engine.model.heads[exit_index](hidden, n_frames)
    return engine.texts(log_probs.argmax(dim=-1).cpu().numpy(), n_frames.tolist())


def _stock_run(engine: Engine, stock: Stock):
    @torch.inference_mode()
    def run(wavs, n_samples, utt_ids):
        hidden, n_frames = stock(wavs.to(engine.device), n_samples.to(engine.device))
        upsampling = engine.model.upsampling
        hidden, n_frames = hidden.repeat_interleave(upsampling, dim=1), n_frames * upsampling
        texts = greedy(engine, hidden, n_frames, exit_index=len(engine.model.exit_layers) - 1)
        return [Heard(text, stock.n_layers, stock.n_layers) for text in texts]

    return run


def _cut_run(engine: Engine, k: int):
    layer = engine.model.exit_layers[k]

    @torch.inference_mode()
    def run(wavs, n_samples, utt_ids):
        walk = engine.model.walk(wavs.to(engine.device), n_samples.to(engine.device))
        texts = greedy(engine, walk.advance(layer), walk.n_frames, exit_index=k)
        return [Heard(text, layer, layer) for text in texts]

    return run
