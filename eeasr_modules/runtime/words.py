"""Words of a greedy path, with times and confidences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Word:
    """One word.

    Arguments
    ---------
    text : str
        As recognised.
    start_s, end_s : float
        From the beginning of the audio; of the frames that spell it, which CTC makes as short as it likes.
    confidence : float
        Mean over those frames of the best token's probability, 0 to 1; where the model has a confidence map, the
        probability that the word is right.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float

    def shifted(self, by_s: float) -> "Word":
        """The same word later by `by_s`."""
        return replace(self, start_s=self.start_s + by_s, end_s=self.end_s + by_s)


def spell_words(
    best: np.ndarray, probabilities: np.ndarray, *, spellings: Sequence[str], blank_index: int, frame_s: float
) -> tuple[Word, ...]:
    """Words of one utterance.

    Arguments
    ---------
    best : np.ndarray of shape (frames,)
        Best token of each frame, without padding.
    probabilities : np.ndarray of shape (frames,)
        Its probability.
    spellings : sequence of str
        What each token adds to a transcript: `vocabulary.spellings`.
    blank_index : int
        Index of blank.
    frame_s : float
        Seconds of a frame.

    Returns
    -------
    tuple of Word
        Their texts are those of the vocabulary's `decode` on the collapsed path.

    Example
    -------
    >>> from eeasr_modules.data.text import CharVocabulary
    >>> path = np.array([0, 9, 9, 0, 20, 1, 1, 15])
    >>> [(w.text, round(w.start_s, 2), round(w.end_s, 2)) for w in spell_words(
    ...     path, np.ones(8), spellings=CharVocabulary().spellings, blank_index=0, frame_s=0.04)]
    [('HS', 0.04, 0.2), ('N', 0.28, 0.32)]
    """
    edges = np.flatnonzero(np.diff(best, prepend=-1, append=-1))  # where runs of one token begin, and the end
    words, letters, frames = [], "", []
    for begin, end in pairwise(edges.tolist()):
        token = int(best[begin])
        if token == blank_index:
            continue
        if spellings[token][:1] == " " and letters:
            words.append((letters, frames))
            letters, frames = "", []
        if text := spellings[token].strip():
            letters, frames = letters + text, [*frames, (begin, end)]
    if letters:
        words.append((letters, frames))
    return tuple(_word(text, frames, probabilities, frame_s) for text, frames in words)


def _word(text: str, frames: Sequence[tuple[int, int]], probabilities: np.ndarray, frame_s: float) -> Word:
    spelled = np.concatenate([probabilities[begin:end] for begin, end in frames])
    return Word(text, frames[0][0] * frame_s, frames[-1][1] * frame_s, float(spelled.mean(dtype=np.float64)))
