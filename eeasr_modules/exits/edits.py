"""Edit counts between transcripts: words by substitution, deletion and insertion, characters as one number.

A transcript is a text; its words are what whitespace separates. Counts are per utterance, so that word error
rates can be pooled (summed edits over summed reference words), never averaged.
"""

from rapidfuzz.distance import Levenshtein


def count_edits(reference: str, hypothesis: str) -> tuple[int, int, int]:
    """Word substitutions, deletions and insertions of one cheapest alignment.

    The sum is the word edit distance and unique; how it splits into the three kinds is not always.

    Arguments
    ---------
    reference : str
        What was said.
    hypothesis : str
        What was recognised.

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

    Arguments
    ---------
    reference : str
        What was said.
    hypothesis : str
        What was recognised.

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

    Arguments
    ---------
    first : str
        One transcript.
    second : str
        The other.

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
