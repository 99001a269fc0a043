import numpy as np
import pytest

from eeasr_modules.exits.tables.table import speaker_folds


def test_speakers_are_whole_folds_are_even_and_order_does_not_matter(make_table):
    table = make_table(n=90, n_speakers=25)
    fold = speaker_folds(table, 10)
    for speaker in set(table.speakers):
        assert len(set(fold[table.speakers == speaker])) == 1
    speakers_in = [len(set(table.speakers[fold == i])) for i in range(10)]
    assert sorted(set(speakers_in)) == [2, 3]
    order = np.random.default_rng(0).permutation(90)
    assert (speaker_folds(table.select(order), 10) == fold[order]).all()
    assert (speaker_folds(table, 10, seed=1) != fold).any()


def test_the_rule_is_frozen(make_table):
    # others deal their tables by it: another outcome would be another benchmark
    table = make_table(n=12, n_speakers=12)
    assert speaker_folds(table, 4).tolist() == [0, 2, 1, 3, 2, 3, 1, 2, 0, 1, 0, 3]


def test_unknown_speakers_stand_for_themselves_and_few_make_few_folds(make_table):
    table = make_table(n=20, n_speakers=4)
    assert set(speaker_folds(table, 10)) == {0, 1, 2, 3}
    table.speakers[:] = ""
    assert len(set(speaker_folds(table, 10))) == 10
    table.speakers[:] = "one"
    assert len(set(speaker_folds(table, 10))) == 10
    with pytest.raises(ValueError, match="at least 2, got 1"):
        speaker_folds(table, 1)
    with pytest.raises(ValueError, match="at least two utterances to be judged on others, got 1"):
        speaker_folds(table.select(np.array([0])))
