"""A user's own data: what a CSV, JSON-lines, Kaldi or Hugging Face listing says of each utterance."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eeasr_modules.common.text_files import read_lines
from eeasr_modules.data.listings import (
    AUDIO_COLUMNS,
    DATA_ROOT,
    ID_COLUMNS,
    SPEAKER_COLUMNS,
    SUFFIXES,
    TEXT_COLUMNS,
    Row,
    checked_stretch,
    read_listing,
    value_of,
)
from eeasr_modules.data.waveform import with_segment

logger = logging.getLogger(__name__)

AUDIOFOLDER = ("metadata.csv", "metadata.jsonl")  # what load_dataset("audiofolder") reads beside its files


@dataclass(frozen=True)
class Entry:
    """One utterance of a listing.

    Arguments
    ---------
    utt_id, speaker : str
        Where the listing names no speaker, each utterance is its own.
    audio : Path or None
        Absolute, or relative to where the program runs; not looked at. None where the listing's cell is empty.
    text : str
        As listed; "" where nothing is.
    segment : (float, float) or None
        Start and end in the file, seconds; an infinite end is that of the file.
    """

    utt_id: str
    speaker: str
    audio: Path | None
    text: str
    segment: tuple[float, float] | None = None


def find_split(folder: Path, split: str) -> Path:
    """What holds a split: `<split>.csv`, `.tsv`, `.jsonl`, an audiofolder's metadata, or the folder `<split>`.

    Raises
    ------
    FileNotFoundError
        When there is no such thing; what there is, is named.
    """
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
    there = sorted(path.name for path in folder.iterdir())
    raise FileNotFoundError(
        f"expected the split {split!r} in {folder} as {split}.csv, {split}.tsv, {split}.jsonl, a folder {split} with "
        "Kaldi's wav.scp and text or an audiofolder's metadata.csv, or a saved Hugging Face dataset; "
        f"there is {', '.join(there[:10]) or 'nothing'}"
    )


def read_split(source: Path, split: str, *, save_folder: Path) -> Iterator[Entry]:
    """Utterances of a split that `find_split` found, in its order.

    Arguments
    ---------
    source : Path
        File or folder.
    split : str
        Its name, for messages.
    save_folder : Path
        Where audio goes that a Hugging Face dataset holds inside its tables.

    Raises
    ------
    FileNotFoundError, ValueError
        One sentence: a column, file or line that is missing or not understood.
    """
    if source.is_dir():
        kaldi = (source / "wav.scp").is_file()
        return _read_kaldi(source) if kaldi else _read_dataset(source, split, save_folder / f"{split}_audio")
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


def _read_dataset(folder: Path, split: str, audio_folder: Path) -> Iterator[Entry]:
    try:
        from datasets import Audio, load_from_disk
    except ImportError as err:
        raise ImportError(f"{folder} is a saved Hugging Face dataset: pip install 'eeasr[datasets]'") from err
    dataset = load_from_disk(str(folder))
    columns = dataset.column_names
    audio = next((name for name in AUDIO_COLUMNS if name in columns), None)
    text = next((name for name in TEXT_COLUMNS if name in columns), None)
    if audio is None or text is None:
        raise ValueError(
            f"the dataset in {folder} must have audio under one of {', '.join(AUDIO_COLUMNS)} and text under one of "
            f"{', '.join(TEXT_COLUMNS)}, it has {', '.join(columns)}"
        )
    if isinstance(dataset.features[audio], Audio):
        dataset = dataset.cast_column(audio, Audio(decode=False))
    utt_ids = _dataset_ids(dataset, split)
    n_without_speaker = 0
    for utt_id, row in zip(utt_ids, dataset, strict=True):
        speaker = value_of(row, SPEAKER_COLUMNS)
        n_without_speaker += speaker is None
        file = None if row[audio] is None else _file_of(row[audio], utt_id, audio_folder, folder)
        yield Entry(utt_id, speaker or utt_id, file, value_of(row, TEXT_COLUMNS) or "")
    _say_without_speaker(n_without_speaker, folder)


def _dataset_ids(dataset, split: str) -> list[str]:
    """Ids of a dataset's rows; their numbers where it lists none, or the same for several (FLEURS: of the sentence)."""
    columns = [dataset[name] for name in ID_COLUMNS if name in dataset.column_names]
    listed = [_unique_in_corpus(value_of({"id": one}, ("id",)), split) for one in columns[0]] if columns else []
    if listed and None not in listed and len(set(listed)) == len(listed):
        return listed
    return [f"{split}-{number:06d}" for number in range(len(dataset))]


def _file_of(audio: dict | str, utt_id: str, audio_folder: Path, folder: Path) -> Path:
    """The file that a dataset names; its bytes are written to one where the table itself holds them."""
    if isinstance(audio, str):
        return folder / audio
    if audio.get("bytes") is None:
        return folder / audio["path"]
    # named by content: after rows change places, or where two ids differ by a `/` only, a file is still its row's own
    content = hashlib.sha256(audio["bytes"]).hexdigest()[:16]
    name = f"{utt_id.replace('/', '_')[:80]}-{content}{Path(audio.get('path') or 'x.wav').suffix}"
    file = audio_folder / name
    if not file.is_file() or file.stat().st_size != len(audio["bytes"]):
        audio_folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(audio["bytes"])
    return file
