from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits.measure.edits import count_word_edits
from eeasr_modules.exits.tables.files import write_table
from eeasr_modules.exits.tables.table import ExitTable, join_tables
from eeasr_modules.exits.words.signals import uniform


def changed(values, index, value):
    values = np.array(values)
    values[index] = value
    return values


def test_wer_is_pooled_and_counted_from_transcripts():
    table = ExitTable.from_hypotheses(
        [["a b c d", "a b c"], ["x", "y"]],
        ["a b c", "y"],
        utt_ids=["u", "v"],
        exit_layers=[1, 3],
        duration_s=[2.0, 1.0],
        n_frames=[100, 50],
        speakers=["s", "t"],
    )
    assert table.errors.tolist() == [[1, 0], [1, 0]]
    assert table.wer_per_exit.tolist() == [50.0, 0.0]
    assert table.cer_per_exit.tolist() == [100 * 3 / 6, 0.0]
    assert table.cost_layers.tolist() == [[2, 6], [1, 3]]
    assert (table.n_exits, table.n_utterances, table.n_layers) == (2, 2, 3)
    assert table.signal("word_change").tolist() == [[1, 1 / 3], [1, 1]]


def test_derived_signals_have_the_shape_of_the_table(make_table):
    table = make_table(n=5)
    assert table.signal("exit_layer")[3].tolist() == [2, 4, 6, 8]
    assert (table.signal("duration_s")[:, 2] == table.duration_s).all()
    expected = [uniform(table.utt_ids, layer, seed=5) for layer in (2, 4, 6, 8)]
    assert (table.signal("uniform") == np.stack(expected, axis=1)).all()


def test_an_unknown_signal_is_refused_with_the_known_ones(make_table):
    with pytest.raises(KeyError, match=r"no signal 'noise'; it has: binary_cross_entropy.*, char_change, confidence"):
        make_table().signal("noise")


def test_emitted_words_are_counted_decided_on_by_nobody_kept_in_parts_and_not_written(make_table, tmp_path):
    table = make_table()
    emitted = table.hypotheses[:, ::-1]
    given = table.with_emitted(emitted)
    pairs = zip(emitted, table.references, strict=True)
    assert given.errors.tolist() == [[count_word_edits(said, text) for text in row] for row, said in pairs]
    assert (given.hypotheses == table.hypotheses).all()
    rows = np.array([5, 2, 9])
    assert (given.select(rows).emitted == emitted[rows]).all()
    halves = [given.select(np.arange(table.n_utterances) % 2 == k) for k in (0, 1)]
    assert (join_tables(halves, [*table.utt_ids]).emitted == emitted).all()
    with pytest.raises(ValueError, match="a table with emitted transcripts is not written"):
        write_table(given, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="emitted must have shape"):
        table.with_emitted(emitted[:, :1])


def test_selecting_utterances_keeps_their_rows_together(make_table):
    table = make_table()
    part = table.select(np.array([4, 1]))
    assert part.utt_ids.tolist() == table.utt_ids[[4, 1]].tolist()
    assert (part.errors == table.errors[[4, 1]]).all()
    assert (part.signal("uniform") == table.signal("uniform")[[4, 1]]).all()
    assert (part.cost_macs == table.cost_macs[[4, 1]]).all()
    assert part.references.tolist() == table.references[[4, 1]].tolist()
    mask = table.duration_s > 3
    assert table.select(mask).n_utterances == mask.sum()
    assert table.without_references().references is None


REFUSED = [
    ("utt_ids", lambda t: changed(t.utt_ids, 1, t.utt_ids[0]), "utt_ids must be unique, but 's0-0'"),
    ("exit_layers", lambda t: np.array([2, 6, 4, 8]), r"exit_layers must rise .* got \[2, 6, 4, 8\]"),
    ("exit_layers", lambda t: np.array([0, 4, 6, 8]), "start at 1 or above"),
    ("n_sub", lambda t: t.n_sub[:, :3], r"n_sub must have shape \(30, 4\)"),
    ("duration_s", lambda t: changed(t.duration_s, 3, 0), "duration_s must be above 0 .* 's3-3'"),
    ("duration_s", lambda t: changed(t.duration_s, 3, np.nan), "duration_s must be above 0"),
    ("n_ins", lambda t: changed(t.n_ins, (2, 1), -1), "n_ins must not be negative.*'s2-2' at exit 1"),
    ("n_del", lambda t: changed(t.n_del, (2, 1), 99), "n_sub \\+ n_del must not exceed n_ref_words"),
    ("cost_layers", lambda t: t.cost_layers * 2, "cost_layers must be exit_layer \\* duration_s"),
    ("cost_macs", lambda t: t.cost_macs[:, ::-1], "cost_macs must not fall"),
    ("head_macs", lambda t: changed(t.head_macs, (0, 0), np.inf), "head_macs must be finite"),
    (
        "signals",
        lambda t: {"entropy": changed(t.signals["entropy"], (1, 1), np.nan)},
        "signal entropy must be",
    ),
    ("signals", lambda t: {"entropy": np.zeros(3)}, "signal entropy must have shape"),
    ("signals", lambda t: {"n_sub": np.zeros((30, 4))}, "signal names must differ"),
    ("metadata", lambda t: {"set_label": "indomain"}, "set_label must be one of in_domain, shifted"),
    ("metadata", lambda t: {"n_layers": 6}, "n_layers must be at least the last exit's layer 8, got 6"),
    ("metadata", lambda t: {"exit_layers": [2, 4]}, "metadata says exit_layers"),
    ("references", lambda t: t.references[:4], "references must have shape"),
]


@pytest.mark.parametrize("name, value, message", REFUSED)
def test_a_broken_table_is_refused_in_one_sentence(make_table, name, value, message):
    table = make_table()
    with pytest.raises(ValueError, match=message):
        replace(table, **{name: value(table)})


def test_a_table_without_utterances_or_reference_words_is_refused(make_table):
    with pytest.raises(ValueError, match="at least one utterance"):
        make_table().select(np.array([], dtype=int))
    common = {"utt_ids": ["u"], "exit_layers": [1], "duration_s": [1.0], "n_frames": [9]}
    with pytest.raises(ValueError, match="no words at all"):
        ExitTable.from_hypotheses([["a"]], [""], **common)
    with pytest.raises(ValueError, match="must be 1, one for each exit layer, got 2"):
        ExitTable.from_hypotheses([["a", "b"]], ["a"], **common)
    with pytest.raises(ValueError, match="references must number 1"):
        ExitTable.from_hypotheses([["a"]], ["a", "b"], **common)


def test_word_lists_and_averaged_transcripts_go_with_their_utterances(make_table, add_words):
    table = add_words(make_table())
    kept = table.select(np.array([4, 1]))
    assert kept.signal("word_entropy")[0, 2].tolist() == table.word_lists["word_entropy"][4, 2].tolist()
    assert kept.averaged["hypotheses"].tolist() == table.hypotheses[[4, 1]][:, [1, 2, 3, 3]].tolist()
    assert kept.word_lists["word_entropy"][1, 0].dtype == np.float32
    with pytest.raises(KeyError, match=r"it has: .*word_entropy"):
        table.signal("word_margin")


def test_the_averaged_output_has_its_own_errors_and_the_same_signals(make_table, add_words):
    table = add_words(make_table())
    output = table.averaged_output()
    assert (output.errors == table.errors[:, [1, 2, 3, 3]]).all()
    assert (output.signals["entropy"] == table.signals["entropy"]).all()
    assert output.averaged is None and output.word_lists == {}
    with pytest.raises(ValueError, match="collect it with average_exits"):
        make_table().averaged_output()


def lists_with(table, cell, values):
    lists = table.word_lists["word_entropy"].copy()
    lists[cell] = np.array(values)
    return {"word_entropy": lists}


REFUSED_WORDS = [
    ("word_lists", lambda t: lists_with(t, (2, 1), [0.1]), "a number for each word .* 's2-2' at exit 1"),
    ("word_lists", lambda t: lists_with(t, (2, 1), [[0.1, 0.2, 0.3]]), "a number for each word"),
    (
        "word_lists",
        lambda t: lists_with(t, (3, 0), [0.1, np.nan, 0.2]),
        "word_entropy must be finite.* 's3-3' at exit 0",
    ),
    ("word_lists", lambda t: {"word_entropy": t.word_lists["word_entropy"][:, :2]}, r"must have shape \(30, 4\)"),
    (
        "word_lists",
        lambda t: {"margin": t.word_lists["word_entropy"]},
        "must differ from columns and signals, got margin",
    ),
    ("averaged", lambda t: {"hypotheses": t.hypotheses}, "averaged must hold hypotheses, n_sub, .* got hypotheses"),
    ("averaged", lambda t: {**t.averaged, "n_sub": t.n_sub[:2]}, r"averaged n_sub must have shape \(30, 4\)"),
    ("averaged", lambda t: {**t.averaged, "n_ins": t.n_ins - 9}, "averaged n_ins must not be negative"),
]


@pytest.mark.parametrize("name, value, message", REFUSED_WORDS)
def test_broken_word_lists_and_averages_are_refused_in_one_sentence(make_table, add_words, name, value, message):
    table = add_words(make_table())
    with pytest.raises(ValueError, match=message):
        replace(table, **{name: value(table)})
