"""The walk: an encoder run layer by layer, with utterances leaving in between.

An encoder takes part by following the protocol below. It never decides anything: who leaves is the caller's business,
so the same walk serves training (nobody leaves), the test pass (everybody stays, every exit is read) and live use.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn


def shallow(module: nn.Module) -> nn.Module:
    """The same module, weights shared, with children of its own choosing."""
    other = copy.copy(module)
    other._modules = dict(module._modules)
    return other


@dataclass
class WalkState:
    """Where a batch stands between two layers."""

    hidden: torch.Tensor  # (batch, frames, dim): output of the last layer that ran (of the front end at layer 0)
    n_frames: torch.Tensor  # (batch,): valid frames per utterance, absolute counts (relative lengths round wrongly)
    # what the encoder carries along (masks, position embeddings); remade when utterances leave
    extra: dict = field(default_factory=dict)

    @property
    def padded(self) -> torch.Tensor:
        """True where a frame is padding, of shape (batch, frames)."""
        steps = torch.arange(self.hidden.shape[1], device=self.hidden.device)
        return steps.unsqueeze(0) >= self.n_frames.unsqueeze(1)


class Encoder(Protocol):
    """What the walk asks of an encoder (an `nn.Module`).

    `final_norm` is the norm after the last layer, from which heads of inner exits start; None where every layer
    normalises what it gives. An encoder that fills in its settings (from a checkpoint) has them as `settings`, with
    `encoder`, the name of its kind, for a model folder; one that makes its input shorter has a `downsampler`.
    """

    n_layers: int
    dim: int
    final_norm: nn.Module | None

    def front_end(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> WalkState:
        """Padded waveforms (batch, samples) and their lengths -> the input of layer 1."""

    def run_layer(self, layer: int, state: WalkState) -> WalkState:
        """State after `layer` (numbered from 1)."""

    def exit_view(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """What a head sees after `layer`, (batch, frames, dim)."""

    def refresh(self, state: WalkState) -> WalkState:
        """Remake what depends on batch and length, after utterances left."""

    def frames_for(self, n_samples: torch.Tensor) -> torch.Tensor:
        """Frames that so many samples give."""

    def front_end_macs(self, n_samples: int) -> float:
        """Multiply-accumulates before layer 1, for one utterance."""

    def layer_macs(self, n_frames: int) -> float:
        """Multiply-accumulates of one layer, for one utterance."""


class Walk:
    """One batch on its way through an encoder.

    Arguments
    ---------
    wavs : torch.Tensor of shape (batch, samples)
        Zero-padded waveforms.
    n_samples : torch.Tensor of shape (batch,)
        Valid samples per utterance.
    conditioning : SelfConditioning or None
        What is told on after layers with an inner exit.
    upsampling : int
        Frames that heads read for each frame of the encoder (`CTCHead`): what the walk shows and counts are theirs.

    Attributes
    ----------
    layer : int
        Layers run so far.
    rows : torch.Tensor of shape (still here,)
        Which utterances of the original batch are still here.
    """

    def __init__(
        self, encoder: Encoder, wavs: torch.Tensor, n_samples: torch.Tensor, *, conditioning=None, upsampling: int = 1
    ):
        self.encoder, self.conditioning, self.upsampling = encoder, conditioning, upsampling
        self._told: torch.Tensor | None = None
        self.state = encoder.front_end(wavs, n_samples)
        self.layer = 0
        self.rows = torch.arange(wavs.shape[0], device=wavs.device)

    @property
    def n_frames(self) -> torch.Tensor:
        """Valid frames per utterance still here, as heads count them."""
        return self.state.n_frames if self.upsampling == 1 else self.state.n_frames * self.upsampling

    @property
    def view(self) -> torch.Tensor:
        """What a head sees where the walk stands, (batch, frames, dim); the input of layer 1 before it."""
        hidden = self.encoder.exit_view(self.layer, self.state.hidden)
        return hidden if self.upsampling == 1 else hidden.repeat_interleave(self.upsampling, dim=1)

    def advance(self, layer: int) -> torch.Tensor:
        """Run on to `layer` and return what a head sees there, (batch, frames, dim).

        ValueError if `layer` lies behind, or beyond the encoder.
        """
        if not self.layer <= layer <= self.encoder.n_layers:
            raise ValueError(
                f"expected a layer from {self.layer} to {self.encoder.n_layers} (the encoder's last), got {layer}: "
                "a walk only goes forward"
            )
        while self.layer < layer:
            if len(self.rows):
                self._tell_on()
            self.layer += 1
            if len(self.rows):  # no layer runs for nobody (and SpeechBrain's attention cannot)
                self.state = self.encoder.run_layer(self.layer, self.state)
        return self.view

    def tell(self, log_probs: torch.Tensor) -> None:
        """Tell on these log-probs (still here, frames, tokens) of the exit after the layer that ran last.

        Without it, a walk with `conditioning` reads the exit's head itself, for those who go on.
        """
        self._told = log_probs

    def _tell_on(self) -> None:
        """Add what the exit after this layer hears to the stream."""
        told, self._told = self._told, None
        if self.conditioning is None or self.layer not in self.conditioning.layers:
            return
        hidden, n_frames = self.state.hidden, self.state.n_frames
        if told is None:
            added = self.conditioning.after(self.layer, self.view, self.n_frames)
        else:
            added = self.conditioning.told(told)
        self.state = WalkState(hidden + added.to(hidden.dtype), n_frames, self.state.extra)

    @classmethod
    def joined(cls, parts: Sequence[tuple["Walk", torch.Tensor]]) -> "Walk":
        """One walk of utterances from several walks that stand after the same layer of the same encoder.

        `parts`: a walk, and which of those still in it are taken. The new walk's rows follow this order.
        ValueError if the walks stand after different layers.
        """
        first = parts[0][0]
        layers = sorted({walk.layer for walk, _ in parts})
        if len(layers) > 1:
            raise ValueError(f"walks that are joined must stand after the same layer, got {layers}")
        longest = max((walk for walk, _ in parts), key=lambda walk: walk.state.hidden.shape[1])
        hidden = [
            walk.state.hidden[i, :n]
            for walk, rows in parts
            for i, n in zip(rows, walk.state.n_frames[rows], strict=True)
        ]
        n_frames = torch.cat([walk.state.n_frames[rows] for walk, rows in parts])
        walk = cls.__new__(cls)
        walk.encoder, walk.conditioning, walk._told, walk.layer = first.encoder, first.conditioning, None, first.layer
        walk.upsampling = first.upsampling
        walk.rows = torch.arange(len(hidden), device=first.rows.device)
        padded = torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True)
        walk.state = walk.encoder.refresh(WalkState(padded, n_frames, longest.state.extra))
        return walk

    def keep(self, kept: torch.Tensor) -> None:
        """Let the others leave: no further layer runs for them, and padding shrinks to the longest one left.

        `kept` (still here,): True for utterances that go on.
        """
        if bool(kept.all()):
            return
        self.rows, self._told = self.rows[kept], None
        n_frames = self.state.n_frames[kept]
        longest = int(n_frames.max()) if len(n_frames) else 0
        state = WalkState(self.state.hidden[kept][:, :longest], n_frames, self.state.extra)
        self.state = self.encoder.refresh(state) if len(n_frames) else state
