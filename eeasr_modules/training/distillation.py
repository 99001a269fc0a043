"""Distillation in training: which teacher, how much of it at which exit."""

from dataclasses import dataclass
from pathlib import Path

import torch

from eeasr_modules.data.text import load_vocabulary
from eeasr_modules.models.distilling import best_exit, greedy_targets, posterior_divergences
from eeasr_modules.models.losses import utterance_ctc_losses
from eeasr_modules.models.multi_exit import MultiExit


def load_teacher(folder: str | Path, vocabulary, *, device: str | torch.device) -> MultiExit:
    """A frozen teacher.

    Arguments
    ---------
    folder : Path
        A model folder.
    vocabulary : CharVocabulary or SentencePieceVocabulary
        Of the model that learns.
    device : str or torch.device
        Where it runs.

    Raises
    ------
    FileNotFoundError
        If the folder holds no model.
    ValueError
        If the teacher has other tokens.
    """
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
    """What exits learn beside the references.

    Arguments
    ---------
    teacher : str
        `self` (the own last exit), `best` (for each utterance the own exit with the lowest CTC loss), anything else
        the frozen teacher's log-probs that `mixed` is given.
    alphas : tuple of float
        Share of distillation in the loss of each exit, 0 to 1; with `self` the last exit's counts as 0.
    transcript_share : float
        Share of the distillation that is CTC on the teacher's greedy transcript; the rest is the divergence of
        posteriors, frame by frame.
    """

    teacher: str
    alphas: tuple[float, ...]
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
        """(1 - alpha) x CTC on the reference + alpha x distillation, for each exit and utterance.

        Arguments
        ---------
        losses : torch.Tensor of shape (n_exits, batch)
            CTC losses on the references, nats.
        log_probs : list of torch.Tensor of shape (batch, frames, tokens)
            One per exit.
        n_frames : torch.Tensor of shape (batch,)
            Valid frames.
        blank_index : int
            Index of blank.
        teacher_log_probs : torch.Tensor of shape (batch, frames, tokens) or None
            Of a frozen teacher's last exit.

        Returns
        -------
        torch.Tensor of shape (n_exits, batch)

        Raises
        ------
        ValueError
            If the teacher has another frame rate.
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
