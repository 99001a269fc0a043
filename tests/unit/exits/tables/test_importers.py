import lzma

import numpy as np
import pytest

from eeasr_modules.exits.tables.importers import import_transcripts

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
