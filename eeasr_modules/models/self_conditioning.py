"""Self-conditioned CTC: what an inner exit hears is told to the layers after it.

Nozaki & Komatsu 2021, "Relaxing the conditional independence assumption of CTC-based ASR by conditioning on
intermediate predictions": the exit's posterior, projected back to the encoder's width by one
projection for all exits, is added to the stream. Ours adds it to the layer's output as the encoder gives it, and the
projection starts at zero, so that an encoder that was trained without it starts as it was.
"""

import torch
from torch import nn


class SelfConditioning(nn.Module):
    """What the walk adds to the stream after a layer with an inner exit.

    Arguments
    ---------
    heads : dict of int to CTCHead
        Heads of the inner exits by layer, from 1; they stay the model's own, not parts of this module.
    n_tokens : int
        Vocabulary with blank.
    dim : int
        Of the encoder.

    Example
    -------
    >>> from eeasr_modules.models.heads import CTCHead
    >>> conditioning = SelfConditioning({1: CTCHead(nn.Identity(), nn.Linear(4, 3))}, n_tokens=3, dim=4)
    >>> bool((conditioning.after(1, torch.ones(2, 5, 4), torch.tensor([5, 3])) == 0).all())  # before any training
    True
    """

    def __init__(self, heads: dict[int, nn.Module], *, n_tokens: int, dim: int):
        super().__init__()
        self.projection = nn.Linear(n_tokens, dim)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self._heads = tuple(heads.items())  # a tuple: no modules of this one

    @property
    def upsampling(self) -> int:
        """Frames of log-probs for each frame of the encoder."""
        return self._heads[0][1].upsampling if self._heads else 1

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers whose exit is told on."""
        return tuple(layer for layer, _ in self._heads)

    def after(self, layer: int, hidden: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
        """What is added to the stream after `layer`, (batch, frames, dim).

        Arguments
        ---------
        layer : int
            One of `layers`.
        hidden : torch.Tensor of shape (batch, frames, dim)
            What the exit's head sees.
        n_frames : torch.Tensor of shape (batch,)
            Valid frames.
        """
        return self.told(dict(self._heads)[layer](hidden, n_frames))

    def told(self, log_probs: torch.Tensor) -> torch.Tensor:
        """The same for log-probs (batch, frames, tokens) that are known already.

        Of heads that upsample, the frames of the log-probs that belong to one of the encoder's are averaged.
        """
        posteriors = log_probs.exp()
        if self.upsampling > 1:
            posteriors = posteriors.unflatten(1, (-1, self.upsampling)).mean(dim=2)
        return self.projection(posteriors)

    def macs(self, n_frames: int, *, layer: int) -> float:
        """Multiply-accumulates after `layer` for one utterance: the head, read for this, and the projection."""
        projection = float(n_frames * self.projection.in_features * self.projection.out_features)
        return dict(self._heads)[layer].macs(n_frames) + projection
