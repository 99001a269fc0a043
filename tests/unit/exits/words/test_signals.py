import numpy as np
import pytest

from eeasr_modules.exits.words.signals import text_signals, text_signals_at_exit, uniform


def test_changes_are_edits_to_the_exit_before_over_own_length():
    signals = text_signals(np.array([["ab", "abc d", "", "x"]], dtype=object))
    assert signals["char_change"][0] == pytest.approx([1.0, 3 / 5, 5.0, 1.0])
    assert signals["word_change"][0] == pytest.approx([1.0, 2 / 2, 2.0, 1.0])
    assert signals["n_chars"][0].tolist() == [2, 5, 0, 1]
    assert signals["n_words"][0].tolist() == [1, 2, 0, 1]


def test_an_unchanged_transcript_has_change_zero_and_an_empty_first_exit_too():
    signals = text_signals(np.array([["", ""], ["a b", "a b"]], dtype=object))
    assert signals["char_change"].tolist() == [[0, 0], [1, 0]]


def test_exit_by_exit_gives_what_the_whole_table_gives():
    texts = np.array([["a", "ab", "ab c"], ["", "x y", "x"]], dtype=object)
    whole = text_signals(texts)
    for k in range(3):
        live = text_signals_at_exit(texts[:, k], texts[:, k - 1] if k else None)
        for name, values in live.items():
            assert values.tolist() == whole[name][:, k].tolist()


def test_previous_transcripts_of_another_number_are_refused():
    with pytest.raises(ValueError, match="each of the 2 utterances, got 1"):
        text_signals_at_exit(["a", "b"], ["a"])


def test_uniform_depends_on_name_layer_and_seed_only_and_is_uniform():
    names = [f"utt{i}" for i in range(4000)]
    values = uniform(names, 4, seed=1)
    assert values.tolist() == uniform(names[::-1], 4, seed=1)[::-1].tolist()
    assert (values >= 0).all() and (values < 1).all()
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)
    assert abs(np.corrcoef(values, uniform(names, 6, seed=1))[0, 1]) < 0.06
    assert abs(np.corrcoef(values, uniform(names, 4, seed=2))[0, 1]) < 0.06
