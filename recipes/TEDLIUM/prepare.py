"""TED-LIUM 3: talks of some quarter of an hour, cut by their transcripts; 452 hours.

Layout as published: `legacy/<split>/stm/<talk>.stm` and `legacy/<split>/sph/<talk>.sph`; the folders may also lie
without `legacy`, and audio may be re-encoded. Lines of an `.stm`: talk, channel, speaker, start, end, label, words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.common.files import read_lines
from eeasr_modules.data.audio_files import find_audio
from eeasr_modules.data.manifest import Utterance, write_manifest
from eeasr_modules.data.text import normalise_english

CORPUS = "TEDLIUM"
SPLITS = ("train", "dev", "test")
IGNORED = "ignore_time_segment_in_scoring"
_LINE = re.compile(r"(\S+) (\S+) (\S+) ([\d.]+) ([\d.]+) (?:<[^>]*> )?(.*)")


def prepare(data_folder: Path | str, save_folder: Path | str, *, splits: Sequence[str] = SPLITS) -> dict[str, Path]:
    """Manifests of TED-LIUM's segments, each a stretch of its talk.

    The marker `<unk>` of words that the transcribers did not get is taken out, `'s` and the like, written apart, join
    the word before, as in Kaldi's and ESPnet's recipes. Left out and counted: segments that are not scored, lines that
    are not understood, texts without spelling, talks without audio.

    Arguments
    ---------
    data_folder : Path
        `TEDLIUM_release-3`.
    save_folder : Path
        Where `tedlium_<split>.csv` go.
    splits : sequence of str
        Of train, dev, test.

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not the corpus; ValueError for an unknown or empty
        split.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"{CORPUS} has the splits {', '.join(SPLITS)}, got {', '.join(unknown)}")
    folders = {split: _split_folder(Path(data_folder), split) for split in splits}
    manifests = {}
    for split, folder in folders.items():
        utterances, left_out = _list_split(folder)
        manifests[split] = write_manifest(
            Path(save_folder) / f"tedlium_{split}.csv",
            utterances,
            corpus=CORPUS,
            split=split,
            data_folder=Path(data_folder),
            normaliser="english",
            left_out=left_out,
        )
    return manifests


def _split_folder(folder: Path, split: str) -> Path:
    for found in (folder / "legacy" / split, folder / split):
        if (found / "stm").is_dir() and (found / "sph").is_dir():
            return found
    raise FileNotFoundError(f"expected TED-LIUM 3 with legacy/{split}/stm and legacy/{split}/sph in {folder}")


def _list_split(folder: Path) -> tuple[list[Utterance], dict[str, list[str]]]:
    audio = find_audio(folder / "sph")
    utterances: list[Utterance] = []
    left_out: dict[str, list[str]] = {"not scored": [], "line not understood": [], "text without spelling": []}
    for stm in sorted((folder / "stm").glob("*.stm")):
        for number, line in enumerate(read_lines(stm), start=1):
            # AlGore_2006 1 AlGore_2006 12.81 17.07 <o,f0,male> thank you so much <unk> it 's truly a great honor
            if not line.strip() or line.startswith(";;"):
                continue
            utt_id, found = f"{stm.stem}-{number:04d}", _LINE.fullmatch(line.strip())
            if found is None or float(found[4]) >= float(found[5]):
                left_out["line not understood"].append(f"{utt_id}\t{line}")
            elif IGNORED in found[6]:
                left_out["not scored"].append(utt_id)
            else:
                text = normalise_english(re.sub(r" (?='\w)", "", found[6].replace("<unk>", " ")))
                if text:
                    segment = float(found[4]), float(found[5])
                    utterances.append(Utterance(utt_id, found[3], audio.get(stm.stem), text, segment=segment))
                else:
                    left_out["text without spelling"].append(f"{utt_id}\t{found[6]}")
    return utterances, left_out
