"""Acoustic signals: numbers per utterance and exit that a policy may read, from one exit's log-probs.

Everything ignores padding and is computed in float32. Text signals (edit distances, lengths) are in
`eeasr_modules.exits.signals_text`.
"""

import torch

ACOUSTIC_SIGNALS = ("entropy", "entropy_nonblank", "confidence", "margin", "blank_rate", "cross_entropy", "cosine")


def _mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over valid frames, (batch, frames) -> (batch,); 0 where none is valid."""
    return (values * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def acoustic_signals(
    log_probs: torch.Tensor,
    hidden: torch.Tensor,
    n_frames: torch.Tensor,
    *,
    previous_log_probs: torch.Tensor | None,
    previous_hidden: torch.Tensor,
    blank_index: int,
) -> dict[str, torch.Tensor]:
    """Signals of one exit for a batch.

    Arguments
    ---------
    log_probs : torch.Tensor of shape (batch, frames, tokens)
        Of this exit.
    hidden, previous_hidden : torch.Tensor of shape (batch, frames, dim)
        Layer states at this exit and at the one before (the input of layer 1 before the first exit).
    n_frames : torch.Tensor of shape (batch,)
        Valid frames.
    previous_log_probs : torch.Tensor of shape (batch, frames, tokens) or None
        Of the exit before; None at the first exit, which is compared with the all-blank posterior (the empty
        transcript).
    blank_index : int
        Index of blank.

    Returns
    -------
    dict of str to torch.Tensor of shape (batch,)
        `entropy`: mean frame entropy, nats. `entropy_nonblank`: over frames whose best token is not blank (0 where
        there is none). `confidence`: mean of the best probability. `margin`: mean of best minus second. `blank_rate`:
        share of frames whose best token is blank. `cross_entropy`: mean over frames of -sum p_previous log p.
        `cosine`: mean cosine between the two states.
    """
    log_probs, hidden, previous_hidden = log_probs.float(), hidden.float(), previous_hidden.float()
    valid = torch.arange(log_probs.shape[1], device=log_probs.device) < n_frames.unsqueeze(1)
    probs = log_probs.exp()
    frame_entropy = -(probs * log_probs.clamp(min=-100.0)).sum(dim=-1)  # 0 log 0 is 0, not nan
    top = log_probs.topk(2, dim=-1)
    top_probs = top.values.exp()
    spoken = valid & (top.indices[..., 0] != blank_index)
    if previous_log_probs is None:
        frame_cross = -log_probs[..., blank_index].clamp(min=-100.0)
    else:
        frame_cross = -(previous_log_probs.float().exp() * log_probs.clamp(min=-100.0)).sum(dim=-1)
    return {
        "entropy": _mean(frame_entropy, valid),
        "entropy_nonblank": _mean(frame_entropy, spoken),
        "confidence": _mean(top_probs[..., 0], valid),
        "margin": _mean(top_probs[..., 0] - top_probs[..., 1], valid),
        "blank_rate": _mean((top.indices[..., 0] == blank_index).float(), valid),
        "cross_entropy": _mean(frame_cross, valid),
        "cosine": _mean(torch.cosine_similarity(hidden, previous_hidden, dim=-1), valid),
    }
