"""Folds of speakers, so that what is fitted on some is judged on others. The same rule everywhere.

The rule: distinct speakers sorted by blake2b (8 bytes) of "seed, unit separator, speaker", dealt out in turn to
the folds. It depends on nothing but the names, so others can repeat it.
"""

import hashlib

import numpy as np

from eeasr_modules.exits.table import ExitTable


def speaker_folds(table: ExitTable, n_folds: int = 10, *, seed: int = 0) -> np.ndarray:
    """The fold of each utterance; no speaker is in two.

    Arguments
    ---------
    table : ExitTable
        Where a speaker is unknown, the utterance stands for itself.
    n_folds : int
        At least 2; with fewer speakers there are as many folds as speakers. With one speaker alone, utterances
        are dealt out.
    seed : int
        Another seed gives other folds.

    Returns
    -------
    np.ndarray of shape (n_utterances,)
        From 0.

    Raises
    ------
    ValueError
        When there are not two utterances to keep apart.
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
