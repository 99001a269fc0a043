"""CMU AN4: spelled names, numbers and dates, read over a microphone at 16 kHz; 948 + 130 utterances.

Layout as published: `etc/an4_train.fileids`, `etc/an4_train.transcription` (the same for test) and the
audio under `wav/`, as `.sph` or `.raw`, or re-encoded as `.wav`, `.flac` or `.opus`: files are found by
their stem.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.common.files import read_lines, read_text
from eeasr_modules.data.audio_files import find_audio
from eeasr_modules.data.manifest import Utterance, require_files, write_manifest
from eeasr_modules.data.text import normalise_an4

CORPUS = "AN4"
URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
SHA256 = "a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12"
EXPECTED = (
    "etc/an4_train.fileids",
    "etc/an4_train.transcription",
    "etc/an4_test.fileids",
    "etc/an4_test.transcription",
    "wav",
)
SPLITS = ("train", "dev", "test")
UNSEEN_TEXT = "test_unseen_text"
DEV_EVERY = 10  # every tenth of the sorted training speakers


def prepare(data_folder: Path | str, save_folder: Path | str, *, splits: Sequence[str] = SPLITS) -> dict[str, Path]:
    """Manifests of AN4.

    Arguments
    ---------
    data_folder : Path
        The folder `an4` (or the one that holds it).
    save_folder : Path
        Where `an4_<split>.csv` go.
    splits : sequence of str
        Some of train, dev (every tenth of the sorted training speakers, none of whom is in train), test, and
        test_unseen_text (test without the sentences that occur, word for word, in training: 104 of 130).

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not AN4; ValueError for an unknown or empty
        split.
    """
    known = (*SPLITS, UNSEEN_TEXT)
    unknown = [split for split in splits if split not in known]
    if unknown:
        raise ValueError(f"{CORPUS} has the splits {', '.join(known)}, got {', '.join(unknown)}")
    folder = Path(data_folder)
    if (folder / "an4" / "etc").is_dir():
        folder = folder / "an4"
    folder = require_files(folder, EXPECTED, corpus=CORPUS)
    audio = find_audio(folder / "wav")
    manifests = {}
    for split in splits:
        utterances = _list_split(folder, split, audio)
        manifests[split] = write_manifest(
            Path(save_folder) / f"an4_{split}.csv",
            utterances,
            corpus=CORPUS,
            split=split,
            data_folder=folder,
            normaliser="an4",
            options={"dev_every": DEV_EVERY},
        )
    return manifests


def fetch(folder: Path | str) -> Path:
    """AN4, downloaded (checksum verified) and unpacked under `folder`; kept when it is there already.

    Returns
    -------
    Path
        `folder / "an4"`, to be given to `prepare`. FileNotFoundError without a network.
    """
    from recipes.AN4.download import download, unpack

    folder = Path(folder)
    if (folder / "an4").is_dir():
        return folder / "an4"
    return unpack(download(URL, folder, sha256=SHA256), folder, creates="an4")


def texts_in_training(train: Sequence[str], test: Sequence[str]) -> list[int]:
    """Positions of the test sentences that occur, word for word, among the training sentences.

    In AN4 as published 26 of 130 do; results are worth reporting with and without them.

    Example
    -------
    >>> texts_in_training(["YES", "GO"], ["NO", "GO"])
    [1]
    """
    known = set(train)
    return [index for index, text in enumerate(test) if text in known]


def _list_split(folder: Path, split: str, audio: dict[str, Path]) -> list[Utterance]:
    utterances = _list_part(folder, "test" if split in ("test", UNSEEN_TEXT) else "train", audio)
    if split == "test":
        return utterances
    if split == UNSEEN_TEXT:
        trained = _list_split(folder, "train", audio)
        seen = texts_in_training([one.text for one in trained], [one.text for one in utterances])
        return [one for index, one in enumerate(utterances) if index not in set(seen)]
    dev_speakers = set(sorted({utterance.speaker for utterance in utterances})[DEV_EVERY - 1 :: DEV_EVERY])
    return [utterance for utterance in utterances if (utterance.speaker in dev_speakers) == (split == "dev")]


def _list_part(folder: Path, part: str, audio: dict[str, Path]) -> list[Utterance]:
    texts = _read_transcription(folder / "etc" / f"an4_{part}.transcription")
    utterances = []
    # an4_clstk/fash/an251-fash-b      (folder of the part / speaker / utterance)
    for fileid in read_text(folder / "etc" / f"an4_{part}.fileids").split():
        *_, speaker, utt_id = fileid.split("/")
        if utt_id not in texts:
            raise ValueError(f"an4_{part}.fileids names {fileid}, but an4_{part}.transcription has no such line")
        utterances.append(Utterance(utt_id, speaker, audio.get(fileid), texts[utt_id]))
    return utterances


def _read_transcription(path: Path) -> dict[str, str]:
    """Sentence per utterance id."""
    texts = {}
    # train:  <s> YES </s> (an251-fash-b)
    # test:   RUBOUT G M E F THREE NINE (an406-fcaw-b)
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        match = re.search(r"\(([^()\s]+)\)\s*$", line)
        if match is None:
            raise ValueError(f"line {number} of {path} must end with (utterance-id), got {line!r}")
        texts[match[1]] = normalise_an4(line)
    return texts
