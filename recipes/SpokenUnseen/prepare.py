"""The embedded corpus' voices that training never hears (festival kal and ked): a test set out of domain.

It lies in the folder of `recipes/Spoken` and is a corpus of its own because other people recorded its voices, another
kind of synthesizer speaks them, and a set of the training corpus would be computed to be in domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipes.Spoken.prepare import write_split

CORPUS = "SpokenUnseen"
SPLITS = ("test",)


def prepare(data_folder: Path | str, save_folder: Path | str, *, splits: Sequence[str] = SPLITS) -> dict[str, Path]:
    """Manifest of the unseen voices.

    Arguments
    ---------
    data_folder : Path
        `recipes/Spoken/corpus`, or what `recipes/Spoken/make.py` wrote elsewhere.
    save_folder : Path
        Where `spokenunseen_test.csv` goes.
    splits : sequence of str
        Only "test".

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not the corpus; ValueError for an unknown split.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"{CORPUS} has the split {', '.join(SPLITS)} only, got {', '.join(unknown)}")
    return {
        split: write_split(data_folder, save_folder, corpus=CORPUS, split=split, rows_of="test_unseen_voices")
        for split in splits
    }
