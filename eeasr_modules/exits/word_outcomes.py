"""Overthinking word by word: which reference words an exit had right that the last one has wrong, and the reverse.

Found by aligning each transcript to the reference with fewest edits; where several alignments tie, one is taken,
so a count of words can be off by the few that tie.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.table import ExitTable


@dataclass(frozen=True, eq=False)
class WordOutcomes:
    """What became of the reference words. Shares are of all reference words, 0 to 1.

    Arguments
    ---------
    n_words : int
        Reference words.
    exit_layers : np.ndarray of shape (n_exits - 1,)
        Of the inner exits.
    regressive, progressive : np.ndarray of shape (n_exits - 1,)
        Words right at that exit and wrong at the last; wrong there and right at the last.
    destructive : float
        Right at some inner exit, wrong at the last.
    wasteful : float
        Right at some inner exit, and still right at the last.
    never_right : float
        Wrong at every exit.
    """

    n_words: int
    exit_layers: np.ndarray
    regressive: np.ndarray
    progressive: np.ndarray
    destructive: float
    wasteful: float
    never_right: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


def word_outcomes(table: ExitTable) -> WordOutcomes:
    """Overthinking per word.

    Arguments
    ---------
    table : ExitTable
        With references.

    Returns
    -------
    WordOutcomes

    Raises
    ------
    ValueError
        When the table has no references, or they have no words.

    Example
    -------
    >>> table = ExitTable.from_hypotheses([["a b x", "a y c"]], ["a b c"], utt_ids=["u"], exit_layers=[2, 4],
    ...                                   duration_s=[1], n_frames=[50])
    >>> outcomes = word_outcomes(table)
    >>> outcomes.regressive, outcomes.progressive, outcomes.wasteful
    (array([0.33333333]), array([0.33333333]), 0.3333333333333333)
    """
    if table.references is None:
        raise ValueError("outcomes of words need references, but the exit table has none; use one written with them")
    # (n_words, n_exits)
    right = np.concatenate(
        [
            np.stack([correct_words(reference, hypothesis) for hypothesis in row], axis=1)
            for reference, row in zip(table.references, table.hypotheses)
        ]
    )
    if len(right) == 0:
        raise ValueError("outcomes of words need reference words, but all references of the exit table are empty")
    inner, last = right[:, :-1], right[:, -1]
    before = inner.any(axis=1)
    return WordOutcomes(
        n_words=len(right),
        exit_layers=table.exit_layers[:-1],
        regressive=(inner & ~last[:, None]).mean(axis=0),
        progressive=(~inner & last[:, None]).mean(axis=0),
        destructive=float((before & ~last).mean()),
        wasteful=float((before & last).mean()),
        never_right=float((~before & ~last).mean()),
    )


def correct_words(reference: str, hypothesis: str) -> np.ndarray:
    """Which words of the reference a transcript has, in one cheapest alignment.

    Arguments
    ---------
    reference : str
        What was said.
    hypothesis : str
        What was recognised.

    Returns
    -------
    np.ndarray of bool, of shape (n_ref_words,)

    Example
    -------
    >>> correct_words("a b c", "a x c d")
    array([ True, False,  True])
    """
    words = reference.split()
    right = np.ones(len(words), dtype=bool)
    for operation in Levenshtein.editops(words, hypothesis.split()):
        if operation.tag != "insert":
            right[operation.src_pos] = False
    return right
