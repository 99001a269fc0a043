"""Edit counts between transcripts: words by substitution, deletion and insertion, characters as one number.

A transcript is a text; its words are what whitespace separates. Counts are per utterance, so that word error
rates can be pooled (summed edits over summed reference words), never averaged.
"""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein


def count_edits(reference: str, hypothesis: str) -> tuple[int, int, int]:
    """Word substitutions, deletions and insertions of one cheapest alignment.

    The sum is the word edit distance and unique; how it splits into the three kinds is not always.

    Returns
    -------
    tuple of int
        (n_sub, n_del, n_ins)

    Example
    -------
    >>> count_edits("one two three", "one too three four")
    (1, 0, 1)
    >>> count_edits("one two", "")
    (0, 2, 0)
    """
    operations = [op.tag for op in Levenshtein.editops(reference.split(), hypothesis.split())]
    return operations.count("replace"), operations.count("delete"), operations.count("insert")


def count_character_errors(reference: str, hypothesis: str) -> int:
    """Character edits between two transcripts; single spaces between words count as characters.

    Returns
    -------
    int
        Substitutions + deletions + insertions of characters.

    Example
    -------
    >>> count_character_errors("one two", "one  too")
    1
    """
    return Levenshtein.distance(" ".join(reference.split()), " ".join(hypothesis.split()))


def count_word_edits(first: str, second: str) -> int:
    """Word edits between two transcripts.

    Returns
    -------
    int
        Substitutions + deletions + insertions of words.

    Example
    -------
    >>> count_word_edits("a b c", "a c d")
    2
    """
    return Levenshtein.distance(first.split(), second.split())


def edit_counts(hypotheses: np.ndarray, references: Sequence[str]) -> dict[str, np.ndarray]:
    """Edits of every transcript of a table against its utterance's reference.

    Arguments
    ---------
    hypotheses : np.ndarray of str objects, of shape (n_utterances, n_exits)
        Transcripts.
    references : sequence of str, n_utterances long
        What was said.

    Returns
    -------
    dict of str to np.ndarray of shape (n_utterances, n_exits)
        `n_sub`, `n_del`, `n_ins` of words, and `n_char_errors`.

    Example
    -------
    >>> counts = edit_counts(np.array([["a c", "a b"]], dtype=object), ["a b"])
    >>> counts["n_sub"], counts["n_char_errors"]
    (array([[1, 0]]), array([[1, 0]]))
    """
    pairs = [(reference, text) for reference, row in zip(references, hypotheses, strict=True) for text in row]
    words = np.array([count_edits(*pair) for pair in pairs], dtype=np.int64).reshape(*hypotheses.shape, 3)
    characters = np.array([count_character_errors(*pair) for pair in pairs], dtype=np.int64)
    kinds = dict(zip(("n_sub", "n_del", "n_ins"), np.moveaxis(words, -1, 0), strict=True))
    return {**kinds, "n_char_errors": characters.reshape(hypotheses.shape)}
