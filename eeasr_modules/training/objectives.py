"""What exits are trained on beside CTC: teachers, and the attention decoder they share."""

from dataclasses import dataclass
from pathlib import Path

import torch

from eeasr_modules.data.text import load_vocabulary
from eeasr_modules.models.decoding.attention import AttentionDecoder, spelling_losses
from eeasr_modules.models.losses import best_exit, greedy_targets, posterior_divergences, utterance_ctc_losses
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config.config import Config


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

        Log-probs and counts are as in `models.losses`, `losses` (n_exits, batch) those of CTC in nats; those
        of a frozen teacher are of its last exit. ValueError if the teacher has another frame rate.
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
