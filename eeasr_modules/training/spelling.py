"""Joint training of CTC exits and the attention decoder they share."""

from dataclasses import dataclass

import torch

from eeasr_modules.models.attention_decoder import AttentionDecoder, spelling_losses
from eeasr_modules.training.config import Config


@dataclass(frozen=True)
class Spelling:
    """What the decoder learns from.

    A batch of training reads the decoder at one exit, drawn by the weights that its update gives the exits: on average
    the weighted sum of all exits' losses, at the cost of one.

    Arguments
    ---------
    weight : float
        Share w of the decoder in an exit's loss, (1 - w) CTC + w cross-entropy.
    label_smoothing : float
        Of the cross-entropy.
    """

    weight: float
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

        Arguments
        ---------
        spelled : dict of int to torch.Tensor of shape (batch, tokens + 1, vocabulary)
            Log-probs of the decoder by exit.
        tokens : torch.Tensor of shape (batch, tokens)
            Targets, padded.
        n_tokens : torch.Tensor of shape (batch,)
            Valid ones.
        decoder : AttentionDecoder
            Whose.
        smoothed : bool
            False leaves label smoothing out.

        Returns
        -------
        dict of int to torch.Tensor of shape ()
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
