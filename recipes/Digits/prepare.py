"""Free Spoken Digit Dataset: single digits, 8 kHz, 6 speakers; a test set of other speech (out of domain).

Layout as published: `recordings/{digit}_{speaker}_{take}.wav`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.data.audio_files import find_audio
from eeasr_modules.data.manifest import Utterance, require_files, write_manifest

CORPUS = "Digits"
SPLITS = ("test",)
WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


def prepare(
    data_folder: Path | str, save_folder: Path | str, *, splits: Sequence[str] = SPLITS, n_takes: int = 10
) -> dict[str, Path]:
    """Manifest of the digits; the first `n_takes` takes of each digit and speaker, all of them for testing.

    Arguments
    ---------
    data_folder : Path
        The folder that holds `recordings`.
    save_folder : Path
        Where `digits_test.csv` goes.
    splits : sequence of str
        Only "test".
    n_takes : int
        Takes 0 to `n_takes` - 1; the published set has 50 of each, 3,000 recordings in all.

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not the corpus; ValueError for an unknown
        or empty split.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"{CORPUS} has the split {', '.join(SPLITS)} only, got {', '.join(unknown)}")
    folder = require_files(data_folder, ("recordings",), corpus="the Free Spoken Digit Dataset")
    utterances, odd = _list_recordings(folder / "recordings", n_takes)
    return {
        split: write_manifest(
            Path(save_folder) / f"digits_{split}.csv",
            utterances,
            corpus=CORPUS,
            split=split,
            data_folder=folder,
            normaliser="english",
            options={"n_takes": n_takes},
            left_out={"file name is not digit_speaker_take": odd},
        )
        for split in splits
    }


def _list_recordings(folder: Path, n_takes: int) -> tuple[list[Utterance], list[str]]:
    """Utterances by id, and the names that are not of the corpus' form."""
    utterances, odd = [], []
    # 7_jackson_32      (digit _ speaker _ take)
    for name, audio in sorted(find_audio(folder).items()):
        parts = name.split("_")
        if len(parts) != 3 or parts[0] not in tuple("0123456789") or not parts[2].isdecimal():
            odd.append(name)
        elif int(parts[2]) < n_takes:
            utterances.append(Utterance(name, parts[1], audio, WORDS[int(parts[0])]))
    return utterances, odd
