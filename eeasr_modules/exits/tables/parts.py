"""Parts of a table: folds of speakers, and tables of parts of a set as one table.

Folds are the same everywhere: distinct speakers sorted by blake2b (8 bytes) of "seed, unit separator, speaker", dealt
out in turn. They depend on nothing but the names, so others can repeat them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eeasr_modules.exits.tables.checks import PER_EXIT, PER_UTTERANCE
from eeasr_modules.exits.tables.table import ExitTable


def speaker_folds(table: ExitTable, n_folds: int = 10, *, seed: int = 0) -> np.ndarray:
    """The fold of each utterance; no speaker is in two; shape (n_utterances,), from 0.

    ValueError when there are not two utterances to keep apart.

    Arguments
    ---------
    table : ExitTable
        Where a speaker is unknown, the utterance stands for itself.
    n_folds : int
        At least 2; with fewer speakers there are as many folds as speakers. With one speaker alone, utterances
        are dealt out.
    """
    if n_folds < 2:
        raise ValueError(f"folds of speakers must be at least 2, got {n_folds}")
    names = np.array([who or f"\x1f{utt_id}" for who, utt_id in zip(table.speakers, table.utt_ids)], dtype=object)
    if len(set(names)) == 1:
        names = table.utt_ids
    distinct = sorted(
        set(names), key=lambda name: hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest()
    )
    if len(distinct) < 2:
        raise ValueError(f"fitting needs at least two utterances to be judged on others, got {table.n_utterances}")
    fold_of = {name: i % n_folds for i, name in enumerate(distinct)}
    return np.array([fold_of[name] for name in names])


def join_tables(
    tables: Sequence[ExitTable], order: Sequence[str], *, metadata: Mapping[str, Any] | None = None
) -> ExitTable:
    """One table of the utterances of several.

    ValueError when the tables differ in exits or signals, or do not hold the utterances of `order`, each once.

    Arguments
    ---------
    tables : sequence of ExitTable
        With the same exits and the same signals; no utterance in two.
    order : sequence of str
        All utterances, in the order of the new table.
    metadata : mapping or None
        Of the new table; None takes the first one's.

    Example
    -------
    >>> one = ExitTable.from_hypotheses([["a"]], ["a"], utt_ids=["u"], exit_layers=[1], duration_s=[1.0], n_frames=[9])
    >>> two = ExitTable.from_hypotheses([["b"]], ["a"], utt_ids=["v"], exit_layers=[1], duration_s=[1.0], n_frames=[9])
    >>> join_tables([two, one], ["u", "v"]).hypotheses.tolist()
    [['a'], ['b']]
    """
    first = tables[0]
    for other in tables[1:]:
        same = np.array_equal(other.exit_layers, first.exit_layers) and set(other.signals) == set(first.signals)
        if not (same and set(other.word_lists) == set(first.word_lists)):
            raise ValueError("tables to be joined must have the same exits, signals and word lists")
    utt_ids = np.concatenate([table.utt_ids for table in tables])
    rows = {utt_id: row for row, utt_id in enumerate(utt_ids)}
    if len(rows) != len(utt_ids) or set(rows) != set(order) or len(order) != len(rows):
        raise ValueError(
            f"tables to be joined must hold {len(order)} utterances, each once; they hold {len(utt_ids)}, "
            f"{len(rows)} different"
        )
    taken = np.array([rows[utt_id] for utt_id in order])

    def joined(values):
        return None if values[0] is None else np.concatenate(values)[taken]

    names = ("utt_ids", "speakers", "hypotheses", "references", "emitted", *PER_UTTERANCE, *PER_EXIT)
    changed = {name: joined([getattr(table, name) for table in tables]) for name in names}
    for kind in ("signals", "word_lists", "averaged"):
        held = getattr(first, kind)
        if held is not None:
            changed[kind] = {name: joined([getattr(table, kind)[name] for table in tables]) for name in held}
    return replace(first, **changed, metadata=dict(first.metadata if metadata is None else metadata))
