"""Losses over exits, as pure functions."""

import torch
from torch.nn.functional import ctc_loss

EXIT_WEIGHTS = ("uniform", "linear", "increasing", "last")


def exit_weights(scheme: str | list[float], n_exits: int) -> list[float]:
    """Weight of each exit's loss; they sum to 1.

    Arguments
    ---------
    scheme : str or list of float
        `uniform`; `linear` (exit e weighs e, counted from 1); `increasing` (e squared: between `linear` and `last`);
        `last` (only the last exit is trained); or a number for each exit, at least 0.
    n_exits : int
        Exits.

    Raises
    ------
    ValueError
        If there is no such scheme, or the list does not fit.

    Example
    -------
    >>> exit_weights("linear", 3)
    [0.16666666666666666, 0.3333333333333333, 0.5]
    """
    if isinstance(scheme, (list, tuple)):
        if len(scheme) != n_exits or min(scheme) < 0 or not sum(scheme):
            raise ValueError(
                f"exit_weights must be {n_exits} numbers from 0 up, one for each exit and not all 0, got {scheme}"
            )
        raw = [float(weight) for weight in scheme]
    elif scheme == "uniform":
        raw = [1.0] * n_exits
    elif scheme == "linear":
        raw = [float(e) for e in range(1, n_exits + 1)]
    elif scheme == "increasing":
        raw = [float(e * e) for e in range(1, n_exits + 1)]
    elif scheme == "last":
        raw = [0.0] * (n_exits - 1) + [1.0]
    else:
        raise ValueError(f"expected exit weights to be one of {', '.join(EXIT_WEIGHTS)}, got '{scheme}'")
    return [w / sum(raw) for w in raw]


def exit_ctc_losses(
    log_probs: list[torch.Tensor],
    n_frames: torch.Tensor,
    targets: torch.Tensor,
    n_targets: torch.Tensor,
    *,
    blank_index: int,
) -> torch.Tensor:
    """CTC loss of every exit (Graves et al. 2006), in nats per target token of the batch.

    Arguments
    ---------
    log_probs : list of torch.Tensor of shape (batch, frames, tokens)
        One per exit.
    n_frames, n_targets : torch.Tensor of shape (batch,)
        Absolute counts.
    targets : torch.Tensor of shape (batch, tokens)
        Token indices, padded.
    blank_index : int
        Index of blank.

    Returns
    -------
    torch.Tensor of shape (n_exits,)
        An utterance with more tokens than frames counts zero (it cannot be aligned).
    """
    losses = utterance_ctc_losses(log_probs, n_frames, targets, n_targets, blank_index=blank_index)
    return losses.sum(dim=1) / n_targets.sum().clamp(min=1)


def utterance_ctc_losses(
    log_probs: list[torch.Tensor],
    n_frames: torch.Tensor,
    targets: torch.Tensor,
    n_targets: torch.Tensor,
    *,
    blank_index: int,
) -> torch.Tensor:
    """CTC loss of every exit and utterance, nats; arguments as for `exit_ctc_losses`.

    Returns
    -------
    torch.Tensor of shape (n_exits, batch)
        0 for an utterance with more tokens than frames.
    """
    n_exits, batch = len(log_probs), log_probs[0].shape[0]
    stacked = torch.cat(log_probs).float().transpose(0, 1)  # (frames, exits x batch, tokens)
    losses = ctc_loss(
        stacked,
        targets.repeat(n_exits, 1),
        n_frames.repeat(n_exits),
        n_targets.repeat(n_exits),
        blank=blank_index,
        reduction="none",
        zero_infinity=True,
    )
    return losses.view(n_exits, batch)
