"""A user's own data: what a CSV, JSON-lines, Kaldi or Hugging Face listing says of each utterance."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eeasr_modules.common.files import read_lines
from eeasr_modules.data.audio_files import with_segment
from eeasr_modules.data.listings import DATA_ROOT, SUFFIXES, Row, checked_stretch, read_listing
from eeasr_modules.data.saved_sets import TABLES, is_hub, written_through

logger = logging.getLogger(__name__)

AUDIOFOLDER = ("metadata.csv", "metadata.jsonl")  # what load_dataset("audiofolder") reads beside its files


@dataclass(frozen=True)
class Entry:
    """One utterance of a listing."""

    # utt_id, speaker: where the listing names no speaker, each utterance is its own
    utt_id: str
    speaker: str
    # absolute, or relative to where the program runs; not looked at. None where the listing's cell is empty
    audio: Path | None
    text: str  # as listed; "" where nothing is
    # start and end in the file, seconds; an infinite end is that of the file
    segment: tuple[float, float] | None = None


def find_split(folder: Path | str, split: str) -> Path | str:
    """What holds a split: `<split>.csv`, `.tsv`, `.jsonl`, an audiofolder's metadata, or the folder `<split>`.

    A folder of tables that `datasets` reads holds all of its splits, and so does a set of the hub.

    FileNotFoundError when there is no such thing; what there is, is named.
    """
    if is_hub(folder):
        return folder
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected your own data in the folder {folder}, but it is not a folder")
    for suffix in SUFFIXES:
        if (folder / f"{split}{suffix}").is_file():
            return folder / f"{split}{suffix}"
    for name in AUDIOFOLDER:
        if (folder / split / name).is_file():
            return folder / split / name
    if (folder / "dataset_dict.json").is_file() and (folder / split).is_dir():
        return folder / split
    if (folder / split / "wav.scp").is_file() or (folder / split / "state.json").is_file():
        return folder / split
    if any(path.suffix in TABLES for path in folder.rglob("*")):
        return folder
    there = sorted(path.name for path in folder.iterdir())
    raise FileNotFoundError(
        f"expected the split {split!r} in {folder} as {split}.csv, {split}.tsv, {split}.jsonl, a folder {split} with "
        "Kaldi's wav.scp and text or an audiofolder's metadata.csv, or a Hugging Face dataset, saved or as .parquet; "
        f"there is {', '.join(there[:10]) or 'nothing'}"
    )


def read_split(source: Path | str, split: str, *, save_folder: Path) -> Iterator[Entry]:
    """Utterances of a split that `find_split` found, in its order.

    FileNotFoundError, ValueError one sentence: a column, file or line that is missing or not understood.

    Arguments
    ---------
    source : Path or str
        File or folder, or a set of the hub.
    save_folder : Path
        Where audio goes that a Hugging Face dataset holds inside its tables.
    """
    if not is_hub(source) and (Path(source) / "wav.scp").is_file():
        return _read_kaldi(source)
    if is_hub(source) or source.is_dir() or source.suffix in TABLES:
        source = written_through(source, split, save_folder / f"{split}_audio")
    return _from_rows(read_listing(source, needs_text=True), source, split)


def _from_rows(rows: Iterator[Row], path: Path, split: str) -> Iterator[Entry]:
    n_without_speaker = 0
    for number, row in enumerate(rows, start=1):
        wav = row.audio.replace(DATA_ROOT, str(path.parent))
        utt_id = _unique_in_corpus(row.utt_id, split) or _id_of_stretch(wav, row.segment) or f"{split}-{number:06d}"
        n_without_speaker += row.speaker is None
        yield Entry(utt_id, row.speaker or utt_id, path.parent / wav if wav else None, row.text or "", row.segment)
    _say_without_speaker(n_without_speaker, path)


def _unique_in_corpus(utt_id: str | None, split: str) -> str | None:
    """A listed id; a number, which begins again in each split, with the split in front."""
    return f"{split}-{utt_id}" if utt_id is not None and utt_id.isdecimal() else utt_id


def _id_of_stretch(wav: str, segment: tuple[float, float] | None) -> str:
    """The path without suffix and slash in front, and where the stretch begins and ends."""
    return with_segment(Path(wav).with_suffix("").as_posix().lstrip("/"), segment) if wav else ""


def _say_without_speaker(n: int, path: Path) -> None:
    if n:
        logger.warning(
            "%s: %d utterances have no speaker and count as one each; intervals over speakers are then too narrow",
            path,
            n,
        )


def _read_kaldi(folder: Path) -> Iterator[Entry]:
    wavs, texts = _keyed(folder / "wav.scp"), _keyed(folder / "text")
    speakers = _keyed(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    segments = _keyed(folder / "segments") if (folder / "segments").is_file() else None
    for recording, wav in wavs.items():
        if wav.endswith("|"):
            raise ValueError(
                f"{folder / 'wav.scp'} must name files, '{recording}' is a command ({wav[:60]}): "
                "write its output to files"
            )
    n_without_speaker = 0
    for utt_id, text in texts.items():
        recording, segment = utt_id, None
        if segments is not None:
            if utt_id not in segments:
                raise ValueError(f"{folder / 'segments'} lacks the utterance '{utt_id}' of text")
            recording, segment = _kaldi_segment(segments[utt_id], utt_id, folder)
        if recording not in wavs:
            raise ValueError(f"{folder / 'wav.scp'} lacks the recording '{recording}' of utterance '{utt_id}'")
        n_without_speaker += utt_id not in speakers
        yield Entry(utt_id, speakers.get(utt_id, utt_id), folder / wavs[recording], text, segment)
    _say_without_speaker(n_without_speaker, folder)


def _kaldi_segment(line: str, utt_id: str, folder: Path) -> tuple[str, tuple[float, float]]:
    parts = line.split()
    try:
        recording, start, end = parts[0], float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        raise ValueError(f"{folder / 'segments'}, {utt_id}: expected 'recording start end', got '{line}'") from None
    return recording, checked_stretch(start, end, f"{folder / 'segments'}, {utt_id}")


def _keyed(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"expected Kaldi's {path.name} in {path.parent}, found none")
    found = {}
    for line in read_lines(path):
        if line.strip():
            key, value = [*re.split(r"[ \t]+", line.strip(), maxsplit=1), ""][:2]
            found[key] = value
    return found
