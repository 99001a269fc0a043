"""Alignments and `.trn` files beside an exit table."""

import re

import numpy as np
import pytest

from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.training.test_pass import write_transcripts

WORDS = ("A", "B", "C", "YES", "NO", "GO", "STOP")


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    n, layers = 40, (1, 3)
    said = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(n)]
    heard = [[" ".join(rng.choice(WORDS, rng.integers(0, 7))), text if i % 3 else "GO"] for i, text in enumerate(said)]
    ids = [f"u{i:02d}" for i in range(n)]
    return ExitTable.from_hypotheses(
        heard, said, utt_ids=ids, exit_layers=layers, duration_s=[1.0] * n, n_frames=[25] * n
    )


def test_speechbrain_counts_the_errors_that_the_table_holds(table, tmp_path):
    write_transcripts(table, tmp_path)
    for e, layer in enumerate(table.exit_layers):
        first = (tmp_path / f"wer_{layer:02d}.txt").read_text().splitlines()[0]
        # %WER 92.31 [ 120 / 130, 20 ins, 30 del, 70 sub ]
        errors, words = map(int, re.search(r"\[ (\d+) / (\d+),", first).groups())
        assert errors == table.errors[:, e].sum() > 0
        assert words == table.n_ref_words.sum()
        assert f"%WER {table.wer_per_exit[e]:.2f} " in first


def test_trn_lines_are_text_and_id_in_the_order_of_the_table(table, tmp_path):
    write_transcripts(table, tmp_path / "new" / "folder")
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["exit_01.trn", "exit_03.trn", "reference.trn", "wer_01.txt", "wer_03.txt"]
    for name, texts in (("reference", table.references), ("exit_01", table.hypotheses[:, 0])):
        lines = (tmp_path / "new" / "folder" / f"{name}.trn").read_text().splitlines()
        assert lines == [f"{text} ({utt_id})" for text, utt_id in zip(texts, table.utt_ids)]
