"""Exit tables in files: Parquet keeps everything and refuses what is broken; others' transcripts are read."""

import lzma
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eeasr_modules.exits.tables.files import import_transcripts, read_table, table_from_columns, write_table
from eeasr_modules.exits.tables.table import ExitTable

ARRAYS = ("utt_ids", "speakers", "exit_layers", "hypotheses", "n_ref_words", "n_sub", "n_del", "n_ins")
ARRAYS += ("n_ref_chars", "n_char_errors", "duration_s", "n_frames", "cost_layers")


@pytest.mark.parametrize("macs", [True, False])
def test_a_table_comes_back_exactly(make_table, tmp_path, macs):
    table = make_table(macs=macs)
    path = tmp_path / "name=with=signs" / "t.parquet"
    write_table(table, path)
    back = read_table(path)
    for name in ARRAYS:
        assert (getattr(back, name) == getattr(table, name)).all(), name
    assert back.references.tolist() == table.references.tolist()
    assert list(back.signals) == list(table.signals)
    for name, values in table.signals.items():
        assert (back.signals[name] == values).all()
    assert (back.cost_macs is None) == (not macs)
    assert table.metadata.items() <= back.metadata.items()
    assert back.metadata["exit_layers"] == [2, 4, 6, 8]
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]


def test_references_may_be_absent_and_awkward_texts_survive(tmp_path):
    table = ExitTable.from_hypotheses(
        [["", "it's é\n"]], ["it's"], utt_ids=["ü 1"], exit_layers=[1, 2], duration_s=[0.1], n_frames=[5]
    )
    write_table(table.without_references(), tmp_path / "t.parquet")
    back = read_table(tmp_path / "t.parquet")
    assert back.references is None
    assert "reference" not in pq.read_schema(tmp_path / "t.parquet").names
    assert back.hypotheses.tolist() == [["", "it's é\n"]]
    assert back.n_ref_words.tolist() == [1]


def test_rows_may_come_in_any_order(make_table, tmp_path):
    table = make_table(n=6)
    write_table(table, tmp_path / "t.parquet")
    stored = pq.read_table(tmp_path / "t.parquet")
    order = np.random.default_rng(0).permutation(stored.num_rows)
    pq.write_table(stored.take(order), tmp_path / "mixed.parquet")
    back = read_table(tmp_path / "mixed.parquet")
    row = [back.utt_ids.tolist().index(utt_id) for utt_id in table.utt_ids]
    assert (back.errors[row] == table.errors).all()
    assert (back.signals["entropy"][row] == table.signals["entropy"]).all()


def columns_of(path):
    stored = pq.read_table(path)
    return {name: np.array(stored.column(name).to_pylist()) for name in stored.column_names}


def test_what_a_decoder_cost_comes_back_and_its_absence_too(make_table, tmp_path):
    table = replace(make_table(n=3), decoder_macs=np.arange(12.0).reshape(3, 4))
    write_table(table, tmp_path / "t.parquet")
    assert (read_table(tmp_path / "t.parquet").decoder_macs == table.decoder_macs).all()
    write_table(make_table(n=3), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").decoder_macs is None


def test_incomplete_or_contradicting_rows_are_refused(make_table, tmp_path):
    write_table(make_table(n=3), tmp_path / "t.parquet")
    columns = columns_of(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"'s2-2' has 0 of layer 8"):
        table_from_columns({k: v[:-1] for k, v in columns.items()}, {})
    twice = {k: np.concatenate([v, v[:1]]) for k, v in columns.items()}
    with pytest.raises(ValueError, match=r"'s0-0' has 2 of layer 2"):
        table_from_columns(twice, {})
    columns["n_ref_words"][0] += 1
    with pytest.raises(ValueError, match="n_ref_words must be the same at every exit, but differs for 's0-0'"):
        table_from_columns(columns, {})
    del columns["hypothesis"]
    with pytest.raises(ValueError, match="needs the columns hypothesis"):
        table_from_columns(columns, {})


def test_files_that_are_no_exit_tables_are_refused_in_one_sentence(make_table, tmp_path):
    with pytest.raises(FileNotFoundError, match="no exit table at"):
        read_table(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        read_table(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="schema version 1, got None"):
        read_table(tmp_path / "other.parquet")
    write_table(make_table(n=3), tmp_path / "t.parquet")
    stored = pq.read_table(tmp_path / "t.parquet")
    texts = stored.append_column("mood", pa.array(["good"] * stored.num_rows))
    pq.write_table(texts, tmp_path / "mood.parquet")
    with pytest.raises(ValueError, match=r"column mood of .* must hold numbers"):
        read_table(tmp_path / "mood.parquet")
    gaps = stored.append_column("gaps", pa.array([None] + [1.0] * (stored.num_rows - 1)))
    pq.write_table(gaps, tmp_path / "gaps.parquet")
    with pytest.raises(ValueError, match=r"column gaps of .* must have no gaps, got 1"):
        read_table(tmp_path / "gaps.parquet")


def test_word_lists_and_averaged_transcripts_come_back_exactly(make_table, add_words, tmp_path):
    table = add_words(make_table())
    write_table(table, tmp_path / "t.parquet")
    back = read_table(tmp_path / "t.parquet")
    assert list(back.word_lists) == ["word_entropy"] and list(back.signals) == list(table.signals)
    for one, two in zip(back.word_lists["word_entropy"].ravel(), table.word_lists["word_entropy"].ravel()):
        assert one.dtype == np.float32 and one.tolist() == two.tolist()
    for name, values in table.averaged.items():
        assert (back.averaged[name] == values).all(), name
    assert pq.read_schema(tmp_path / "t.parquet").field("word_entropy").type == pa.list_(pa.float32())


def test_transcripts_without_words_have_empty_lists(tmp_path):
    common = {"utt_ids": ["u", "v"], "exit_layers": [1, 2], "duration_s": [1.0, 1.0], "n_frames": [9, 9]}
    lists = {"word_margin": [[[], [0.5]], [[], [0.25]]]}
    table = ExitTable.from_hypotheses([["", "a"], ["", "b"]], ["a", "a"], word_lists=lists, **common)
    write_table(table, tmp_path / "t.parquet")
    back = read_table(tmp_path / "t.parquet").word_lists["word_margin"]
    assert [[cell.tolist() for cell in row] for row in back] == lists["word_margin"]


def test_half_of_the_averaged_columns_or_lists_of_texts_are_refused(make_table, add_words, tmp_path):
    write_table(add_words(make_table(n=3)), tmp_path / "t.parquet")
    stored = pq.read_table(tmp_path / "t.parquet")
    pq.write_table(stored.drop_columns(["averaged_n_sub"]), tmp_path / "half.parquet")
    with pytest.raises(ValueError, match="needs the columns averaged_n_sub"):
        read_table(tmp_path / "half.parquet")
    texts = pa.array([["a"]] * stored.num_rows)
    pq.write_table(stored.append_column("word_tags", texts), tmp_path / "texts.parquet")
    with pytest.raises(ValueError, match=r"column word_tags .* must hold numbers, as signals do, or lists of them"):
        read_table(tmp_path / "texts.parquet")


BLOCK = "file: {id}.flac\nexpected: {ref}\n\tlayer_2: {a}\n\tlayer_12: {b}\n\n"


@pytest.fixture
def traces(tmp_path):
    """Two splits of a two-exit model, one compressed."""
    folder = tmp_path / "traces" / "ee40"
    folder.mkdir(parents=True)
    clean = BLOCK.format(id="12-3-0001", ref="a big dog", a="a bg dog", b="a big dog")
    clean += BLOCK.format(id="14-3-0002", ref="yes", a="", b="yes")
    other = BLOCK.format(id="99-1-0000", ref="no", a="no", b="know")
    (folder / "test.clean_results.txt").write_text(clean)
    (folder / "test.other_results.txt.xz").write_bytes(lzma.compress(other.encode()))
    for layer, values in ((2, (-0.02, -0.03, -0.04)), (12, (-0.01, -0.005, -0.002))):
        (folder / f"entropy_{layer}.txt").write_text("".join(f"{v} 0.5\n" for v in values))
    return tmp_path / "traces"


def test_traces_become_an_exit_table(traces):
    table = import_transcripts(traces, "clean")
    assert table.utt_ids.tolist() == ["12-3-0001", "14-3-0002"]
    assert table.speakers.tolist() == ["12", "14"]
    assert table.exit_layers.tolist() == [2, 12]
    assert table.errors.tolist() == [[1, 0], [1, 0]]
    assert table.signal("entropy") == pytest.approx(32 * np.array([[0.02, 0.01], [0.03, 0.005]]))
    assert table.duration_s == pytest.approx([0.5 + 9 / 15.5, 0.5 + 3 / 15.5])
    assert table.n_frames.tolist() == [54, 35]
    assert table.metadata["duration_is_approximate"] is True
    assert table.metadata["set_name"] == "test-clean"
    assert table.cost_macs is None


def test_signals_of_the_second_split_follow_those_of_the_first(traces):
    table = import_transcripts(traces / "ee40", "other")
    assert table.signal("entropy") == pytest.approx(32 * np.array([[0.04, 0.002]]))


def test_a_model_with_one_exit_and_no_signals_is_read_too(traces):
    (traces / "plain").mkdir()
    (traces / "plain" / "test.clean_results.txt").write_text(
        "file: 1-2-3.flac\nexpected: a b\n\tpredicted: a c\nfile: 1-2-4.flac\nexpected: d\n\tpredicted: \n"
    )
    table = import_transcripts(traces, "clean", model="plain")
    assert table.exit_layers.tolist() == [12]
    assert table.errors.tolist() == [[1], [1]]
    assert "entropy" not in table.signals


def test_what_is_not_there_or_not_whole_is_refused(traces):
    with pytest.raises(ValueError, match="split must be one of clean, other, got 'dev'"):
        import_transcripts(traces, "dev")
    with pytest.raises(ValueError, match="format must be one of exit-traces, plain, got 'kaldi'"):
        import_transcripts(traces, "clean", format="kaldi")
    with pytest.raises(FileNotFoundError, match=r"expected test.clean_results.txt \(or .xz\) in .*none"):
        import_transcripts(traces, "clean", model="none")
    results = traces / "ee40" / "test.clean_results.txt"
    whole = results.read_text()
    results.write_text(whole + "file: 5-5-5.flac\nexpected: x\n\tlayer_2: x\n")
    with pytest.raises(ValueError, match=r"1 of 3 utterances .* '5-5-5', which lacks layer 12 of \[2, 12\]"):
        import_transcripts(traces, "clean")
    results.write_text(whole + "file: 5-5-5.flac\n")
    with pytest.raises(ValueError, match="'5-5-5', which lacks its line 'expected'"):
        import_transcripts(traces, "clean")
    results.write_text(whole + BLOCK.format(id="12-3-0001", ref="x", a="x", b="x"))
    with pytest.raises(ValueError, match=r"line 11 of .* begins '12-3-0001' again"):
        import_transcripts(traces, "clean")
    results.write_text(whole + "\tlayer_12: again\n")
    with pytest.raises(ValueError, match=r"line 11 of .* says again what layer 12 heard in '14-3-0002'"):
        import_transcripts(traces, "clean")
    results.write_text("")
    with pytest.raises(ValueError, match="it is empty"):
        import_transcripts(traces, "clean")
    results.write_text("hello\n")
    with pytest.raises(ValueError, match=r"line 1 of .* must begin with file"):
        import_transcripts(traces, "clean")
    results.write_text(whole)
    (traces / "ee40" / "entropy_2.txt").write_text("-0.1 0.5\n")
    with pytest.raises(ValueError, match=r"entropy_2.txt must have a line for each utterance .*\(3 in"):
        import_transcripts(traces, "clean")
    (traces / "ee40" / "entropy_2.txt").write_text("-0.1 0.5\nnan 0.5\n-0.1 0.5\n")
    with pytest.raises(ValueError, match=r"line 2 of .*entropy_2.txt: the value must be a finite number, got 'nan'"):
        import_transcripts(traces, "clean")
    (traces / "ee40" / "test.other_results.txt.xz").write_bytes(b"no xz")
    with pytest.raises(ValueError, match="cannot be read as text"):
        import_transcripts(traces, "other")


def test_blocks_that_are_not_whole_can_be_left_out_with_their_signals(traces):
    results = traces / "ee40" / "test.clean_results.txt"
    results.write_text(results.read_text().replace("\tlayer_2: a bg dog\n", ""))
    table = import_transcripts(traces, "clean", drop_incomplete=True)
    assert table.utt_ids.tolist() == ["14-3-0002"] and table.metadata["n_dropped"] == 1
    assert table.signal("entropy") == pytest.approx(32 * np.array([[0.03, 0.005]]))


def test_options_of_another_format_are_refused(traces, tmp_path):
    with pytest.raises(ValueError, match="references, normaliser cannot be given with format exit-traces"):
        import_transcripts(traces, "clean", references="r.tsv", normaliser="upper")
    with pytest.raises(ValueError, match="split cannot be given with format plain"):
        import_transcripts(tmp_path / "x.tsv", "clean", format="plain")
