"""What fusion could reach at best: the path with the fewest errors through the aligned variants.

The transcript of an exit is a path of words. Where an earlier exit disagrees with it, the earlier variant leads from
the region's beginning to its end as another way. The *best path* follows, in each region, whichever variant makes the
fewest errors in the end; every exit's own transcript is among the paths, so it has at most oracle A's errors. Like
every oracle it is chosen with the reference known, among many paths, and optimistic for it.
"""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.table import ExitTable
from eeasr_modules.exits.word_alignment import regions


def best_path_errors(reference: Sequence[str], transcripts: Sequence[Sequence[str]]) -> int:
    """Fewest errors of any path through the variants of several transcripts.

    Arguments
    ---------
    reference : sequence of str
        Words that were said.
    transcripts : sequence of sequences of str
        Words of each transcript; the others are aligned with the last one.

    Returns
    -------
    int
        Substitutions + deletions + insertions.

    Example
    -------
    >>> best_path_errors("the cat sat".split(), ["the cat set".split(), "a cat sat".split()])
    0
    """
    *others, words = (list(words) for words in transcripts)
    ways = {(region.start, region.end, tuple(other[region.other_start : region.other_end]))
            for other in others if other != words for region in regions(words, other)}  # fmt: skip
    if not ways:
        return Levenshtein.distance(list(reference), words)
    word_ids = {word: i for i, word in enumerate(set(reference))}
    said = np.array([word_ids[word] for word in reference], dtype=np.int64)
    here = np.arange(len(said) + 1)

    def after(errors: np.ndarray, heard: Sequence[str]) -> np.ndarray:
        """Fewest errors against each beginning of the reference, some words later."""
        for word in heard:
            wrong = said != word_ids.get(word, -1)
            longer = errors + 1
            longer[1:] = np.minimum(longer[1:], errors[:-1] + wrong)
            errors = np.minimum.accumulate(longer - here) + here  # words of the reference left out
        return errors

    leaving: dict[int, list[tuple[int, tuple[str, ...]]]] = {}
    for start, end, variant in sorted(ways):
        leaving.setdefault(start, []).append((end, variant))
    at = [None] * (len(words) + 1)  # errors at each place between the words
    at[0] = here.copy()
    for place in range(len(words) + 1):
        arrived = at[place]
        for end, variant in leaving.get(place, ()):
            reached = after(arrived, variant)
            at[end] = reached if at[end] is None else np.minimum(at[end], reached)
        if place < len(words):
            reached = after(at[place], words[place : place + 1])
            at[place + 1] = reached if at[place + 1] is None else np.minimum(at[place + 1], reached)
    return int(at[-1][-1])


def lattice_errors(table: ExitTable) -> np.ndarray:
    """Fewest errors that fusing the exits up to each one could make.

    Arguments
    ---------
    table : ExitTable
        With references; its hypotheses those of the exits, not fused ones.

    Returns
    -------
    np.ndarray of shape (n_utterances, n_exits)

    Raises
    ------
    ValueError
        When the table has no references.
    """
    if table.references is None:
        raise ValueError("the best path is found with the references, and the table has none")
    errors = np.empty(table.hypotheses.shape, dtype=np.int64)
    for i, (texts, reference) in enumerate(zip(table.hypotheses, table.references)):
        said, heard = reference.split(), [text.split() for text in texts]
        for k in range(table.n_exits):
            errors[i, k] = best_path_errors(said, heard[: k + 1])
    return errors
