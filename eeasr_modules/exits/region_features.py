"""What a fusion model sees of a region where an exit's transcript disagrees with the transcript fused so far.

Both variants of the region are described by their words and by who said the same before. What later exits need of
the exits passed is kept per utterance (`Heard`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.word_alignment import Region
from eeasr_modules.exits.word_features import NO_NEIGHBOUR_ZIPF
from eeasr_modules.exits.word_spelling import WordSpelling

UNCOMMON_ZIPF = 4.0  # how far words are below this is summed
RARE_ZIPF = 2.0
EMPTY_ZIPF = 8.0  # of the rarest word where there is none
_OF_VARIANT = (
    "n_words",
    "n_unknown",
    "n_rare",
    "rarity",
    "least_zipf",
    "n_chars",
    "char_score",
    "char_score_mean",
    "n_no_vowel",
)
_OF_PAIR = (
    "distance",
    "distance_unspaced",
    "same_letters",
    "zipf_before",
    "zipf_after",
    "support",
    "earlier_support",
    "support_in_place",
    "earlier_support_in_place",
    "earlier_age",
    "n_regions",
    "n_words_in_all",
    "place",
    "exit_index",
)
FEATURES = (
    *_OF_VARIANT,
    *(f"earlier_{name}" for name in _OF_VARIANT),
    *(f"{name}_difference" for name in _OF_VARIANT),
    *_OF_PAIR,
)


class Heard(NamedTuple):
    """What an utterance's exits so far leave to the next one.

    Arguments
    ---------
    words : list of str
        The fused transcript.
    ages : list of int
        How many exits each of its words has lasted.
    transcripts : tuple of str
        Those of all exits so far, each between spaces.
    scalars : np.ndarray of shape (n_scalars,)
        Signals of the last exit.
    """

    words: list[str]
    ages: list[int]
    transcripts: tuple[str, ...]
    scalars: np.ndarray


def feature_names(scalars: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns that `region_rows` gives.

    Arguments
    ---------
    scalars : sequence of str
        Signals of utterances.

    Returns
    -------
    tuple of str
    """
    return (*FEATURES, *scalars, *(f"{name}_earlier" for name in scalars))


def region_rows(
    words: list[str],
    heard: Heard,
    found: Sequence[Region],
    *,
    exit_index: int,
    scalars: np.ndarray,
    spelling: WordSpelling,
) -> list[list[float]]:
    """Features of every region of disagreement of one utterance at one exit.

    Arguments
    ---------
    words : list of str
        This exit's transcript.
    heard : Heard
        Of the exits before.
    found : sequence of Region
        `regions(words, heard.words)`.
    exit_index : int
        From 0.
    scalars : np.ndarray of shape (n_scalars,)
        Signals of this exit.
    spelling : WordSpelling
        Of the language.

    Returns
    -------
    list of lists of float, (n_regions, n_features)
        Columns as `feature_names` says.
    """
    shared = [float(len(found)), float(len(words))]
    signals = [*scalars, *heard.scalars]
    # the exit before is what the earlier variant mostly comes from, and would support it always
    others = heard.transcripts[:-1]
    rows = []
    for region in found:
        ours, theirs = words[region.start : region.end], heard.words[region.other_start : region.other_end]
        before = words[region.start - 1] if region.start else ""
        after = words[region.end] if region.end < len(words) else ""
        of_ours, of_theirs = _of_variant(ours, spelling), _of_variant(theirs, spelling)
        text, other = " ".join(ours), " ".join(theirs)
        letters, other_letters = "".join(ours), "".join(theirs)
        rows.append(
            [
                *of_ours,
                *of_theirs,
                *(a - b for a, b in zip(of_ours, of_theirs)),
                float(Levenshtein.distance(text, other)),
                float(Levenshtein.distance(letters, other_letters)),
                float(letters == other_letters),
                spelling.resources.zipf(before) if before else NO_NEIGHBOUR_ZIPF,
                spelling.resources.zipf(after) if after else NO_NEIGHBOUR_ZIPF,
                _support(text, others),
                _support(other, others),
                _support(" ".join(filter(None, (before, text, after))), others),
                _support(" ".join(filter(None, (before, other, after))), others),
                float(min(heard.ages[region.other_start : region.other_end], default=0)),
                *shared,
                region.start / max(1, len(words)),
                float(exit_index),
                *signals,
            ]
        )
    return rows


def _of_variant(words: list[str], spelling: WordSpelling) -> list[float]:
    """The columns `_OF_VARIANT`; sums are by hand, since a region is a word or two."""
    n_unknown = n_rare = rarity = n_chars = score = n_no_vowel = 0.0
    least = EMPTY_ZIPF
    for word in words:
        zipf, length, char_score, _, no_vowel, _ = spelling.row(word)
        n_unknown += zipf == 0
        n_rare += zipf < RARE_ZIPF
        rarity += max(0.0, UNCOMMON_ZIPF - zipf)
        least = min(least, zipf)
        n_chars += length
        score += char_score
        n_no_vowel += no_vowel
    n = float(len(words))
    return [n, n_unknown, n_rare, rarity, least, n_chars, score, score / (1 + n_chars + n), n_no_vowel]


def _support(text: str, transcripts: Sequence[str]) -> float:
    """How many transcripts hold the words; -1 for no words."""
    return float(sum(f" {text} " in one for one in transcripts)) if text else -1.0
