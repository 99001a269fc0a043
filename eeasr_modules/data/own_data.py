"""A user's own data: what a CSV, JSON-lines, Kaldi or Hugging Face listing says of each utterance.

Sets of the package `datasets` (saved on disk, as Parquet, or streamed) are written out once, as an audiofolder:
`metadata.jsonl`, and the audio that tables held beside it; audio that lay in files stays there. `source.json`, written
last, says what it was made of: as long as that is unchanged it is read again.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eeasr_modules.common.files import read_lines, write_aside
from eeasr_modules.data.audio_files import SILENT_S, with_segment
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

logger = logging.getLogger(__name__)

AUDIOFOLDER = ("metadata.csv", "metadata.jsonl")  # what load_dataset("audiofolder") reads beside its files
HUB = "hf:"  # how `data_folder` begins where it is a set of the hub: `hf:NAME` or `hf:NAME,CONFIGURATION`
SOUND = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
TABLES = (".parquet", ".arrow", ".tar")


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

    FileNotFoundError, ValueError, in one sentence: a column, file or line that is missing or not understood. `source`:
    file or folder, or a set of the hub. `save_folder`: where audio goes that a Hugging Face dataset holds inside its
    tables.
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
        utt_id = row.utt_id
        if utt_id is not None and utt_id.isdecimal():  # a number begins again in each split
            utt_id = f"{split}-{utt_id}"
        utt_id = utt_id or _id_of_stretch(wav, row.segment) or f"{split}-{number:06d}"
        n_without_speaker += row.speaker is None
        yield Entry(utt_id, row.speaker or utt_id, path.parent / wav if wav else None, row.text or "", row.segment)
    _say_without_speaker(n_without_speaker, path)


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


def is_hub(folder: object) -> bool:
    """Whether a `data_folder` is a set of the hub.

    Example
    -------
    >>> is_hub("hf:openslr/librispeech_asr,clean"), is_hub("/my/corpus")
    (True, False)
    """
    return str(folder).startswith(HUB)


def written_through(source: Path | str, split: str, folder: Path) -> Path:
    """The `metadata.jsonl` of a split, written with its audio where that is not done yet.

    ValueError, in one sentence: no package `datasets`, no such split, no audio or text in it, audio of unknown rate, a
    full disk. `source`: what `save_to_disk` left of the split; a Parquet file; a folder of tables that `load_dataset`
    reads; `hf:NAME`. `folder`: for the listing and the audio. A set of the hub is not asked again as long as it is
    there.
    """
    made_from = [str(source), split] if is_hub(source) else _state(Path(source))
    if _noted(folder) != made_from:
        dataset, n_bytes = _opened(source, split)
        root = Path() if is_hub(source) else Path(source)
        write_through(dataset, folder, split=split, name=str(source), root=root, n_bytes=n_bytes)
        write_aside(folder / "source.json", json.dumps(made_from))
    return folder / "metadata.jsonl"


def write_through(
    dataset: Iterable[Mapping],
    folder: Path | str,
    *,
    split: str = "train",
    name: str = "the stream",
    root: Path | None = None,
    n_bytes: int | None = None,
) -> Path:
    """Write any set of `datasets`, a streamed one too, as an audiofolder, read from front to end.

    ValueError, in one sentence: no audio or text, audio of which the rate is not said, a full disk. `dataset`: its rows
    have audio (a path; `bytes`; or `array` and `sampling_rate`) and text, under the names of listings. `folder`: to
    write; audio that is there already is kept, so that a stopped run goes on. `split` and `name`: for ids where it
    lists none, and for messages. `root`: what paths of audio are relative to; None: where the program runs. `n_bytes`:
    how large it is, where known: said before, and refused where the disk has less.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> second = {"array": np.zeros(16000), "sampling_rate": 16000}
    >>> listing = write_through(iter([{"audio": second, "text": "hm", "speaker_id": 7}]), folder)
    >>> row = json.loads(listing.read_text())
    >>> row["text"], row["id"], row["speaker"], (folder / row["file_name"]).is_file()
    ('hm', 'train-000000', '7', True)
    """
    from tqdm import tqdm

    folder, root = Path(folder), Path(root or "").absolute()
    rows = _rows(dataset, name)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"expected utterances in {name}, found none")
    audio, text = _columns(first, name)
    if not _lies_in_a_file(first[audio]):
        _say_disk(folder, name, n_bytes)
    found, ids = [], []
    for number, row in enumerate(tqdm(itertools.chain([first], rows), desc=name, unit="utt", delay=SILENT_S)):
        file = "" if row[audio] is None else _file_of(row[audio], folder, root=root, place=f"row {number} of {name}")
        speaker = value_of(row, SPEAKER_COLUMNS)
        found.append({"file_name": file, "text": value_of(row, (text,)) or "", "speaker": speaker})
        ids.append(value_of(row, ID_COLUMNS))
    if None in ids or len(set(ids)) < len(ids):  # FLEURS: the id is the sentence's
        ids = [f"{split}-{number:06d}" for number in range(len(found))]
    lines = (json.dumps({**one, "id": utt_id}, ensure_ascii=False) for one, utt_id in zip(found, ids, strict=True))
    return write_aside(folder / "metadata.jsonl", "".join(f"{line}\n" for line in lines))


def _rows(dataset: Iterable[Mapping], name: str) -> Iterator[Mapping]:
    try:
        yield from map(_flat, _undecoded(dataset))
    except Exception as err:  # whatever its loaders, its network and its formats raise
        raise _cannot("read", name, err) from err


def _flat(row: Mapping) -> Mapping:
    """A row; of a tar (WebDataset), whose columns are the suffixes of its files, as others have it."""
    if "__key__" not in row:
        return row
    text = {"text": row["txt"]} if "txt" in row else {}
    audio = next((row[suffix[1:]] for suffix in SOUND if suffix[1:] in row), None)
    return {**text, **(row.get("json") or {}), "id": row["__key__"], "wav": audio}


def _cannot(what: str, name: object, err: Exception) -> ValueError:
    said = " ".join(str(err).split()).rstrip(".")
    return ValueError(f"datasets cannot {what} {name} ({type(err).__name__}: {said})")


def _datasets(source: Path | str):
    try:
        import datasets
    except ImportError as err:
        raise ValueError(f"{source} is a set of the package datasets: pip install 'eeasr[datasets]'") from err
    return datasets


def _hub_name(source: Path | str) -> tuple[str, str | None]:
    """Name and configuration.

    Example
    -------
    >>> _hub_name("hf:openslr/librispeech_asr,clean"), _hub_name("hf:me/mine")
    (('openslr/librispeech_asr', 'clean'), ('me/mine', None))
    """
    name, _, configuration = str(source).removeprefix(HUB).partition(",")
    return name, configuration or None


def _opened(source: Path | str, split: str) -> tuple[Iterable[Mapping], int | None]:
    """A set as `datasets` reads it, streamed but for saved ones, and how many bytes its files have, where they say."""
    datasets = _datasets(source)
    if (Path(source) / "state.json").is_file():
        return datasets.load_from_disk(str(source)), sum(file.stat().st_size for file in Path(source).glob("*.arrow"))
    how: dict = {"path": str(source)}
    if is_hub(source):
        how = dict(zip(("path", "name"), _hub_name(source), strict=True))
    elif Path(source).is_file():
        how = {"path": "parquet", "data_files": {split: str(source)}}
    try:
        dataset = datasets.load_dataset(**how, split=split, streaming=True)
        files = datasets.load_dataset_builder(**how).config.data_files or {}
        sizes = [datasets.utils.file_utils.xgetsize(one) for one in files.get(split, [])]
    except Exception as err:  # whatever its loaders, its network and its formats raise
        raise _cannot("stream", f"the split {split!r} of {source}", err) from err
    return dataset, sum(sizes) or None


def _state(source: Path) -> list:
    """Names, sizes and times of change of its tables."""
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.suffix in TABLES]
    found = [(os.path.abspath(file), os.stat(file)) for file in sorted(files)]
    return [[name, status.st_size, status.st_mtime_ns] for name, status in found]


def _noted(folder: Path) -> list | None:
    """What a finished folder was made of; None where audio of it is missing."""
    try:
        made_from = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        rows = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return made_from if all((folder / json.loads(row)["file_name"]).exists() for row in rows) else None


def _undecoded(dataset: Iterable[Mapping]) -> Iterable[Mapping]:
    """The set with its audio as it lies; decoding it would need torchcodec."""
    for name, feature in (getattr(dataset, "features", None) or {}).items():
        if type(feature).__name__ == "Audio":
            if type(dataset).__name__ == "IterableDataset":
                from datasets import Value

                dataset = dataset.cast_column(name, {"bytes": Value("binary"), "path": Value("string")})
            else:
                dataset = dataset.cast_column(name, type(feature)(decode=False))
        elif isinstance(feature, dict) and "array" in feature:
            dataset = dataset.with_format("numpy")  # lists of numbers would take a minute an hour
    return dataset


def _columns(row: Mapping, name: str) -> tuple[str, str]:
    audio = next((one for one in AUDIO_COLUMNS if one in row), None)
    text = next((one for one in TEXT_COLUMNS if one in row), None)
    if audio is None or text is None:
        raise ValueError(
            f"the dataset in {name} must have audio under one of {', '.join(AUDIO_COLUMNS)} and text under one of "
            f"{', '.join(TEXT_COLUMNS)}, it has {', '.join(row)}"
        )
    return audio, text


def _lies_in_a_file(audio: object) -> bool:
    path = audio.get("path") if isinstance(audio, Mapping) and audio.get("bytes") is None else audio
    return isinstance(path, str) and "://" not in path


def _say_disk(folder: Path, name: str, n_bytes: int | None) -> None:
    there = next(one for one in [folder, *folder.absolute().parents] if one.is_dir())
    free = shutil.disk_usage(there).free
    needed = "an unknown number of GB (its size is not told)" if n_bytes is None else f"about {n_bytes / 1e9:.1f} GB"
    logger.info("%s holds its audio: %s go to %s, which has %.1f GB free", name, needed, folder, free / 1e9)
    if n_bytes is not None and n_bytes > free:
        raise ValueError(
            f"{name} holds about {n_bytes / 1e9:.1f} GB of audio, '{there}' has {free / 1e9:.1f} GB free: make room, "
            "or write to another disk"
        )


def _file_of(audio: object, folder: Path, *, root: Path, place: str) -> str:
    """Where a row's audio lies: the file it names, or one that is written into `folder`.

    That one is named by content: after rows change places it is still its row's own.
    """
    audio = {"path": audio} if isinstance(audio, str) else audio
    try:
        content, suffix = _as_flac(np.asarray(audio["array"]), int(audio["sampling_rate"])), ".flac"
    except (KeyError, TypeError):
        if not isinstance(audio, Mapping) or not (audio.get("bytes") or audio.get("path")):
            got = ", ".join(audio) if isinstance(audio, Mapping) else f"a {type(audio).__name__}"
            raise ValueError(
                f"{place} must have its audio as a path, as bytes, or as array with sampling_rate, got {got}"
            ) from None
        content, path = audio.get("bytes"), str(audio.get("path") or "")
        if content is None and "://" not in path:
            return str(root / path)
        content, suffix = content or _fetched(path), Path(path).suffix or ".wav"
    name = f"{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
    if not (folder / name).is_file() or (folder / name).stat().st_size != len(content):
        write_aside(folder / name, content)
    return name


def _fetched(address: str) -> bytes:
    import fsspec

    with fsspec.open(address, "rb") as file:
        return file.read()


def _as_flac(samples: np.ndarray, rate: int) -> bytes:
    """(samples,) or (channels, samples) as 16-bit FLAC, as which audio is read anyway; louder than 1: as float WAV."""
    import soundfile

    samples = samples.astype(np.int16) if samples.dtype.kind == "i" else samples
    samples = samples.T if samples.ndim == 2 and samples.shape[0] < samples.shape[1] else samples
    loud = samples.dtype.kind == "f" and np.abs(samples).max(initial=0) > 1
    content = io.BytesIO()
    soundfile.write(content, samples, rate, **({"format": "WAV", "subtype": "FLOAT"} if loud else {"format": "FLAC"}))
    return content.getvalue()
