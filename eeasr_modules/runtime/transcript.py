"""Words of a greedy path, with times and confidences.

What a user gets for one recording.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from eeasr_modules.common.files import rounded
from eeasr_modules.exits.words.confidence import ConfidenceMap


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
    spellings : sequence of str
        What each token adds to a transcript: `vocabulary.spellings`.

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


@dataclass(frozen=True)
class Transcript:
    """One recording's transcript and how it came about; or the reason why there is none.

    Arguments
    ---------
    audio : str or None
        Path of the recording as it was given; None for an array.
    text : str
        What was recognised; "" with an error.
    words : tuple of Word
        Of the text, with times in seconds from the beginning.
    exit_layer : int or None
        Layer of the exit that gave the text; of a long recording, which is decided chunk by chunk, the deepest one.
    exit_layers : tuple of int
        Of each chunk; a single one up to half a minute.
    decided_layers : tuple of int
        Exit of each chunk at which it stopped: `exit_layers`, unless the policy emits an earlier one.
    layers_run : float or None
        Encoder layers that ran, the mean over the chunks' seconds.
    n_layers : int
        The encoder's.
    confidence : float or None
        Mean over frames of the best token's probability, 0 to 1; where the model has a confidence map, the share of
        words that are probably right, None without words.
    blank_rates : tuple of float
        Of each chunk, at the exit it left at: share of frames in which nothing was heard. A drift watch reads these and
        `exit_layers`.
    drift : bool or None
        Whether the watch had raised its alarm by then; None when nobody watched.
    risk : bool or None
        The same of the watch on the risk.
    duration_s : float or None
        Seconds of audio.
    policy : str
        What decided.
    model : str
        Its name, as it was given.
    warnings : tuple of str
        What was odd about the audio, such as clipping.
    error : str or None
        Why there is no transcript.
    """

    audio: str | None
    text: str = ""
    words: tuple[Word, ...] = ()
    exit_layer: int | None = None
    exit_layers: tuple[int, ...] = ()
    decided_layers: tuple[int, ...] = ()
    layers_run: float | None = None
    n_layers: int = 0
    confidence: float | None = None
    blank_rates: tuple[float, ...] = ()
    drift: bool | None = None
    risk: bool | None = None
    duration_s: float | None = None
    policy: str = ""
    model: str = ""
    warnings: tuple[str, ...] = ()
    error: str | None = None

    def as_dict(self) -> dict:
        """Plain values, ready for JSON; numbers rounded to what they are good for.

        Example
        -------
        >>> Transcript("a.wav", error="'a.wav' is empty: 0 bytes").as_dict()["error"]
        "'a.wav' is empty: 0 bytes"
        """
        return rounded(asdict(self))


def with_probabilities(words: Sequence[Word], confidence_map: ConfidenceMap, *, exit_layer: int) -> tuple[Word, ...]:
    """The words of one chunk, with probabilities that they are right in place of the head's confidences."""
    if not words:
        return ()
    values = confidence_map.probabilities(
        [word.text for word in words], [word.confidence for word in words], exit_layer=exit_layer
    )
    return tuple(replace(word, confidence=float(value)) for word, value in zip(words, values, strict=True))
