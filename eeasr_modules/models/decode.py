"""Greedy CTC decoding."""

import torch


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
    changed = torch.ones_like(best, dtype=torch.bool)
    changed[:, 1:] = best[:, 1:] != best[:, :-1]
    inside = torch.arange(best.shape[1], device=best.device) < n_frames.unsqueeze(1)
    said = (changed & inside & (best != blank_index)).cpu()
    best = best.cpu()
    return [row[mask].tolist() for row, mask in zip(best, said, strict=True)]
