"""What a test pass reads off posteriors besides greedy transcripts and signals, while they live.

Posteriors are not kept (they are hundreds of times larger than a table), so signals of single words, the transcript of
the averaged posteriors of several exits, and the beam search's posterior are made here, exit after exit.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch

from eeasr_modules.models.decode import average_posteriors, greedy_decode
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.nbest import NBEST_SIGNAL, NBest
from eeasr_modules.models.word_signals import WORD_SIGNALS, WordFrames, word_signals

ReadExit = Callable[[int, torch.Tensor, torch.Tensor], None]


class PosteriorReadings:
    """Readings of a whole set, filled batch by batch.

    Arguments
    ---------
    model : MultiExit
        Whose posteriors.
    vocabulary : CharVocabulary or SentencePieceVocabulary
        The model's.
    n_utterances : int
        Of the set.
    average_exits : int
        Average the posteriors of so many last exits; 0 for none.
    nbest : int
        Beam of the search whose best transcript's posterior is the signal `nbest_posterior`; 0 for none.

    Attributes
    ----------
    word_lists : dict of str to np.ndarray of shape (n_utterances, n_exits)
        Of objects: an array per transcript, see `models.word_signals`.
    averaged_hypotheses : np.ndarray of shape (n_utterances, n_exits) or None
        Transcripts of the averaged posteriors; at the first exits, of as many as there are.
    signals : dict of str to np.ndarray of shape (n_utterances, n_exits)
        `nbest_posterior` where it was asked for.

    Raises
    ------
    ValueError
        When `average_exits` or `nbest` is 1: nothing is averaged or compared then.
    """

    def __init__(self, model: MultiExit, vocabulary, n_utterances: int, *, average_exits: int = 0, nbest: int = 0):
        if average_exits == 1:
            raise ValueError("average_exits must be 0 (none) or at least 2, got 1")
        shape = (n_utterances, len(model.exit_layers))
        self.vocabulary, self.blank_index = vocabulary, model.blank_index
        self.average_exits = average_exits
        self.words = WordFrames(vocabulary.spellings, blank_index=model.blank_index)
        self.frame_s = model.frame_s
        self.beam = NBest(vocabulary.tokens, blank_index=model.blank_index, beam_size=nbest) if nbest else None
        self.word_lists = {name: np.empty(shape, dtype=object) for name in WORD_SIGNALS}
        self.averaged_hypotheses = np.empty(shape, dtype=object) if average_exits else None
        self.signals = {NBEST_SIGNAL: np.empty(shape)} if nbest else {}

    def of(self, rows: Sequence[int]) -> ReadExit:
        """The reader of one batch.

        Arguments
        ---------
        rows : sequence of int
            Positions of its utterances in the set.

        Returns
        -------
        callable
            To be called with `exit_index`, log-probs (batch, frames, tokens) and frame counts (batch,) of every exit
            in turn.
        """
        recent: deque[torch.Tensor] = deque(maxlen=max(1, self.average_exits))

        def read(exit_index: int, log_probs: torch.Tensor, n_frames: torch.Tensor) -> None:
            for name, lists in word_signals(log_probs, n_frames, words=self.words, frame_s=self.frame_s).items():
                for row, values in zip(rows, lists, strict=True):
                    self.word_lists[name][row, exit_index] = values
            if self.averaged_hypotheses is not None:
                recent.append(log_probs)
                tokens = greedy_decode(average_posteriors(recent), n_frames, blank_index=self.blank_index)
                self.averaged_hypotheses[rows, exit_index] = [self.vocabulary.decode(ids) for ids in tokens]
            if self.beam is not None:
                self.signals[NBEST_SIGNAL][rows, exit_index] = self.beam.posterior(log_probs, n_frames).numpy()

        return read
