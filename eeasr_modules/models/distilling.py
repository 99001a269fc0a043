"""Distillation between CTC exits, as pure functions over log-probs.

Teachers: a frozen model's last exit, the own last exit (self-distillation: Zhang et al. 2019, "Be your own teacher"),
or for each utterance the own exit with the lowest loss. Posteriors are compared frame by frame (Hinton et al. 2015,
temperature 1), transcripts by CTC (sequence-level distillation, Kim & Rush 2016).
"""

import torch

from eeasr_modules.models.decode import greedy_decode, valid_frames


def posterior_divergences(log_probs: list[torch.Tensor], teacher: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of each exit's posteriors from the teacher's, summed over frames.

    Arguments
    ---------
    log_probs : list of torch.Tensor of shape (batch, frames, tokens)
        One per exit.
    teacher : torch.Tensor of shape (batch, frames, tokens)
        Log-probs; no gradient goes there.
    n_frames : torch.Tensor of shape (batch,)
        Valid frames; padding does not count.

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
    """The teacher's greedy transcripts as CTC targets: tokens (batch, longest), padded, and how many (batch,).

    Arguments
    ---------
    teacher : torch.Tensor of shape (batch, frames, tokens)
        Log-probs.
    n_frames : torch.Tensor of shape (batch,)
        Valid frames.
    blank_index : int
        Index of blank.
    """
    said = [torch.tensor(one) for one in greedy_decode(teacher, n_frames, blank_index=blank_index)]
    n_targets = torch.tensor([len(one) for one in said], device=teacher.device)
    padded = torch.nn.utils.rnn.pad_sequence([one.long() for one in said], batch_first=True)
    return padded.to(teacher.device), n_targets


def best_exit(log_probs: list[torch.Tensor], losses: torch.Tensor) -> torch.Tensor:
    """For each utterance the log-probs (batch, frames, tokens) of its exit with the lowest loss.

    Arguments
    ---------
    log_probs : list of torch.Tensor of shape (batch, frames, tokens)
        One per exit.
    losses : torch.Tensor of shape (n_exits, batch)
        CTC losses.
    """
    rows = torch.arange(losses.shape[1], device=losses.device)
    return torch.stack(log_probs)[losses.argmin(dim=0), rows].detach()


def confidence_weights(log_probs: list[torch.Tensor], n_frames: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Exit weights of each utterance, in proportion to how sure its exits are.

    An exit that cannot hear an utterance yet then pulls less on the layers that it shares with the others.

    Arguments
    ---------
    log_probs : list of torch.Tensor of shape (batch, frames, tokens)
        One per exit.
    n_frames : torch.Tensor of shape (batch,)
        Valid frames.
    weights : torch.Tensor of shape (n_exits,)
        Of the exits; they sum to 1.

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
