"""Greedy CTC decoding, of one exit or of the average of several."""

import math
from collections.abc import Sequence

import torch


def valid_frames(log_probs: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
    """True where a frame is not padding, of shape (batch, frames)."""
    return torch.arange(log_probs.shape[1], device=log_probs.device) < n_frames.unsqueeze(1)


def run_starts(path: torch.Tensor) -> torch.Tensor:
    """True where a token differs from that of the frame before, of shape (batch, frames)."""
    changed = torch.ones_like(path, dtype=torch.bool)
    changed[:, 1:] = path[:, 1:] != path[:, :-1]
    return changed


def greedy_decode(log_probs: torch.Tensor, n_frames: torch.Tensor, *, blank_index: int) -> list[list[int]]:
    """Best token per frame, repeats merged, blanks removed.

    Arguments
    ---------
    log_probs : torch.Tensor of shape (batch, frames, tokens)
        Or any monotone function of them.
    n_frames : torch.Tensor of shape (batch,)
        Valid frames; what lies beyond is not read.
    blank_index : int
        Index of blank.

    Returns
    -------
    list of list of int
        Token indices per utterance.

    Example
    -------
    >>> scores = torch.eye(3)[torch.tensor([[1, 1, 0, 1, 2, 2]])]
    >>> greedy_decode(scores, torch.tensor([5]), blank_index=0)
    [[1, 1, 2]]
    """
    best = log_probs.argmax(dim=-1)
    said = (run_starts(best) & valid_frames(log_probs, n_frames) & (best != blank_index)).cpu()
    best = best.cpu()
    return [row[mask].tolist() for row, mask in zip(best, said, strict=True)]


def average_posteriors(log_probs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log of the mean probability of several exits.

    Arguments
    ---------
    log_probs : sequence of torch.Tensor of shape (batch, frames, tokens)
        Of the exits, at least one, with the same frames.

    Returns
    -------
    torch.Tensor of shape (batch, frames, tokens)
        Float32.

    Example
    -------
    >>> one, two = torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[0.5, 0.5]]])
    >>> average_posteriors([one.log(), two.log()]).exp()
    tensor([[[0.7000, 0.3000]]])
    """
    stacked = torch.stack([exit_log_probs.float() for exit_log_probs in log_probs])
    return stacked.logsumexp(dim=0) - math.log(len(log_probs))
