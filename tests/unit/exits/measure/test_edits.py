"""Edit counts, and how the words of two transcripts correspond."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eeasr_modules.exits.measure.edits import (
    align_words,
    count_character_errors,
    count_edits,
    count_word_edits,
    reference_slots,
    regions,
    slot_owners,
    splice,
)
from eeasr_modules.exits.policies.word_gain import word_gains


def distance(a, b):
    """Edit distance by its textbook recurrence."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    table[:, 0], table[0, :] = range(len(a) + 1), range(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            step = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(step, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return int(table[-1, -1])


@pytest.mark.parametrize(
    "reference, hypothesis, expected",
    [
        ("a b c", "a b c", (0, 0, 0)),
        ("a b c", "a x c", (1, 0, 0)),
        ("a b c", "a c", (0, 1, 0)),
        ("a b c", "a b b c", (0, 0, 1)),
        ("", "a b", (0, 0, 2)),
        ("a b", "", (0, 2, 0)),
        ("", "", (0, 0, 0)),
    ],
)
def test_edits_are_counted_by_kind(reference, hypothesis, expected):
    assert count_edits(reference, hypothesis) == expected


def test_totals_equal_the_textbook_recurrence_and_lengths_balance():
    rng = np.random.default_rng(0)
    for _ in range(100):
        first, second = (" ".join(rng.choice(list("abc"), rng.integers(0, 7))) for _ in range(2))
        n_sub, n_del, n_ins = count_edits(first, second)
        assert n_sub + n_del + n_ins == distance(first.split(), second.split()) == count_word_edits(first, second)
        assert len(first.split()) - n_del + n_ins == len(second.split())
        assert count_character_errors(first, second) == distance(first, second)


WORDS = st.lists(st.sampled_from("abcd"), max_size=8)


@given(WORDS, WORDS)
def test_a_word_is_the_same_only_where_its_source_is_equal(earlier, words):
    alignment = align_words(earlier, words)
    for t, source in enumerate(alignment.source):
        assert alignment.same[t] == (source >= 0 and earlier[source] == words[t])
    aligned = alignment.source[alignment.source >= 0]
    assert (np.diff(aligned) > 0).all()


@given(WORDS, WORDS)
def test_splicing_all_regions_gives_the_other_transcript_and_none_gives_the_own(words, other):
    found = regions(words, other)
    assert splice(words, other, found) == other
    assert splice(words, other, []) == words
    assert all(a.end < b.start or a.other_end < b.other_start for a, b in pairwise(found))


@given(WORDS, WORDS)
def test_errors_of_the_slots_sum_to_the_word_edits(reference, words):
    slots = reference_slots(reference, words)
    assert slots.errors.sum() == count_word_edits(" ".join(reference), " ".join(words))
    if words:
        owners = slot_owners(slots)
        assert (np.diff(owners) >= 0).all() and set(owners) <= set(range(len(words)))


@given(WORDS, st.lists(WORDS, min_size=2, max_size=4))
def test_gains_of_words_sum_to_the_difference_of_the_errors(reference, transcripts):
    hypotheses = np.empty((1, len(transcripts)), dtype=object)
    hypotheses[0] = [" ".join(words) for words in transcripts]
    errors = [count_word_edits(" ".join(reference), text) for text in hypotheses[0]]
    for k, gains in enumerate(word_gains(hypotheses, [" ".join(reference)])):
        if transcripts[k]:
            assert gains.sum(axis=0) == pytest.approx([0 if j < k else errors[k] - e for j, e in enumerate(errors)])
