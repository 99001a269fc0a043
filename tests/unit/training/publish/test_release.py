"""What is passed on: weights and tables, words flagged, no references."""

import numpy as np
import pytest

from eeasr_modules.exits.tables.parquet import read_table, write_table
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.training.publish.release import main, ship, shippable, wrong_words


def make_table():
    hypotheses = np.array([["A BAT", "A CAT SAT"], ["", "NO"]], dtype=object)
    return ExitTable.from_hypotheses(
        hypotheses,
        ["A CAT SAT", "YES"],
        utt_ids=["a", "b"],
        speakers=["x", "y"],
        exit_layers=[1, 2],
        duration_s=np.array([1.0, 0.5]),
        n_frames=np.array([25, 12]),
        signals={"entropy": np.array([[0.5, 0.1], [0.4, 0.3]])},
        metadata={"set_name": "t", "n_layers": 2},
    )


def test_words_that_are_wrong_are_flagged_and_counts_stay():
    table = make_table()
    shipped = shippable(table)
    assert shipped.references is None
    assert [[flags.tolist() for flags in row] for row in shipped.word_lists["word_wrong"]] == [
        [[0.0, 1.0], [0.0, 0.0, 0.0]],
        [[], [1.0]],
    ]
    assert np.array_equal(shipped.errors, table.errors)
    flagged = np.array([[flags.sum() for flags in row] for row in shipped.word_lists["word_wrong"]])
    assert np.array_equal(flagged, table.n_sub + table.n_ins)
    assert shippable(shipped) is shipped


def test_deleted_words_leave_no_flag():
    assert wrong_words("SAT", "A CAT SAT").tolist() == [0.0]
    assert wrong_words("", "A").tolist() == []


def test_a_run_is_copied_without_texts(model, tmp_path):
    run = tmp_path / "run"
    model.save(run / "model", half=True)
    write_table(make_table(), run / "tables" / "t.parquet")
    written = ship(run, tmp_path / "out")
    assert [path.name for path in written] == ["config.json", "model.safetensors", "t.parquet"]
    assert read_table(tmp_path / "out" / "tables" / "t.parquet").references is None
    ship(run, tmp_path / "out")  # again, in place of the first
    with pytest.raises(FileNotFoundError, match="expected a finished run"):
        ship(tmp_path, tmp_path / "other")
    assert main([str(tmp_path)]) == 2 and main([str(tmp_path), "x"]) == 2
