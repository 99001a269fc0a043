"""LJ Speech: one woman reading non-fiction, 24 hours at 22.05 kHz; the worked example of how a corpus is added.

Layout as published: `metadata.csv` and `wavs/LJ<chapter>-<number>.wav`; audio may be re-encoded, and chapters may be
missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.common.files import read_lines
from eeasr_modules.data.audio_files import find_audio
from eeasr_modules.data.manifest import Utterance, require_files, write_manifest
from eeasr_modules.data.text import normalise_english

CORPUS = "LJSpeech"
CHAPTERS = {"train": range(1, 49), "dev": range(49, 50), "test": range(50, 51)}  # published without splits


def prepare(
    data_folder: Path | str, save_folder: Path | str, *, splits: Sequence[str] = ("train", "dev", "test")
) -> dict[str, Path]:
    """Manifests by chapter: train LJ001 to LJ048, dev LJ049, test LJ050.

    Arguments
    ---------
    data_folder : Path
        The folder that holds `metadata.csv` and `wavs`.
    save_folder : Path
        Where `ljspeech_<split>.csv` go.
    splits : sequence of str
        Of train, dev, test.

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not the corpus; ValueError for an unknown
        or empty split.
    """
    unknown = [split for split in splits if split not in CHAPTERS]
    if unknown:
        raise ValueError(f"{CORPUS} has the splits {', '.join(CHAPTERS)}, got {', '.join(unknown)}")
    folder = require_files(data_folder, ("metadata.csv", "wavs"), corpus="LJ Speech")
    audio = find_audio(folder / "wavs")
    manifests = {}
    for split in splits:
        utterances, odd = [], []
        for line in read_lines(folder / "metadata.csv"):
            # LJ001-0007|the earliest book printed with movable types, ..."  of about 1455,|... fourteen fifty-five,
            utt_id, _, spelled_out = line.split("|")
            text = normalise_english(spelled_out)
            if int(utt_id[2:5]) in CHAPTERS[split]:
                (utterances.append(Utterance(utt_id, "LJ", audio.get(utt_id), text)) if text else odd.append(line))
        options = {"data_folder": folder, "normaliser": "english", "left_out": {"text without spelling": odd}}
        manifests[split] = write_manifest(
            Path(save_folder) / f"ljspeech_{split}.csv", utterances, corpus=CORPUS, split=split, **options
        )
    return manifests
