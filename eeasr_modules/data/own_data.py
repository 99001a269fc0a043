"""A user's own data: what a CSV, JSON-lines, Kaldi or Hugging Face listing says of each utterance."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# names that other tools give the same column, first come first taken
AUDIO_COLUMNS = ("wav", "audio", "path", "file", "audio_filepath", "file_name")
TEXT_COLUMNS = ("wrd", "text", "sentence", "transcript", "transcription")
ID_COLUMNS = ("ID", "id", "utt_id", "key")
SPEAKER_COLUMNS = ("spk_id", "speaker", "speaker_id", "client_id")


@dataclass(frozen=True)
class Entry:
    """One utterance of a listing.

    Arguments
    ---------
    utt_id, speaker : str
        Where the listing names no speaker, each utterance is its own.
    audio : Path
        Absolute, or relative to where the program runs; not looked at.
    text : str
        As listed.
    segment : (float, float) or None
        Start and end in the file, seconds.
    """

    utt_id: str
    speaker: str
    audio: Path
    text: str
    segment: tuple[float, float] | None = None


def find_split(folder: Path, split: str) -> Path:
    """What holds a split: `<split>.csv`, `.tsv`, `.jsonl`, a folder `<split>`, or the folder of a saved dataset.

    Raises
    ------
    FileNotFoundError
        When there is no such thing; what there is, is named.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"expected your own data in the folder {folder}, but it is not a folder")
    for suffix in (".csv", ".tsv", ".jsonl"):
        if (folder / f"{split}{suffix}").is_file():
            return folder / f"{split}{suffix}"
    if (folder / "dataset_dict.json").is_file() and (folder / split).is_dir():
        return folder / split
    if (folder / split / "wav.scp").is_file() or (folder / split / "state.json").is_file():
        return folder / split
    there = sorted(path.name for path in folder.iterdir())
    raise FileNotFoundError(
        f"expected the split {split!r} in {folder} as {split}.csv, {split}.tsv, {split}.jsonl, a folder {split} with "
        f"Kaldi's wav.scp and text, or a saved Hugging Face dataset; there is {', '.join(there[:10]) or 'nothing'}"
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
        return _read_kaldi(source) if kaldi else _read_dataset(source, save_folder / f"{split}_audio")
    rows = _read_json_lines(source) if source.suffix == ".jsonl" else _read_table(source)
    return _from_rows(rows, source)


def _read_table(path: Path) -> Iterator[tuple[int, dict]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        for row in reader:
            yield reader.line_num, row


def _read_json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as err:
                raise ValueError(f"line {number} of {path} must be a JSON object: {err}") from err
            if not isinstance(row, dict):
                raise ValueError(f"line {number} of {path} must be a JSON object, got {line.strip()[:40]}")
            yield number, row


def _from_rows(rows: Iterator[tuple[int, dict]], path: Path) -> Iterator[Entry]:
    n_without_speaker = 0
    for number, row in rows:
        wav, text = _first(row, AUDIO_COLUMNS), _first(row, TEXT_COLUMNS)
        if wav is None or text is None:
            names, columns = ("audio", AUDIO_COLUMNS) if wav is None else ("text", TEXT_COLUMNS)
            raise ValueError(
                f"line {number} of {path} must say its {names} under one of {', '.join(columns)}, "
                f"it has {', '.join(str(key) for key in row)}"
            )
        wav = wav.replace("$data_root", str(path.parent))
        utt_id = _first(row, ID_COLUMNS) or Path(wav).with_suffix("").as_posix().lstrip("/")
        speaker = _first(row, SPEAKER_COLUMNS)
        n_without_speaker += speaker is None
        segment = _segment(row, f"line {number} of {path}")
        yield Entry(utt_id, speaker or utt_id, path.parent / wav, text, segment)
    _say_without_speaker(n_without_speaker, path)


def _first(row: dict, names: tuple[str, ...]) -> str | None:
    return next((str(row[name]) for name in names if row.get(name) not in (None, "")), None)


def _segment(row: dict, where: str) -> tuple[float, float] | None:
    start, end = _first(row, ("start", "start_s", "offset")), _first(row, ("end", "end_s", "stop"))
    lasts = _first(row, ("duration",)) if end is None else None
    if start is None:
        return None
    try:
        begins = float(start)
        ends = float(end) if end is not None else begins + float(lasts)
    except (TypeError, ValueError):
        raise ValueError(f"{where} must give start and end (or duration) in seconds, got {start} and {end}") from None
    if not 0 <= begins < ends:
        raise ValueError(f"{where} must begin at 0 s or later and before it ends, got {begins} to {ends} s")
    return begins, ends


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
    if not 0 <= start < end:
        raise ValueError(
            f"{folder / 'segments'}, {utt_id}: expected 0 <= start < end in seconds, got {start} and {end}"
        )
    return recording, (start, end)


def _keyed(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"expected Kaldi's {path.name} in {path.parent}, found none")
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            key, _, value = line.strip().partition(" ")
            found[key] = value.strip()
    return found


def _read_dataset(folder: Path, audio_folder: Path) -> Iterator[Entry]:
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
    n_without_speaker = 0
    for number, row in enumerate(dataset):
        utt_id = _first(row, ID_COLUMNS) or f"{number:06d}"
        speaker = _first(row, SPEAKER_COLUMNS)
        n_without_speaker += speaker is None
        yield Entry(utt_id, speaker or utt_id, _file_of(row[audio], utt_id, audio_folder, folder), row[text])
    _say_without_speaker(n_without_speaker, folder)


def _file_of(audio: dict | str, utt_id: str, audio_folder: Path, folder: Path) -> Path:
    """The file that a dataset names; its bytes are written to one where the table itself holds them."""
    if isinstance(audio, str):
        return folder / audio
    if audio.get("bytes") is None:
        return folder / audio["path"]
    file = audio_folder / f"{utt_id.replace('/', '_')}{Path(audio.get('path') or 'x.wav').suffix}"
    if not file.is_file() or file.stat().st_size != len(audio["bytes"]):
        audio_folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(audio["bytes"])
    return file
