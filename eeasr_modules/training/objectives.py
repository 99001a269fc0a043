"""What exits are trained on: CTC at each, weights between them, teachers, and the attention decoder they share.

Teachers: a frozen model's last exit, the own last exit (self-distillation: Zhang et al. 2019, "Be your own teacher"),
or for each utterance the own exit with the lowest loss. Posteriors are compared frame by frame (Hinton et al. 2015,
temperature 1), transcripts by CTC (sequence-level distillation, Kim & Rush 2016).

Everywhere `log_probs` are those of every exit, `teacher` those of one, each (batch, frames, tokens); `n_frames`
(batch,) says which frames are valid, padding does not count; `targets` (batch, tokens) are token indices, padded, of
which `n_targets` (batch,) are valid; `weights` (n_exits,) are those of `exit_weights`. No gradient goes to a teacher.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import ctc_loss

from eeasr_modules.data.text import load_vocabulary
from eeasr_modules.models.decoding.attention import AttentionDecoder, spelling_losses
from eeasr_modules.models.decoding.ctc import greedy_decode, valid_frames
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config.keys import EXIT_WEIGHTS, Config


def exit_weights(scheme: str | list[float], n_exits: int) -> list[float]:
    """Weight of each exit's loss; they sum to 1.

    `scheme`: `uniform`; `linear` (exit e weighs e, counted from 1); `increasing` (e squared: between `linear` and
    `last`); `last` (only the last exit is trained); or a number for each exit, at least 0. ValueError if there is no
    such scheme, or the list does not fit.

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

    Returns: (n_exits,), an utterance with more tokens than frames counts zero (it cannot be aligned).
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

    Returns: (n_exits, batch), 0 for an utterance with more tokens than frames.
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

    Returns: (n_exits, batch), nats.

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

    Returns: (n_exits, batch), weight x mean probability of the best token, so scaled that each utterance's sum to 1; no
    gradient.
    """
    valid = valid_frames(log_probs[0], n_frames)
    best = torch.stack([one.detach().float().max(dim=-1).values.exp() for one in log_probs])
    sure = (best * valid).sum(dim=-1) / n_frames.clamp(min=1)
    scaled = weights.unsqueeze(1) * sure
    return scaled / scaled.sum(dim=0, keepdim=True).clamp(min=1e-12)


def load_teacher(folder: str | Path, vocabulary, *, device: str | torch.device) -> MultiExit:
    """A frozen teacher. FileNotFoundError if the folder holds no model. ValueError if the teacher has other tokens."""
    teacher = MultiExit.load(folder, device=str(device)).requires_grad_(False)
    theirs = load_vocabulary(folder)
    if theirs.blank_index != vocabulary.blank_index or [*theirs.spellings] != [*vocabulary.spellings]:
        raise ValueError(
            f"the teacher in '{folder}' has {len(theirs)} tokens and not the {len(vocabulary)} of this run: train it "
            "with the same tokens, or give this run a folder of its own with --output_folder"
        )
    return teacher


@dataclass(frozen=True)
class Distillation:
    """What exits learn beside the references."""

    # `self` (the own last exit), `best` (for each utterance the own exit with the lowest CTC loss), anything else the
    # frozen teacher's log-probs that `mixed` is given
    teacher: str
    # share of distillation in the loss of each exit, 0 to 1; with `self` the last exit's counts as 0
    alphas: tuple[float, ...]
    # share of the distillation that is CTC on the teacher's greedy transcript; the rest is the divergence of
    # posteriors, frame by frame
    transcript_share: float = 0.0

    def mixed(
        self,
        losses: torch.Tensor,
        log_probs: list[torch.Tensor],
        n_frames: torch.Tensor,
        *,
        blank_index: int,
        teacher_log_probs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(1 - alpha) x CTC on the reference + alpha x distillation, for each exit and utterance; (n_exits, batch).

        `losses` (n_exits, batch) are those of CTC in nats, log-probs of a frozen teacher those of its last exit.
        ValueError if the teacher has another frame rate.
        """
        alphas = torch.tensor(self.alphas, device=losses.device)
        if self.teacher == "self":
            teacher, alphas[-1] = log_probs[-1].detach(), 0.0
        elif self.teacher == "best":
            teacher = best_exit(log_probs, losses.detach())
        else:
            teacher = teacher_log_probs
        if teacher.shape != log_probs[0].shape:
            raise ValueError(
                f"the teacher in '{self.teacher}' gives {teacher.shape[1]} frames where this model gives "
                f"{log_probs[0].shape[1]}: distillation needs a teacher of the same frame rate"
            )
        taught = (1 - self.transcript_share) * posterior_divergences(log_probs, teacher, n_frames)
        if self.transcript_share:
            targets, n_targets = greedy_targets(teacher, n_frames, blank_index=blank_index)
            said = utterance_ctc_losses(log_probs, n_frames, targets, n_targets, blank_index=blank_index)
            taught = taught + self.transcript_share * said
        alphas = alphas.unsqueeze(1)
        return (1 - alphas) * losses + alphas * taught


@dataclass(frozen=True)
class Spelling:
    """What the decoder learns from.

    A batch of training reads the decoder at one exit, drawn by the weights that its update gives the exits: on average
    the weighted sum of all exits' losses, at the cost of one.
    """

    weight: float  # share w of the decoder in an exit's loss, (1 - w) CTC + w cross-entropy
    label_smoothing: float

    @classmethod
    def of(cls, config: Config) -> "Spelling | None":
        """As the YAML says; None for CTC exits only."""
        return cls(config.attention_weight, config.label_smoothing) if config.attention_decoder else None

    def drawn(self, weights: tuple[float, ...]) -> tuple[int, ...]:
        """The exit, from 0, that this batch's decoder reads, by torch's random numbers."""
        return (int(torch.multinomial(torch.tensor(weights, dtype=torch.float64), 1)),)

    def losses(
        self,
        spelled: dict[int, torch.Tensor],
        tokens: torch.Tensor,
        n_tokens: torch.Tensor,
        *,
        decoder: AttentionDecoder,
        smoothed: bool = True,
    ) -> dict[int, torch.Tensor]:
        """Cross-entropy of each exit that was read, nats per target token as CTC's (the end is summed, not counted).

        `spelled` are its log-probs by exit, (batch, tokens + 1, vocabulary); `tokens` (batch, tokens) are padded, of
        which `n_tokens` (batch,) are valid.
        """
        smoothing = self.label_smoothing if smoothed else 0.0
        total = n_tokens.sum().clamp(min=1)
        return {
            e: spelling_losses(log_probs, tokens, n_tokens, decoder=decoder, label_smoothing=smoothing).sum() / total
            for e, log_probs in spelled.items()
        }

    def joint_error(self, word_error: float, token_error: float) -> float:
        """What checkpoints are chosen by: the decoder's error counts as its loss does."""
        return (1 - self.weight) * word_error + self.weight * token_error

    def joint(self, ctc: torch.Tensor, spelled: dict[int, torch.Tensor]) -> torch.Tensor:
        """The loss of an update: CTC's weighted sum over the exits, and the decoder's at the exit that was drawn."""
        return (1 - self.weight) * ctc + self.weight * sum(spelled.values())
