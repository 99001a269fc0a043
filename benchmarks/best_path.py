"""The bound of fusion: the path through what the exits said that makes the fewest errors.

In each region where exits disagree the *best path* follows the variant that makes the fewest errors in the end. It has
at most oracle A's errors and, chosen with the reference among many paths, is optimistic like every oracle.
"""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits import ExitTable
from eeasr_modules.exits.measure.edits import regions


def best_path_errors(reference: Sequence[str], transcripts: Sequence[Sequence[str]]) -> int:
    """Fewest errors of any path through the variants of several transcripts.

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
    """Fewest errors that fusing the exits up to each one could make; shape (n_utterances, n_exits).

    ValueError when the table has no references.
    """
    if table.references is None:
        raise ValueError("the best path is found with the references, and the table has none")
    errors = np.empty(table.hypotheses.shape, dtype=np.int64)
    for i, (texts, reference) in enumerate(zip(table.hypotheses, table.references)):
        said, heard = reference.split(), [text.split() for text in texts]
        for k in range(table.n_exits):
            errors[i, k] = best_path_errors(said, heard[: k + 1])
    return errors
