"""Regions where exits disagree: fused, and seen as features.

Both variants of a region are described by their words and by who said the same before; what later exits need is kept
per utterance (`Heard`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.measure.edits import Region, regions
from eeasr_modules.exits.words.resources import WordSpelling
from eeasr_modules.exits.words.signals import NO_NEIGHBOUR_ZIPF

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
    """What an utterance's exits so far leave to the next one."""

    words: list[str]  # the fused transcript
    ages: list[int]  # how many exits each of its words has lasted
    transcripts: tuple[str, ...]  # those of all exits so far, each between spaces
    scalars: np.ndarray  # (n_scalars,), signals of the last exit
    origins: list[tuple[int, int]]  # which exit, from 0, said each of its words last, and as which of its own words


def feature_names(scalars: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns that `region_rows` gives."""
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
    """Features of every region of disagreement of one utterance at one exit; columns as `feature_names` says.

    `scalars` (n_scalars,): signals of this exit.
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


# asked with features (n_regions, n_features) and the utterance of each: True where the earlier variant stays
Keeps = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class AtExit:
    """All regions of a batch at one exit."""

    words: list[list[str]]  # n_utterances long, the exit's transcripts
    found: list[list[Region]]  # n_utterances long, where each disagrees with what was heard before
    features: np.ndarray  # (n_regions, n_features), of `region_rows`; empty without regions
    utterance: np.ndarray  # (n_regions,), which utterance a region belongs to


def pass_exit(
    texts: list[str],
    heard: list[Heard | None],
    *,
    exit_index: int,
    scalars: np.ndarray,
    spelling: WordSpelling,
    keeps: Keeps,
) -> tuple[list[Heard], AtExit]:
    """Fuse one exit's transcripts with what was heard before.

    `heard` (n_utterances long): of the exits before; None at the first exit. `scalars` (n_utterances, n_scalars):
    signals of this exit. `keeps`: see `Keeps`; asked once for all regions of the batch, and not where there are none.

    Returns
    -------
    heard : list of Heard, n_utterances long
        With this exit.
    at_exit : AtExit
        What was decided upon.
    """
    words = [text.split() for text in texts]
    found = [[] if old is None or old.words == new else regions(new, old.words) for new, old in zip(words, heard)]
    rows, of_row = [], []
    for i, here in enumerate(found):
        if here:
            rows += region_rows(words[i], heard[i], here, exit_index=exit_index, scalars=scalars[i], spelling=spelling)
            of_row += [i] * len(here)
    features, utterance = np.array(rows), np.array(of_row, dtype=np.int64)
    kept = iter(keeps(features, utterance)) if rows else iter(())
    after = []
    for new, old, here, text_scalars in zip(words, heard, found, scalars):
        text = (f" {' '.join(new)} ",)
        if old is None:
            after.append(Heard(new, [1] * len(new), text, text_scalars, _origins(exit_index, 0, len(new))))
            continue
        fused, ages, origins = _combine(new, old, here, [next(kept) for _ in here], exit_index)
        after.append(Heard(fused, ages, old.transcripts + text, text_scalars, origins))
    return after, AtExit(words, found, features, utterance)


def _origins(exit_index: int, start: int, end: int) -> list[tuple[int, int]]:
    return [(exit_index, at) for at in range(start, end)]


def _combine(
    new: list[str], old: Heard, found: list[Region], stays: list[bool], exit_index: int
) -> tuple[list[str], list[int], list[tuple[int, int]]]:
    """The fused words, how many exits each has lasted, and where each comes from."""
    words, ages, origins, at, old_at = [], [], [], 0, 0
    for region, stay in zip([*found, None], [*stays, False]):
        end = len(new) if region is None else region.start
        words += new[at:end]
        ages += [age + 1 for age in old.ages[old_at : old_at + end - at]]
        origins += _origins(exit_index, at, end)
        if region is None:
            break
        if stay:
            kept = slice(region.other_start, region.other_end)
            words += old.words[kept]
            ages += old.ages[kept]
            origins += old.origins[kept]
        else:
            words += new[region.start : region.end]
            ages += [1] * (region.end - region.start)
            origins += _origins(exit_index, region.start, region.end)
        at, old_at = region.end, region.other_end
    return words, ages, origins
