"""What to transcribe: files, folders, lists and manifests, as names and paths.

What `eeasr benchmark` transcribes: recordings, with references where a listing has them, or noise.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from eeasr_modules.common.files import read_lines, read_text
from eeasr_modules.data.audio import AudioReader
from eeasr_modules.data.audio_files import APPLE_DOUBLE, AV_SUFFIXES, fault, split_segment, with_segment
from eeasr_modules.data.listings import DATA_ROOT, read_listing
from eeasr_modules.data.listings import SUFFIXES as LISTINGS
from eeasr_modules.runtime.chunks import LONGEST_S

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".sph", ".aiff", ".aif", ".caf", ".w64", ".au", *AV_SUFFIXES)


@dataclass(frozen=True)
class Recording:
    """One recording to transcribe."""

    name: str  # unique; a manifest's ID, otherwise the path
    path: str  # of the file, which need not exist, with the stretch where a listing names one
    reference: str | None = None  # what a listing says is said there
    speaker: str | None = None  # who a listing says speaks


def find_recordings(
    inputs: Sequence[str], *, standard_input: Iterable[str] = (), one_reference_each: bool = False
) -> list[Recording]:
    """Recordings that command-line arguments mean, each once, in order.

    `inputs`: files; folders (searched through, by suffix); `.txt` lists with a path a line; `.csv`, `.tsv` and `.jsonl`
    listings, as preparation takes them (`data.listings`); `-` for a list on standard input. `one_reference_each`:
    refuse a recording that is listed again with another reference; otherwise the first one is taken. FileNotFoundError
    when an argument is neither file nor folder. ValueError when a list or listing cannot be read, names a recording
    with two references, or nothing is found.
    """
    found: dict[str, Recording] = {}
    for one in inputs:
        for recording in _within(one, standard_input):
            known = found.setdefault(recording.path, recording)
            if one_reference_each and None not in (known.reference, recording.reference) and known != recording:
                raise ValueError(
                    f"'{one}' names a recording twice ('{recording.path}'), as {known.reference!r} and "
                    f"{recording.reference!r}: leave one out, or say where in the file each begins and ends"
                )
    if not found:
        raise ValueError(f"expected recordings to transcribe, found none in {', '.join(inputs)}")
    return list(found.values())


def _within(one: str, standard_input: Iterable[str]) -> list[Recording]:
    path = Path(one)
    if one == "-":
        return _listed(standard_input, Path())
    if path.is_dir():
        return [Recording(str(file), str(file)) for file in _audio_under(path)]
    if not split_segment(path)[0].is_file():
        raise FileNotFoundError(
            f"expected a recording, folder, .txt list or listing (.csv, .tsv, .jsonl) at '{one}', found nothing"
        )
    if path.suffix.lower() == ".txt":
        return _listed(read_lines(path), path.parent)
    if path.suffix.lower() in LISTINGS:
        return _listing(path)
    return [Recording(one, one)]


def _audio_under(folder: Path) -> list[Path]:
    files = [Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(one for one in files if one.suffix.lower() in SUFFIXES and not one.name.startswith(APPLE_DOUBLE))


def _listed(lines: Iterable[str], folder: Path) -> list[Recording]:
    paths = [_beside(line.strip(), folder) for line in lines if line.strip()]
    return [Recording(path, path) for path in paths]


def _beside(path: str, folder: Path) -> str:
    """A path of a list: relative to the list's folder where such a file is, otherwise as it stands."""
    return str(folder / path) if split_segment(folder / path)[0].is_file() else path


def _listing(path: Path) -> list[Recording]:
    root = _data_root(path)
    found = []
    for row in read_listing(path):
        wav = row.audio
        if not wav:
            raise ValueError(f"{row.place} names no recording: its cell is empty")
        if wav.startswith(DATA_ROOT):
            if root is None:
                raise ValueError(
                    f"'{path}' means paths within a corpus, whose folder {path.with_suffix('.json')} says: missing"
                )
            wav = wav.replace(DATA_ROOT, root, 1)
        wav = with_segment(_beside(wav, path.parent), row.segment)
        found.append(Recording(row.utt_id or wav, wav, row.text, row.speaker))
    return found


def _data_root(manifest: Path) -> str | None:
    """Folder of the corpus, from the description beside a manifest."""
    description = manifest.with_suffix(".json")
    if not description.is_file():
        return None
    try:
        return json.loads(read_text(description)).get("data_folder")
    except (json.JSONDecodeError, AttributeError) as err:
        raise ValueError(f"'{description}' does not describe a manifest: {err}") from err


NOISE_S = 10.0


@dataclass(frozen=True, eq=False)
class Material:
    """What is transcribed."""

    utt_ids: tuple[str, ...]
    wavs: tuple[torch.Tensor, ...]  # (samples,): at the model's rate
    references: tuple[str | None, ...]  # None where there is none; without any, no WER
    notes: tuple[str, ...] = ()  # what a reader must know, such as recordings that were left out


def noise(n: int, *, sample_rate: int, seconds: float = NOISE_S) -> Material:
    """Synthetic material: noise of equal lengths."""
    rng = torch.Generator().manual_seed(0)
    wavs = tuple(0.1 * torch.randn(round(seconds * sample_rate), generator=rng) for _ in range(n))
    note = f"synthetic noise of {seconds:g} s: times hold, the depths that policies choose on it mean nothing"
    return Material(tuple(f"noise-{i}" for i in range(n)), wavs, (None,) * n, (note,))


def read_material(inputs: Sequence[str], *, sample_rate: int, limit: int | None = None) -> Material:
    """Recordings, with references where a listing has them.

    Returns: without recordings that cannot be read or are too long for one piece; its notes count them. ValueError when
    nothing is left.
    """
    recordings = find_recordings(inputs, one_reference_each=True)[:limit]
    utt_ids, wavs, said, broken, n_long = [], [], [], [], 0
    for recording in recordings:
        try:
            wav = _read(recording.path, sample_rate)
        except Exception as err:  # whatever it is, the others can be used
            broken.append(fault(err, name=f"'{recording.path}'"))
            continue
        if wav is None:
            n_long += 1
            continue
        utt_ids.append(recording.name)
        wavs.append(wav)
        said.append(recording.reference)
    if not wavs:
        reason = broken[0] if broken else f"all are longer than {LONGEST_S:g} s"
        raise ValueError(f"none of {len(recordings)} recordings can be used: {reason}")
    notes = [f"{len(broken)} recordings left out that cannot be read, the first: {broken[0]}"] if broken else []
    notes += [f"{n_long} recordings left out that are longer than {LONGEST_S:g} s"] if n_long else []
    if 0 < (lacking := sum(text is None for text in said)) < len(said):
        notes.append(f"{lacking} of {len(said)} utterances have no reference and do not count in the WER")
    return Material(tuple(utt_ids), tuple(wavs), tuple(said), tuple(notes))


def _read(path: str, sample_rate: int) -> torch.Tensor | None:
    """A recording; None, without reading on, where it is too long for one piece."""
    blocks, reader = [], AudioReader(path, sample_rate)
    for block in reader.blocks_of_speech():
        blocks.append(block)
        if reader.n_samples > LONGEST_S * sample_rate:
            return None
    return torch.cat(blocks)
