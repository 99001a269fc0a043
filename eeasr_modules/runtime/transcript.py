"""Words with times and confidences, of a greedy path or fused, and the transcript that a user gets of a recording.

Fused words are, in place of those of the exit that is taken, the fusion of all exits passed up to there. The model is
the one that replay fuses exit tables with, asked at every exit through the same `step`. Decisions stay those of the
policy, which reads what each exit says for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from eeasr_modules.common.files import rounded
from eeasr_modules.exits.measure.fusion import FUSION_FILE, FusionModel, read_fusion
from eeasr_modules.exits.measure.regions import Heard
from eeasr_modules.exits.policies.protocol import Policy, reach_of
from eeasr_modules.exits.words.confidence import ConfidenceMap
from eeasr_modules.models.folder import model_digest
from eeasr_modules.runtime.sources import Source

WORDS = ("exit", "fused")


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

    def shifted(self, by_s: float) -> Word:
        """The same word later by `by_s`."""
        return replace(self, start_s=self.start_s + by_s, end_s=self.end_s + by_s)


def spell_words(
    best: np.ndarray, probabilities: np.ndarray, *, spellings: Sequence[str], blank_index: int, frame_s: float
) -> tuple[Word, ...]:
    """Words of one utterance.

    Their texts are those of the vocabulary's `decode` on the collapsed path.

    `best` (frames,): best token of each frame, without padding. `spellings`: what each token adds to a transcript:
    `vocabulary.spellings`.

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


def fused_words(
    heard: Heard, paths: Sequence[np.ndarray], *, spellings: Sequence[str], blank_index: int, frame_s: float
) -> tuple[Word, ...]:
    """The words of a fusion, each where and as sure as the exit that said it last has it.

    No word begins before the one before it: exits place a word some frames apart.

    `heard`: at the exit where the utterance stopped. `paths` (2, frames): of the exits passed: best token of each
    frame, and its probability.
    """
    spelled = {
        k: spell_words(
            paths[k][0].astype(np.int64), paths[k][1], spellings=spellings, blank_index=blank_index, frame_s=frame_s
        )
        for k in {k for k, _ in heard.origins}
    }
    words, begin = [], 0.0
    for k, at in heard.origins:
        word = spelled[k][at]
        begin = max(begin, word.start_s)
        words.append(replace(word, start_s=begin, end_s=max(begin, word.end_s)))
    return tuple(words)


def fusion_of(source: Source, words: str | None, *, policy: Policy, searches: bool) -> FusionModel | None:
    """What fuses the words of a model, for a policy.

    Returns: None where words are the exit's.

    `words`: one of `WORDS`; None takes those that the policy was certified for, else the exit's. `searches`: whether a
    beam or an attention decoder gives the words. ValueError when the policy was certified for other words, the folder
    has no `fusion.json`, one of other weights, exits or a fit that the certificate does not name, or the words are a
    search's or an exit's that the policy chooses.
    """
    promise = promise_of_words(source, policy)
    certified = promise.get("words", "exit")
    words = certified if words is None else words
    if words not in WORDS:
        raise ValueError(f"words must be one of {', '.join(WORDS)}, got {words!r}")
    if promise and words != certified:
        said = {"exit": "the words of the exit it takes", "fused": "fused words"}
        raise ValueError(
            f"{policy} was certified for {said[certified]}, which {said[words]} are not: leave the words as they are, "
            "or take a policy without a certificate"
        )
    if words == "exit":
        return None
    source.refuse_own_decoder("fusion")
    if source.folder is None or not (source.folder / FUSION_FILE).is_file():
        raise ValueError(
            f"fused words need a {FUSION_FILE} in the folder of '{source.name}', there is none: fit it on exit tables "
            "of dev with eeasr fusion MODEL TABLE"
        )
    if searches:
        raise ValueError("fusion was fitted on greedy words: leave out the beam or attention decoding, or fused words")
    if reach_of(policy):
        raise ValueError(f"{policy} chooses whose words are said, and so do fused words: take one of them")
    fusion = read_fusion(source.folder, model_digest=model_digest(source.folder), digest=promise.get("fusion"))
    if tuple(source.exit_layers) != tuple(fusion.exit_layers):
        raise ValueError(
            f"fusion was fitted on exits {list(fusion.exit_layers)}, the model has {list(source.exit_layers)}: "
            "fit it again"
        )
    return fusion


def promise_of_words(source: Source, policy: Policy) -> dict:
    """What was certified of a policy of the model's; empty where nothing was.

    Returns: `words` and `fusion` (digest of the file) are there where the words are fused.
    """
    for one in source.calibrated:
        if one.promise and one.promise["certified"] and str(one.policy) == str(policy):
            return one.promise
    return {}


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
