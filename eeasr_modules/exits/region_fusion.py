"""Fusing the transcripts of one exit with what was heard before, whoever decides which variants stay."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits.region_features import Heard, region_rows
from eeasr_modules.exits.word_alignment import Region, regions
from eeasr_modules.exits.word_spelling import WordSpelling

# asked with features (n_regions, n_features) and the utterance of each: True where the earlier variant stays
Keeps = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class AtExit:
    """All regions of a batch at one exit.

    Arguments
    ---------
    words : list of lists of str, n_utterances long
        The exit's transcripts.
    found : list of lists of Region, n_utterances long
        Where each disagrees with what was heard before.
    features : np.ndarray of shape (n_regions, n_features)
        Of `region_rows`; empty without regions.
    utterance : np.ndarray of shape (n_regions,)
        Which utterance a region belongs to.
    """

    words: list[list[str]]
    found: list[list[Region]]
    features: np.ndarray
    utterance: np.ndarray


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

    Arguments
    ---------
    texts : list of str, n_utterances long
        Transcripts of this exit.
    heard : list of Heard or None, n_utterances long
        Of the exits before; None at the first exit.
    exit_index : int
        From 0.
    scalars : np.ndarray of shape (n_utterances, n_scalars)
        Signals of this exit.
    spelling : WordSpelling
        Of the language.
    keeps : callable
        See `Keeps`; asked once for all regions of the batch, and not where there are none.

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
            after.append(Heard(new, [1] * len(new), text, text_scalars))
            continue
        stays = [next(kept) for _ in here]
        fused, ages = _combine(new, old, here, stays)
        after.append(Heard(fused, ages, old.transcripts + text, text_scalars))
    return after, AtExit(words, found, features, utterance)


def _combine(new: list[str], old: Heard, found: list[Region], stays: list[bool]) -> tuple[list[str], list[int]]:
    """The fused words, and how many exits each has lasted."""
    words, ages, at, old_at = [], [], 0, 0
    for region, stay in zip([*found, None], [*stays, False]):
        end = len(new) if region is None else region.start
        words += new[at:end]
        ages += [age + 1 for age in old.ages[old_at : old_at + end - at]]
        if region is None:
            break
        if stay:
            words += old.words[region.other_start : region.other_end]
            ages += old.ages[region.other_start : region.other_end]
        else:
            words += new[region.start : region.end]
            ages += [1] * (region.end - region.start)
        at, old_at = region.end, region.other_end
    return words, ages
