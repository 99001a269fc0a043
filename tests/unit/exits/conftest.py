"""Small random exit tables, checked by construction like real ones."""

from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits.tables.table import ExitTable


def random_table(seed: int = 0, *, n: int = 30, layers=(2, 4, 6, 8), n_speakers: int = 10, macs: bool = True):
    """A table of random counts, signals and costs; signals are rounded so that ties occur."""
    rng = np.random.default_rng(seed)
    e = len(layers)
    words = rng.integers(3, 9, n)
    wrong = rng.integers(0, 4, (n, e))
    n_sub = np.minimum(wrong, words[:, None])
    duration = rng.uniform(0.5, 6.0, n).round(2)
    macs_up_to = duration[:, None] * (2.7 + 0.4 * np.array(layers))
    names = ("entropy", "confidence", "margin", "cosine", "char_change", "cross_entropy", "word_change")
    names += ("nbest_posterior", "sequence_log_prob", "token_entropy", "max_entropy", "binary_cross_entropy")
    names += tuple(f"{name}_{lag}" for name in ("cross_entropy", "binary_cross_entropy") for lag in (2, 3, 4))
    return ExitTable(
        utt_ids=np.array([f"s{i % n_speakers}-{i}" for i in range(n)]),
        speakers=np.array([f"s{i % n_speakers}" for i in range(n)]),
        exit_layers=np.array(layers),
        hypotheses=np.array([[f"word {i} {k}" for k in range(e)] for i in range(n)], dtype=object),
        references=np.array([f"word {i}" for i in range(n)], dtype=object),
        n_ref_words=words,
        n_sub=n_sub,
        n_del=np.zeros((n, e)),
        n_ins=rng.integers(0, 2, (n, e)),
        n_ref_chars=words * 5,
        n_char_errors=wrong * 2,
        duration_s=duration,
        n_frames=(duration * 25).astype(int),
        cost_layers=duration[:, None] * np.array(layers),
        cost_macs=macs_up_to if macs else None,
        head_macs=np.repeat(0.01 * duration[:, None], e, axis=1) if macs else None,
        signals={name: rng.uniform(0, 1, (n, e)).round(2) for name in names},
        metadata={"set_name": f"set-{seed}", "set_label": "in_domain", "seed": 5, "n_layers": layers[-1]},
    )


@pytest.fixture
def make_table():
    """The maker of random tables."""
    return random_table


def with_words(table: ExitTable, *, seed: int = 0) -> ExitTable:
    """The same table with random signals of words and averaged transcripts that are the next exit's."""
    rng = np.random.default_rng(seed)
    lists = [[rng.uniform(0, 1, len(text.split())) for text in row] for row in table.hypotheses]
    later = np.r_[1 : table.n_exits, table.n_exits - 1]
    averaged = {"hypotheses": table.hypotheses[:, later]}
    averaged |= {name: getattr(table, name)[:, later] for name in ("n_sub", "n_del", "n_ins", "n_char_errors")}
    return replace(table, word_lists={"word_entropy": lists}, averaged=averaged)


@pytest.fixture
def add_words():
    """Adds word lists and averaged transcripts to a table."""
    return with_words
