"""How sure a beam search is of its best transcript: a signal that costs far more than the others."""

from collections.abc import Sequence

import numpy as np
import torch

NBEST_SIGNAL = "nbest_posterior"


class NBest:
    """Posterior of the best among the N best transcripts of a CTC beam search, without a language model.

    The beam is SpeechBrain's `CTCBeamSearcher`. Its pruning of histories is off, which would throw out all but one
    of the transcripts that differ early; scores are summed in float64 for the same result in any batch.

    Arguments
    ---------
    tokens : sequence of str
        The vocabulary, in the order of ids.
    blank_index : int
        Index of blank.
    beam_size : int
        Transcripts kept, and compared at the end.

    Raises
    ------
    ValueError
        When the beam is below 2: one transcript alone is always certain.

    Example
    -------
    >>> nbest = NBest(["<blank>", " ", "A", "B"], blank_index=0, beam_size=4)
    >>> log_probs = torch.tensor([[[0.1, 0.0, 0.6, 0.3]]]).log()
    >>> round(nbest.posterior(log_probs, torch.tensor([1])).item(), 3)
    0.6
    """

    def __init__(self, tokens: Sequence[str], *, blank_index: int, beam_size: int):
        from speechbrain.decoders.ctc import CTCBeamSearcher

        if beam_size < 2:
            raise ValueError(f"a posterior among the N best needs a beam of at least 2, got {beam_size}")
        self.searcher = CTCBeamSearcher(
            blank_index=blank_index,
            vocab_list=list(tokens),
            space_token="|" if "|" in tokens else " ",
            beam_size=beam_size,
            topk=beam_size,
            prune_history=False,
        )

    def posterior(self, log_probs: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
        """Softmax over the scores of the N best, of the best of them.

        Arguments
        ---------
        log_probs : torch.Tensor of shape (batch, frames, tokens)
            Of one exit.
        n_frames : torch.Tensor of shape (batch,)
            Valid frames; what lies beyond is not read.

        Returns
        -------
        torch.Tensor of shape (batch,)
            Float32, from 1 / N to 1.
        """
        rows = log_probs.double().cpu().numpy()
        # frame counts are given as they are: as shares of the longest utterance they would be rounded down
        found = [self._of_one(row, int(n)) for row, n in zip(rows, n_frames, strict=True)]
        return torch.tensor(found, dtype=torch.float32)

    def _of_one(self, log_probs: np.ndarray, n_frames: int) -> float:
        scores = np.array([hypothesis.score for hypothesis in self.searcher.decode_log_probs(log_probs, n_frames)])
        return float(1.0 / np.exp(scores - scores.max()).sum())
