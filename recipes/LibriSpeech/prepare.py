"""LibriSpeech: read English audiobooks, 16 kHz; any of its subsets, or parts of them.

Layout as published: `<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac` with one
`<speaker>-<chapter>.trans.txt` per chapter; audio may be re-encoded (`.wav`, `.opus`, ...): files are found by
their stem.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.common.files import read_lines
from eeasr_modules.data.audio_files import find_audio
from eeasr_modules.data.manifest import Utterance, write_manifest

CORPUS = "LibriSpeech"
SPLITS = ("train-clean-100", "dev-clean", "test-clean", "test-other")
AUDIO_SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".mp3")
_PUBLISHED_TEXT = re.compile(r"[A-Z']+( [A-Z']+)*")


def prepare(
    data_folder: Path | str, save_folder: Path | str, *, splits: Sequence[str] = SPLITS, decode: bool = False
) -> dict[str, Path]:
    """Manifests of LibriSpeech's subsets.

    Left out, counted and named: transcripts without audio, audio without a transcript, lines that are not an
    upper-case English sentence as LibriSpeech publishes them, audio that cannot be opened.

    Arguments
    ---------
    data_folder : Path
        The folder `LibriSpeech` (or the one that holds it).
    save_folder : Path
        Where `librispeech_<subset>.csv` go.
    splits : sequence of str
        Subsets, by the names of their folders: train-clean-100, dev-other, ...
    decode : bool
        Decode every file to find those cut short; False reads headers only (1,000 hours in minutes).

    Returns
    -------
    dict of str to Path
        Manifest per subset. FileNotFoundError when the folder is not LibriSpeech or lacks a subset;
        ValueError for a subset without a usable utterance.
    """
    folder = _corpus_folder(Path(data_folder), splits)
    manifests = {}
    for split in splits:
        utterances, left_out = _list_subset(folder / split)
        manifests[split] = write_manifest(
            Path(save_folder) / f"librispeech_{split}.csv",
            utterances,
            corpus=CORPUS,
            split=split,
            data_folder=folder,
            normaliser="english",
            left_out=left_out,
            decode=decode,
        )
    return manifests


def _corpus_folder(folder: Path, splits: Sequence[str]) -> Path:
    """The folder that holds the subsets; FileNotFoundError says which there are."""
    if (folder / "LibriSpeech").is_dir():
        folder = folder / "LibriSpeech"
    there = [path.name for path in sorted(folder.glob("*")) if next(path.glob("*/*/*.trans.txt"), None)]
    if not there:
        state = "has none" if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(
            f"expected LibriSpeech's subsets (<subset>/<speaker>/<chapter>/*.trans.txt) in {folder}, but it {state}"
        )
    lacking = [split for split in splits if split not in there]
    if lacking:
        raise FileNotFoundError(f"{folder} has the subsets {', '.join(there)}, got {', '.join(lacking)}")
    return folder


def _list_subset(folder: Path) -> tuple[list[Utterance], dict[str, list[str]]]:
    """Utterances by speaker, chapter and number, and what was left out, by reason."""
    audio = {Path(key).name: path for key, path in find_audio(folder, AUDIO_SUFFIXES).items()}
    utterances: list[Utterance] = []
    left_out: dict[str, list[str]] = {"without transcript": [], "text not as published": []}
    known: set[str] = set()
    for transcript in sorted(folder.glob("*/*/*.trans.txt"), key=_by_number):
        speaker = transcript.parts[-3]
        for number, line in enumerate(read_lines(transcript), start=1):
            # 1272-128104-0000 MISTER QUILTER IS THE APOSTLE OF THE MIDDLE CLASSES AND WE ARE GLAD ...
            utt_id, _, text = line.strip().partition(" ")
            known.add(utt_id)
            if _PUBLISHED_TEXT.fullmatch(text):
                utterances.append(Utterance(utt_id, speaker, audio.get(utt_id), text))
            elif line.strip():
                left_out["text not as published"].append(f"line {number} of {transcript.name}: {line}")
    left_out["without transcript"] = sorted(audio.keys() - known)
    return utterances, left_out


def _by_number(transcript: Path) -> tuple:
    return tuple((int(part), "") if part.isdecimal() else (0, part) for part in transcript.parts[-3:-1])
