"""The embedded corpus: synthetic speech that lies in `corpus/` beside this file; for smoke runs, never a headline.

Layout as `make.py` leaves it: `utterances.tsv` and `audio/<split>/<utt_id>.opus`. The table's fourth split, spoken by
voices that training never hears, is a corpus of its own: `recipes/SpokenUnseen`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.data.manifest import Utterance, require_files, write_manifest
from eeasr_modules.data.text import normalise_english

CORPUS = "Spoken"
SPLITS = ("train", "dev", "test")
TABLE = "utterances.tsv"


def prepare(data_folder: Path | str, save_folder: Path | str, *, splits: Sequence[str] = SPLITS) -> dict[str, Path]:
    """Manifests of the embedded corpus.

    Arguments
    ---------
    data_folder : Path
        The folder that holds `utterances.tsv`: `recipes/Spoken/corpus`, or what `make.py` wrote elsewhere.
    save_folder : Path
        Where `spoken_<split>.csv` go.
    splits : sequence of str
        Some of train, dev, test: the same voices, other sentences.

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not the corpus; ValueError for an unknown or empty
        split.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(
            f"{CORPUS} has the splits {', '.join(SPLITS)}, got {', '.join(unknown)} "
            "(unseen voices are the corpus SpokenUnseen)"
        )
    return {split: write_split(data_folder, save_folder, corpus=CORPUS, split=split, rows_of=split) for split in splits}


def write_split(data_folder: Path | str, save_folder: Path | str, *, corpus: str, split: str, rows_of: str) -> Path:
    """Manifest of the table's rows of one split.

    Arguments
    ---------
    data_folder, save_folder : Path
        As in `prepare`.
    corpus, split : str
        Names of the manifest, `<corpus>_<split>.csv` in lower case.
    rows_of : str
        The split's name in the table.
    """
    folder = require_files(data_folder, (TABLE, "audio"), corpus=f"the embedded corpus {corpus}")
    utterances, odd = [], []
    # train_0001  train  flite_awb  0.95  -1.0  Cast thy burden upon the Lord, and he shall sustain thee.
    with (folder / TABLE).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, dialect="excel-tab"):
            text = normalise_english(row["text"])
            if row["split"] != rows_of:
                continue
            if text:
                audio = folder / "audio" / rows_of / f"{row['utt_id']}.opus"
                utterances.append(Utterance(row["utt_id"], row["voice"], audio, text))
            else:
                odd.append(row["utt_id"])
    return write_manifest(
        Path(save_folder) / f"{corpus.lower()}_{split}.csv",
        utterances,
        corpus=corpus,
        split=split,
        data_folder=folder,
        normaliser="english",
        left_out={"text has no English spelling": odd},
    )
