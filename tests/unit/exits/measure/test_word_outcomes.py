import json

import numpy as np
import pytest

from eeasr_modules.exits.measure.bounds import word_outcomes
from eeasr_modules.exits.measure.edits import count_edits, matched_words
from eeasr_modules.exits.tables.table import ExitTable


def table_of(hypotheses, references):
    n = len(references)
    return ExitTable.from_hypotheses(
        hypotheses,
        references,
        utt_ids=[f"u{i}" for i in range(n)],
        exit_layers=[2, 4, 6],
        duration_s=[1.0] * n,
        n_frames=[50] * n,
    )


def test_words_are_counted_by_what_became_of_them():
    outcomes = word_outcomes(table_of([["a x c", "a b x", "a y c"], ["", "d", "e"]], ["a b c", "d"]))
    assert outcomes.n_words == 4
    assert outcomes.exit_layers.tolist() == [2, 4]
    assert outcomes.regressive.tolist() == [0.0, 0.5]  # b and d at layer 4
    assert outcomes.progressive.tolist() == [0.0, 0.25]  # c
    assert (outcomes.destructive, outcomes.wasteful, outcomes.never_right) == (0.5, 0.5, 0.0)
    json.dumps(outcomes.as_dict())


def test_shares_add_up_to_the_difference_in_words_right():
    rng = np.random.default_rng(0)
    words = np.array(["a", "b", "c", "d"])
    texts = [[" ".join(rng.choice(words, rng.integers(0, 7))) for _ in range(4)] for _ in range(60)]
    outcomes = word_outcomes(table_of([row[:3] for row in texts], [row[3] for row in texts]))
    right = np.array([[matched_words(row[3].split(), hyp.split())[0].sum() for hyp in row[:3]] for row in texts]).sum(
        axis=0
    )
    difference = (right[2] - right[:2]) / outcomes.n_words
    assert outcomes.progressive - outcomes.regressive == pytest.approx(difference)


def test_wrong_words_are_substitutions_and_deletions():
    rng = np.random.default_rng(1)
    for _ in range(200):
        reference, hypothesis = (" ".join(rng.choice(list("abc"), rng.integers(0, 6))) for _ in range(2))
        n_sub, n_del, _ = count_edits(reference, hypothesis)
        assert (~matched_words(reference.split(), hypothesis.split())[0]).sum() == n_sub + n_del


def test_a_table_without_references_or_words_is_refused():
    table = table_of([["a", "a", "a"]], ["a"])
    with pytest.raises(ValueError, match="need references"):
        word_outcomes(table.without_references())
