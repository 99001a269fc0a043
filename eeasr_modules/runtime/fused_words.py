"""Fused words, live: in place of the words of the exit that is taken, the fusion of all exits passed up to there.

The model is the one that replay fuses exit tables with, asked at every exit through the same `step`. Decisions stay
those of the policy, which reads what each exit says for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eeasr_modules.exits.measure.fusion import FUSION_FILE, FusionModel, read_fusion
from eeasr_modules.exits.measure.regions import Heard
from eeasr_modules.exits.policies.protocol import Policy, reach_of
from eeasr_modules.models.folder import model_digest
from eeasr_modules.runtime.sources import Source
from eeasr_modules.runtime.transcript import Word, spell_words

WORDS = ("exit", "fused")


def fusion_of(source: Source, words: str | None, *, policy: Policy, searches: bool) -> FusionModel | None:
    """What fuses the words of a model, for a policy.

    Arguments
    ---------
    words : str or None
        One of `WORDS`; None takes those that the policy was certified for, else the exit's.
    searches : bool
        Whether a beam or an attention decoder gives the words.

    Returns
    -------
    FusionModel or None
        None where words are the exit's.

    Raises
    ------
    ValueError
        When the policy was certified for other words, the folder has no `fusion.json`, one of other weights, exits or a
        fit that the certificate does not name, or the words are a search's or an exit's that the policy chooses.
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

    Returns
    -------
    dict
        `words` and `fusion` (digest of the file) are there where the words are fused.
    """
    for one in source.calibrated:
        if one.promise and one.promise["certified"] and str(one.policy) == str(policy):
            return one.promise
    return {}


def fused_words(
    heard: Heard, paths: Sequence[np.ndarray], *, spellings: Sequence[str], blank_index: int, frame_s: float
) -> tuple[Word, ...]:
    """The words of a fusion, each where and as sure as the exit that said it last has it.

    Arguments
    ---------
    heard : Heard
        At the exit where the utterance stopped.
    paths : sequence of np.ndarray of shape (2, frames)
        Of the exits passed: best token of each frame, and its probability.

    Returns
    -------
    tuple of Word
        None begins before the one before it: exits place a word some frames apart.
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
