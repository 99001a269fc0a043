import numpy as np
import pytest

from eeasr_modules.exits.measure.edits import count_character_errors, count_edits, count_word_edits


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
