"""Heads: what turns a layer's states into token log-probabilities."""

import copy

import torch
from torch import nn


class CTCHead(nn.Module):
    """Normalisation of its own, dropout and a linear projection to tokens.

    Arguments
    ---------
    norm : nn.Module
        LayerNorm of this exit (Identity where the encoder has normalised already).
    projection : nn.Linear
        To tokens, blank included; the same object at every exit when heads share it.
    dropout : float
        Before the projection.
    """

    def __init__(self, norm: nn.Module, projection: nn.Linear, *, dropout: float = 0.0):
        super().__init__()
        self.norm = norm
        self.dropout = nn.Dropout(dropout)
        self.projection = projection

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """States (batch, frames, dim) -> log-probs (batch, frames, tokens), float32 under any precision."""
        logits = self.projection(self.dropout(self.norm(hidden)))
        return torch.log_softmax(logits.float(), dim=-1)

    def macs(self, n_frames: int) -> float:
        """Multiply-accumulates of one reading, for one utterance."""
        return float(n_frames * self.projection.in_features * self.projection.out_features)


def build_heads(
    encoder, exit_layers: list[int], *, n_tokens: int, shared: bool = False, dropout: float = 0.0
) -> nn.ModuleList:
    """A head per exit.

    An inner exit gets a LayerNorm that starts as a copy of the encoder's final one: inner states are otherwise seen
    un-normalised. The last layer's states come normalised (`Encoder.exit_view`).

    Arguments
    ---------
    encoder : Encoder
        For its width, depth and final norm.
    exit_layers : list of int
        From 1, rising.
    n_tokens : int
        Vocabulary with blank.
    shared : bool
        One projection for all exits; separate weights otherwise.
    dropout : float
        Before each projection.
    """
    projection = nn.Linear(encoder.dim, n_tokens)
    heads = []
    for layer in exit_layers:
        if layer == encoder.n_layers and encoder.final_norm is not None:
            norm = nn.Identity()
        elif encoder.final_norm is not None:
            norm = copy.deepcopy(encoder.final_norm)
        else:
            norm = nn.LayerNorm(encoder.dim)
        heads.append(CTCHead(norm, projection, dropout=dropout))
        if not shared:
            projection = nn.Linear(encoder.dim, n_tokens)
    return nn.ModuleList(heads)
