"""Greedy CTC decoding, of one exit or of the average of several, and where in the audio a known transcript lies."""

import math
from collections.abc import Sequence

import numpy as np
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


def aligned_path(log_probs: np.ndarray, tokens: Sequence[int], *, blank_index: int) -> np.ndarray | None:
    """The likeliest token of each frame among the paths that collapse to a transcript (Viterbi).

    Arguments
    ---------
    log_probs : np.ndarray of shape (frames, tokens)
        Of one utterance, without padding.
    tokens : sequence of int
        The transcript.
    blank_index : int
        Index of blank.

    Returns
    -------
    np.ndarray of shape (frames,), or None
        None where the frames are too few to spell it.

    Example
    -------
    >>> log_probs = np.log([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.3, 0.5, 0.2]])
    >>> aligned_path(log_probs, [1, 1], blank_index=0).tolist()
    [0, 1, 0, 1]
    """
    labels = np.full(2 * len(tokens) + 1, blank_index)
    labels[1::2] = tokens
    n_frames, n_states = len(log_probs), len(labels)
    if not n_frames:
        return np.zeros(0, dtype=np.int64) if not len(tokens) else None
    skips = np.zeros(n_states, dtype=bool)  # states that may come straight from the token before, over the blank
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    score = np.full(n_states, -np.inf)
    score[:2] = log_probs[0, labels[:2]]
    came = np.zeros((n_frames, n_states), dtype=np.int64)
    for frame in range(1, n_frames):
        one = np.concatenate([[-np.inf], score[:-1]])
        two = np.where(skips, np.concatenate([[-np.inf] * 2, score[:-2]])[:n_states], -np.inf)
        ways = np.stack([score, one, two])
        came[frame] = ways.argmax(axis=0)
        score = ways.max(axis=0) + log_probs[frame, labels]
    state = n_states - 1
    if n_states > 1 and score[-2] > score[-1]:
        state -= 1
    if not np.isfinite(score[state]):
        return None
    path = np.empty(n_frames, dtype=np.int64)
    for frame in range(n_frames - 1, -1, -1):
        path[frame] = labels[state]
        state -= came[frame, state]
    return path
