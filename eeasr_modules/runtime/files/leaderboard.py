"""A model scored the way of the Open ASR Leaderboard: its manifest, and results as the hub reads them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from eeasr_modules.common.files import write_aside
from eeasr_modules.common.normalise import normalise_whisper, spelling_file
from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.audio_files import with_segment
from eeasr_modules.data.own_data import Entry, find_split, read_split
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.models.device import wait_for
from eeasr_modules.runtime.recogniser import EarlyExitASR

BOARD = "hf-audio/open-asr-leaderboard"


@dataclass(frozen=True)
class Line:
    """One utterance as their manifest has it: raw texts, which their scoring normalises."""

    audio_filepath: str
    # duration, time: seconds of audio; of its share of the batch's time
    duration: float
    time: float
    # text, pred_text: what is said, what was heard
    text: str
    pred_text: str


@dataclass(frozen=True)
class Score:
    """What came out."""

    lines: tuple[Line, ...]  # of the manifest
    wer: float  # percent, over all words, both sides normalised
    rtfx: float  # seconds of audio per second
    n_parameters: int  # the model's
    n_empty: int  # utterances left out because nothing is left of their reference, as theirs are


def entries_of(dataset: str | Path, split: str, *, audio_folder: str | Path) -> list[Entry]:
    """Utterances of a set.

    `dataset`: a listing (.csv, .tsv, .jsonl), or a folder: of splits as training on own data takes them, an
    audiofolder, or what `datasets` saved or streams (which needs that package; a .parquet alone does as well).
    `audio_folder`: where audio goes that lies within tables; their manifest names files. FileNotFoundError, ValueError:
    one sentence on a set that is missing, empty or not understood.
    """
    alone = [Path(dataset, name) for name in ("", "metadata.csv", "metadata.jsonl", "state.json")]
    source = next((path for path in alone if path.is_file()), None) or find_split(dataset, split)
    if isinstance(source, Path) and source.name == "state.json":
        source = source.parent
    entries = list(read_split(source, split, save_folder=Path(audio_folder)))
    if not entries:
        raise ValueError(f"expected utterances in '{source}', found none")
    return entries


def score(asr: EarlyExitASR, entries: Sequence[Entry], *, batch_size: int = 8, warmup: int = 1) -> Score:
    """Transcribe a set in batches, each timed, after some that are not.

    `asr`: what transcribes; times hold what it does from waveforms to words, reading files left out. ValueError when a
    number is out of range, a recording cannot be read, or no reference is left.
    """
    if batch_size < 1 or warmup < 0:
        raise ValueError(f"batch_size must be at least 1 and warmup at least 0, got {batch_size} and {warmup}")
    said = [one for one in entries if normalise_whisper(one.text)]
    if not said:
        raise ValueError(f"none of {len(entries)} utterances has a reference: name its column text or transcription")
    rate, device, lines = asr.engine.sample_rate, asr.engine.device, []
    paths = [with_segment(str(one.audio), one.segment) for one in said]
    starts = range(0, len(said), batch_size)
    for at in starts[:warmup]:
        batch = paths[at : at + batch_size]
        asr.transcribe([read_audio(path, sample_rate=rate).numpy() for path in batch])
    for at in starts:
        batch = [*zip(said, paths, strict=True)][at : at + batch_size]
        wavs = [read_audio(path, sample_rate=rate).numpy() for _, path in batch]
        wait_for(device)
        start = time.perf_counter()
        heard = asr.transcribe(wavs)
        wait_for(device)
        seconds = (time.perf_counter() - start) / len(batch)
        for (entry, path), wav, one in zip(batch, wavs, heard, strict=True):
            if one.error is not None:
                raise ValueError(f"'{path}' cannot be transcribed: {one.error}")
            lines.append(Line(path, len(wav) / rate, seconds, entry.text, one.text))
    pairs = [(normalise_whisper(line.text), normalise_whisper(line.pred_text)) for line in lines]
    wer = 100 * sum(sum(count_edits(*pair)) for pair in pairs) / sum(len(text.split()) for text, _ in pairs)
    rtfx = sum(line.duration for line in lines) / sum(line.time for line in lines)
    n_parameters = sum(one.numel() for one in asr.engine.model.parameters())
    return Score(tuple(lines), wer, rtfx, n_parameters, len(entries) - len(said))


def write_score(
    found: Score, folder: str | Path, *, model_id: str, dataset: str, split: str, notes: str, task: str | None = None
) -> list[Path]:
    """Write `results/MODEL_..._DATASET_....jsonl`, their manifest, and `.eval_results/....yaml`, which the hub reads.

    `task`: one of the leaderboard's, such as librispeech_clean_wer; None: the result is one on `dataset`.
    """
    model, data = (name.replace("/", "-") for name in (model_id, dataset))
    manifest = Path(folder) / "results" / f"MODEL_{model}_DATASET_{data}__{split}.jsonl"
    rows = [
        {**vars(line), "norm_text": normalise_whisper(line.text), "norm_pred_text": normalise_whisper(line.pred_text)}
        for line in found.lines
    ]
    results = Path(folder) / ".eval_results" / f"{data}_{task or split}.yaml"
    for path in (manifest, results):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(manifest, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    spelling = "" if spelling_file() else "; without Whisper's spelling map"
    about = (
        f"{notes}; RTFx {found.rtfx:.2f}; {found.n_parameters / 1e6:.1f} M parameters; {len(found.lines)} utterances, "
        f"{found.n_empty} left out without reference{spelling}"
    )
    said = (dataset if task is None else BOARD, task or f"{split}_wer", date.today().isoformat(), about)
    where, name, today, about = map(json.dumps, said)  # quoted strings of JSON are those of YAML
    write_aside(
        results,
        f"- dataset:\n    id: {where}\n    task_id: {name}\n  value: {found.wer:.2f}\n  date: {today}\n"
        f"  notes: {about}\n",
    )
    return [manifest, results]
