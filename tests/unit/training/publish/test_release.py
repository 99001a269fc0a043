"""What is passed on: weights and tables, words flagged, no references."""

from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits import choose, parse_policy, replay
from eeasr_modules.exits.policies.files import read_policies, write_policies
from eeasr_modules.exits.tables.files import read_table, write_table
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.runtime.sources import within_budget
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
    assert main([str(tmp_path), "x"]) == 2


def test_the_first_policy_may_be_that_of_words_nearly_as_good_as_the_last_exits(model, tmp_path):
    run = tmp_path / "run"
    model.save(run / "model", half=True)
    names = ["a", "b", "c", "d"]
    table = ExitTable.from_hypotheses(
        [["X", "A"], ["A", "A"], ["X", "A"], ["A", "A"]],
        ["A"] * 4,
        utt_ids=names,
        speakers=names,
        exit_layers=[1, 2],
        duration_s=[1.0] * 4,
        n_frames=[25] * 4,
        signals={name: [[0.1, 0.0], [0.2, 0.0], [0.4, 0.0], [0.3, 0.0]] for name in ("entropy", "blank_rate")},
        metadata={"set_name": "dev", "n_layers": 2},
    )
    write_table(table, run / "tables" / "dev.parquet")
    test = replace(table, metadata={**table.metadata, "set_name": "unheard"})
    write_table(test, run / "tables" / "unheard.parquet")
    for text in ("entropy", "between(entropy)"):
        calibrated = [choose(table, parse_policy(one), budget=0.5) for one in (text, "random")]
        assert calibrated[0].dev_wer == 50.0
        write_policies(run / "model" / "policy.json", calibrated)
        (run / "model" / "README.md").write_text(
            "| set | last |\n|---|---:|\n| unheard | 0.00 |\n\n## Limits\n\nMany.\n"
        )
        assert main([str(run), str(tmp_path / "out"), "--exit_excess", "25"]) == 0
        card = (tmp_path / "out" / "README.md").read_text()
        assert f"is `{read_policies(tmp_path / 'out' / 'policy.json')[0].policy}` (exit excess 25 on dev)" in card
        assert card.startswith("| set | last | first policy |\n|---|---:|---:|\n| unheard | 0.00 | 25.00 @ 1.25 |\n")
        assert card.endswith("\n\n## Limits\n\nMany.\n")
        first, other = read_policies(tmp_path / "out" / "policy.json")
        assert (first.dev_wer, first.dev_cost, first.rule) == (25.0, 1.25, "exit_excess 25")
        assert len(first.drift.scores) == 4 and other.rule == "exit_budget 0.5"
        assert replay(within_budget(first, 0.5, 2), table).tolist() == [0] * 4  # as before
    assert main([str(run), str(tmp_path / "other"), "--exit_excess", "25", "--first", "entropy"]) == 0
    first, *others = read_policies(tmp_path / "other" / "policy.json")
    assert (str(first.open_policy), first.dev_wer, first.rule) == ("entropy", 25.0, "exit_excess 25")
    assert [(str(one.open_policy), one.rule) for one in others] == [
        ("between(entropy)", "exit_budget 0.5"),
        ("random", "exit_budget 0.5"),
    ]
    assert len(first.drift.scores) == 4
    assert main([str(run), str(tmp_path / "other"), "--first", "entropy"]) == 2  # to no excess
    write_policies(run / "model" / "policy.json", [replace(calibrated[0], promise={"certified": True})])
    assert main([str(run), str(tmp_path / "out"), "--exit_excess", "25"]) == 2
