"""Losses over exits and distillation between them, as pure functions.

Teachers: a frozen model's last exit, the own last exit (self-distillation: Zhang et al. 2019, "Be your own teacher"),
or for each utterance the own exit with the lowest loss. Posteriors are compared frame by frame (Hinton et al. 2015,
temperature 1), transcripts by CTC (sequence-level distillation, Kim & Rush 2016).

Everywhere `log_probs` are those of every exit, `teacher` those of one, each (batch, frames, tokens); `n_frames`
(batch,) says which frames are valid, padding does not count; `targets` (batch, tokens) are token indices, padded, of
which `n_targets` (batch,) are valid; `weights` (n_exits,) are those of `exit_weights`. No gradient goes to a teacher.
"""

import torch
from torch.nn.functional import ctc_loss

from eeasr_modules.models.decoding.ctc import greedy_decode, valid_frames

EXIT_WEIGHTS = ("uniform", "linear", "increasing", "last")


def exit_weights(scheme: str | list[float], n_exits: int) -> list[float]:
    """Weight of each exit's loss; they sum to 1.

    ValueError if there is no such scheme, or the list does not fit.

    Arguments
    ---------
    scheme : str or list of float
        `uniform`; `linear` (exit e weighs e, counted from 1); `increasing` (e squared: between `linear` and `last`);
        `last` (only the last exit is trained); or a number for each exit, at least 0.

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


def posterior_divergences(log_probs: list[torch.Tensor], teacher: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of each exit's posteriors from the teacher's, summed over frames.

    Returns
    -------
    torch.Tensor of shape (n_exits, batch)
        Nats.

    Example
    -------
    >>> same = torch.log_softmax(torch.randn(2, 4, 3), dim=-1)
    >>> posterior_divergences([same], same, torch.tensor([4, 2])).abs().max().item()
    0.0
    """
    teacher = teacher.detach().float()
    valid = valid_frames(teacher, n_frames)
    divergences = [(teacher.exp() * (teacher - one.float())).sum(dim=-1) * valid for one in log_probs]
    return torch.stack([one.sum(dim=-1) for one in divergences])


def greedy_targets(
    teacher: torch.Tensor, n_frames: torch.Tensor, *, blank_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's greedy transcripts as CTC targets: tokens (batch, longest), padded, and how many (batch,)."""
    said = [torch.tensor(one) for one in greedy_decode(teacher, n_frames, blank_index=blank_index)]
    n_targets = torch.tensor([len(one) for one in said], device=teacher.device)
    padded = torch.nn.utils.rnn.pad_sequence([one.long() for one in said], batch_first=True)
    return padded.to(teacher.device), n_targets


def best_exit(log_probs: list[torch.Tensor], losses: torch.Tensor) -> torch.Tensor:
    """For each utterance the log-probs (batch, frames, tokens) of its exit with the lowest loss."""
    rows = torch.arange(losses.shape[1], device=losses.device)
    return torch.stack(log_probs)[losses.argmin(dim=0), rows].detach()


def confidence_weights(log_probs: list[torch.Tensor], n_frames: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Exit weights of each utterance, in proportion to how sure its exits are.

    An exit that cannot hear an utterance yet then pulls less on the layers that it shares with the others.

    Returns
    -------
    torch.Tensor of shape (n_exits, batch)
        Weight x mean probability of the best token, so scaled that each utterance's sum to 1; no gradient.
    """
    valid = valid_frames(log_probs[0], n_frames)
    best = torch.stack([one.detach().float().max(dim=-1).values.exp() for one in log_probs])
    sure = (best * valid).sum(dim=-1) / n_frames.clamp(min=1)
    scaled = weights.unsqueeze(1) * sure
    return scaled / scaled.sum(dim=0, keepdim=True).clamp(min=1e-12)
