"""Manifests: one CSV per split (ID, duration, wav, spk_id, wrd), and beside it what it was made from.

The CSV follows SpeechBrain's convention; `wav` begins with `$data_root`, so a manifest and its digest are the same
wherever the corpus lies. Beside `train.csv` lie `train.json` (corpus, counts, digests) and, when utterances were
skipped, `train.skipped.txt`. A corpus is one function `prepare(data_folder, save_folder, *, splits)` which lists
`Utterance`s and hands each split to `write_manifest`; nothing is redone while the inputs stay as they were.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eeasr_modules.common.files import file_digest, write_aside
from eeasr_modules.data.audio_files import SILENT_S, look_at_audio, split_segment, with_segment
from eeasr_modules.data.listings import DATA_ROOT

logger = logging.getLogger(__name__)

COLUMNS = ("ID", "duration", "wav", "spk_id", "wrd")
PREPARE_VERSION = 2  # raise it when what is written changes for the same inputs
_N_NAMED = 20


@dataclass(frozen=True)
class Utterance:
    """What a corpus says of one utterance, before its audio was looked at."""

    # utt_id, speaker: unique within the corpus
    utt_id: str
    speaker: str
    audio: Path | None  # where the audio should be; None when no file was found for it
    text: str  # normalised reference
    # where the corpus publishes it: the file is then not opened, only checked to be there and not empty
    duration_s: float | None = None
    # where in the file it begins and ends, in seconds; None for all of it. Of such a file the header is read, and a
    # segment that begins or ends after its end is corrupt; an infinite end is the file's
    segment: tuple[float, float] | None = None


@dataclass(frozen=True)
class ManifestRow:
    """One line of a manifest; `wav` as written, that is, with `$data_root` in front (see `audio_path`)."""

    utt_id: str
    duration_s: float
    wav: str
    speaker: str
    text: str


def write_manifest(
    path: Path | str,
    utterances: Sequence[Utterance],
    *,
    corpus: str,
    split: str,
    data_folder: Path,
    normaliser: str,
    options: Mapping[str, object] | None = None,
    left_out: Mapping[str, Sequence[str]] | None = None,
    decode: bool = True,
) -> Path:
    """Manifest (CSV) of one split, its audio looked at; the existing one when the inputs have not changed.

    ValueError when no utterance is left, or an ID occurs twice.

    Missing and corrupt audio is skipped, counted, named in the log and in `<name>.json` (the first 20) and
    `<name>.skipped.txt` (all).

    Arguments
    ---------
    utterances : sequence of Utterance
        All of the split, in the order to write.
    corpus, split : str
        Names for the description; the corpus' name decides whether a test set is in domain.
    data_folder : Path
        The corpus; audio under it is written relative to it.
    normaliser : str
        Name of the rule that made the texts (a key of `text.NORMALISERS`).
    options : mapping, optional
        Other choices that the split depends on; another value makes the manifest anew.
    left_out : mapping of reason to utterance ids, optional
        What the corpus' own parser left out, for the counts.
    decode : bool
        Read every file to its end (finds files cut short); otherwise headers only, for corpora of many hours.
    """
    path, data_folder = Path(path), Path(os.path.abspath(data_folder))
    left_out = {reason: list(ids) for reason, ids in (left_out or {}).items() if ids}
    made_from = {
        "prepare_version": PREPARE_VERSION,
        "corpus": corpus,
        "split": split,
        "data_folder": str(data_folder),
        "normaliser": normaliser,
        "options": dict(options or {}),
        "decode": decode,
    }
    digest = _input_digest(utterances, made_from, left_out)
    if _unchanged(path, digest):
        logger.info("%s: inputs unchanged, kept", path)
        return path
    _check_unique(utterances, path)
    rows, skipped = [], {"missing": [], "corrupt": []}
    known = [each.duration_s for each in utterances]
    looks = look_at_audio(
        [each.audio for each in utterances],
        decode=decode,
        known=known,
        segments=[each.segment for each in utterances],
        title=f"{corpus} {split}",
    )
    for utterance, look in zip(utterances, looks, strict=True):
        if look.wrong is None:
            rows.append(_row(utterance, look.duration_s, data_folder))
        else:
            skipped[look.wrong].append(f"{utterance.utt_id}\t{look.why}")
    skipped = {reason: names for reason, names in {**skipped, **left_out}.items() if names}
    _log_skipped(skipped, path)
    if not rows:
        reasons = ", ".join(f"{len(names)} {reason}" for reason, names in skipped.items()) or "none listed"
        raise ValueError(
            f"split {split!r} of {corpus} has no usable utterance ({reasons}): check the audio under {data_folder}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_skipped(skipped, path.with_suffix(".skipped.txt"))
    _write_csv(rows, path)
    description = {
        **made_from,
        "n_utterances": len(rows),
        "n_speakers": len({row.speaker for row in rows}),
        "duration_s": round(sum(row.duration_s for row in rows), 3),
        "n_words": sum(len(row.text.split()) for row in rows),
        "skipped": {reason: len(names) for reason, names in skipped.items()},
        "skipped_first": {reason: names[:_N_NAMED] for reason, names in skipped.items()},
        "input_digest": digest,
        "csv_digest": manifest_digest(path),
    }
    write_aside(path.with_suffix(".json"), json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    return path


def read_manifest(path: Path | str) -> list[ManifestRow]:
    """Rows of a manifest; FileNotFoundError without it, ValueError when the columns are not a manifest's."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a manifest at {path}, found none: run the corpus' prepare first")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, lacks {', '.join(missing)}")
        return [ManifestRow(row["ID"], float(row["duration"]), row["wav"], row["spk_id"], row["wrd"]) for row in reader]


def read_description(path: Path | str) -> dict:
    """What `write_manifest` noted beside the manifest `path`: corpus, split, data folder, counts, digests."""
    beside = Path(path).with_suffix(".json")
    if not beside.is_file():
        raise FileNotFoundError(f"expected {beside.name} beside the manifest {path}: run the corpus' prepare first")
    return json.loads(beside.read_text(encoding="utf-8"))


def manifest_digest(path: Path | str) -> str:
    """SHA-256 of the CSV: the same for the same utterances, wherever the corpus lies."""
    return file_digest(path)


def audio_path(wav: str, data_root: Path | str) -> Path:
    """Path of a manifest's `wav` entry.

    Example
    -------
    >>> audio_path("$data_root/wav/a.flac", "/corpora/an4").as_posix()
    '/corpora/an4/wav/a.flac'
    """
    return Path(wav.replace(DATA_ROOT, str(data_root), 1) if wav.startswith(DATA_ROOT) else wav)


def require_files(data_folder: Path | str, expected: Sequence[str], *, corpus: str) -> Path:
    """The folder, if it holds every expected path; else FileNotFoundError that says what lacks."""
    folder = Path(data_folder)
    missing = [name for name in expected if not (folder / name).exists()]
    if missing:
        state = f"lacks {', '.join(missing)}" if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(f"expected {corpus} with {', '.join(expected)} in {folder}, but it {state}")
    return folder


def _input_digest(utterances: Sequence[Utterance], made_from: Mapping, left_out: Mapping) -> str:
    """SHA-256 over the options and, per utterance, its words and its file's path, size and time of change."""
    from tqdm import tqdm

    digest = hashlib.sha256(json.dumps([made_from, left_out], sort_keys=True, default=str).encode())
    title = f"{made_from['corpus']} {made_from['split']}, changed files"
    for utterance in tqdm(utterances, desc=title, unit="utt", dynamic_ncols=True, delay=SILENT_S):
        state: tuple = ()
        if utterance.audio is not None and utterance.audio.exists():
            status = utterance.audio.stat()
            state = (status.st_size, status.st_mtime_ns)
        if utterance.duration_s is not None:
            state += (utterance.duration_s,)
        if utterance.segment is not None:
            state += utterance.segment
        line = (utterance.utt_id, utterance.speaker, utterance.text, str(utterance.audio), *state)
        digest.update(repr(line).encode())
    return digest.hexdigest()


def _unchanged(path: Path, digest: str) -> bool:
    beside = path.with_suffix(".json")
    if not (path.is_file() and beside.is_file()):
        return False
    try:
        noted = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return noted.get("input_digest") == digest and noted.get("csv_digest") == manifest_digest(path)


def _check_unique(utterances: Sequence[Utterance], path: Path) -> None:
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.utt_id in seen:
            raise ValueError(f"utterance ids must be unique in {path.name}, got {utterance.utt_id} twice")
        seen.add(utterance.utt_id)


def _row(utterance: Utterance, duration_s: float, data_folder: Path) -> ManifestRow:
    audio = Path(os.path.abspath(utterance.audio))
    if audio.is_relative_to(data_folder):
        wav = f"{DATA_ROOT}/{audio.relative_to(data_folder).as_posix()}"
    else:
        wav = audio.as_posix()
    wav = with_segment(wav, utterance.segment)
    return ManifestRow(utterance.utt_id, round(duration_s, 4), wav, utterance.speaker, utterance.text)


def _write_csv(rows: Sequence[ManifestRow], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((row.utt_id, row.duration_s, row.wav, row.speaker, row.text) for row in rows)
    write_aside(path, text.getvalue())


def _write_skipped(skipped: Mapping[str, Sequence[str]], path: Path) -> None:
    if not skipped:
        path.unlink(missing_ok=True)
        return
    write_aside(path, "".join(f"{reason}\t{name}\n" for reason, names in skipped.items() for name in names))


def _log_skipped(skipped: Mapping[str, Sequence[str]], path: Path) -> None:
    for reason, names in skipped.items():
        first = "; ".join(name.replace("\t", ": ") for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        logger.warning("%s: %d utterances left out, %s: %s%s", path.name, len(names), reason, first, more)


def recordings(manifests: Sequence[Path]) -> list[Path]:
    """Audio files of manifests, each once, in their order; of a stretch the whole file."""
    files: dict[Path, None] = {}
    for manifest in manifests:
        root = read_description(manifest)["data_folder"]
        files |= dict.fromkeys(Path(split_segment(audio_path(row.wav, root))[0]) for row in read_manifest(manifest))
    return list(files)


def audio_state(files: Sequence[Path]) -> str:
    """SHA-256 over size and time of change of each file: cheap, and another one wherever content may have changed."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat() if file.exists() else None
        digest.update(repr(status and (status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def audio_digest(files: Sequence[Path]) -> str:
    """SHA-256 over the files' contents: the same for copies of the same recordings."""
    digest = hashlib.sha256()
    for file in files:
        if not file.exists():
            digest.update(b"missing")
            continue
        digest.update(bytes.fromhex(file_digest(file)))
    return digest.hexdigest()
