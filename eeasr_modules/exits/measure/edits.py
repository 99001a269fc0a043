"""Edit counts between transcripts, and how their words correspond.

A transcript is a text; its words are what whitespace separates. Counts (words by substitution, deletion and insertion;
characters as one number) are per utterance, so that word error rates can be pooled (summed edits over summed reference
words), never averaged. Alignments are Levenshtein's (rapidfuzz), of lists of words.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein


def count_edits(reference: str, hypothesis: str) -> tuple[int, int, int]:
    """Word substitutions, deletions and insertions of one cheapest alignment: (n_sub, n_del, n_ins).

    The sum is the word edit distance and unique; how it splits into the three kinds is not always.

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

    Example
    -------
    >>> count_character_errors("one two", "one  too")
    1
    """
    return Levenshtein.distance(" ".join(reference.split()), " ".join(hypothesis.split()))


def count_word_edits(first: str, second: str) -> int:
    """Word edits between two transcripts: substitutions + deletions + insertions.

    Example
    -------
    >>> count_word_edits("a b c", "a c d")
    2
    """
    return Levenshtein.distance(first.split(), second.split())


def edit_counts(hypotheses: np.ndarray, references: Sequence[str]) -> dict[str, np.ndarray]:
    """Edits of every transcript (n_utterances, n_exits) against its utterance's reference, each of the same shape.

    By name: `n_sub`, `n_del`, `n_ins` of words, and `n_char_errors`.

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


def matched_words(reference: Sequence[str], words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which words of a reference, and which of a transcript, a cheapest alignment matches; masks as long as they are.

    Example
    -------
    >>> [mask.tolist() for mask in matched_words("A CAT SAT".split(), "A BAT SAT DOWN".split())]
    [[True, False, True], [True, False, True, False]]
    """
    of_reference, of_words = np.ones(len(reference), dtype=bool), np.ones(len(words), dtype=bool)
    for step in Levenshtein.editops(list(reference), list(words)):
        if step.tag != "insert":
            of_reference[step.src_pos] = False
        if step.tag != "delete":
            of_words[step.dest_pos] = False
    return of_reference, of_words


class Alignment(NamedTuple):
    """Where the words of a transcript were in an earlier one."""

    # (n_words,), index of the earlier word that stood in this place, equal or replaced; -1 where there was none
    source: np.ndarray
    same: np.ndarray  # (n_words,), True where the earlier word was equal
    dropped_before: np.ndarray  # (n_words,), earlier words that stood before this word and are gone


class Region(NamedTuple):
    """A disagreement of two transcripts: words `start:end` of one against `other_start:other_end` of the other."""

    start: int
    end: int
    other_start: int
    other_end: int


def align_words(earlier: Sequence[str], words: Sequence[str]) -> Alignment:
    """Where each word was in an earlier transcript.

    Example
    -------
    >>> alignment = align_words("the big cat sat".split(), "the cat sat down".split())
    >>> alignment.source.tolist(), alignment.dropped_before.tolist()
    ([0, 2, 3, -1], [0.0, 1.0, 0.0, 0.0])
    """
    n = len(words)
    dropped = np.zeros(n)
    if earlier == words:
        return Alignment(np.arange(n), np.ones(n, dtype=bool), dropped)
    source, same = [-1] * n, [False] * n
    for tag, first, last, start, end in Levenshtein.opcodes(earlier, words):
        if tag == "delete":
            if start < n:
                dropped[start] += last - first
        elif tag != "insert":
            source[start:end] = range(first, first + end - start)
            if tag == "equal":
                same[start:end] = [True] * (end - start)
    return Alignment(np.array(source, dtype=np.int64), np.array(same, dtype=bool), dropped)


def regions(words: Sequence[str], other: Sequence[str]) -> list[Region]:
    """Where two transcripts disagree, neighbouring edits taken together, from left to right.

    Example
    -------
    >>> regions("to be or not".split(), "two bee or".split())
    [Region(start=0, end=2, other_start=0, other_end=2), Region(start=3, end=4, other_start=3, other_end=3)]
    """
    found: list[Region] = []
    for tag, start, end, other_start, other_end in Levenshtein.opcodes(words, other):
        if tag == "equal":
            continue
        if found and found[-1].end == start and found[-1].other_end == other_start:
            start, other_start = found.pop()[::2]
        found.append(Region(start, end, other_start, other_end))
    return found


def splice(words: Sequence[str], other: Sequence[str], chosen: Sequence[Region]) -> list[str]:
    """One transcript with the other's words in some of `regions(words, other)`, chosen from left to right.

    Example
    -------
    >>> first, second = "to be or not".split(), "two bee or".split()
    >>> splice(first, second, regions(first, second)[1:])
    ['to', 'be', 'or']
    """
    spliced: list[str] = []
    at = 0
    for region in chosen:
        spliced += words[at : region.start]
        spliced += other[region.other_start : region.other_end]
        at = region.end
    spliced += words[at:]
    return spliced


class Slots(NamedTuple):
    """Errors of a transcript in each slot of the reference (its words, and the end)."""

    errors: np.ndarray  # (n_reference_words + 1,), substitution or deletion of the word, plus insertions before it
    of_word: np.ndarray  # (n_words,), the slot that each word of the transcript was aligned with


def reference_slots(reference: Sequence[str], words: Sequence[str]) -> Slots:
    """Where in the reference a transcript errs.

    Two transcripts of one utterance can so be compared place by place: the differences of their slots' errors
    sum to the difference of their errors.

    Example
    -------
    >>> slots = reference_slots("a b c".split(), "a x c d".split())
    >>> slots.errors.tolist(), slots.of_word.tolist()
    ([0.0, 1.0, 0.0, 1.0], [0, 1, 2, 3])
    """
    errors = np.zeros(len(reference) + 1)
    of_word = np.zeros(len(words), dtype=np.int64)
    for tag, start, end, first, last in Levenshtein.opcodes(reference, words):
        if tag == "insert":
            of_word[first:last] = start
            errors[start] += last - first
            continue
        if tag != "delete":
            of_word[first:last] = range(start, end)
        if tag != "equal":
            errors[start:end] += 1
    return Slots(errors, of_word)


def slot_owners(slots: Slots) -> np.ndarray:
    """The word to which each slot of the reference belongs; shape (n_reference_words + 1,), index of a word.

    The first word aligned with a slot owns it; a slot without one (a deleted word) belongs to the owner of
    the slot before, the first slots to the first word.

    Example
    -------
    >>> slot_owners(reference_slots("a b c".split(), "b c".split())).tolist()
    [0, 0, 1, 1]
    """
    owner = np.zeros(len(slots.errors), dtype=np.int64)
    # words are in order, so the owner of a slot is the first word of the last slot that has any
    owned, first_word = np.unique(slots.of_word, return_index=True)
    owner[owned] = first_word
    return np.maximum.accumulate(owner)
