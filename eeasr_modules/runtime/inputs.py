"""What to transcribe: files, folders, lists and manifests, as names and paths."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eeasr_modules.data.segments import split_segment
from eeasr_modules.data.sound_files import AV_SUFFIXES

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".sph", ".aiff", ".aif", ".caf", ".w64", ".au", *AV_SUFFIXES)
PATH_COLUMNS = ("wav", "path", "audio", "file")
DATA_ROOT = "$data_root"  # how manifests of this program begin paths within a corpus


@dataclass(frozen=True)
class Recording:
    """One recording to transcribe.

    Arguments
    ---------
    name : str
        Unique; a manifest's ID, otherwise the path.
    path : str
        Of the file, which need not exist.
    """

    name: str
    path: str


def find_recordings(inputs: Sequence[str], *, standard_input: Iterable[str] = ()) -> list[Recording]:
    """Recordings that command-line arguments mean, each once, in order.

    Arguments
    ---------
    inputs : sequence of str
        Files; folders (searched through, by suffix); `.txt` lists with a path a line; `.csv` manifests with a column
        `wav` or `path`, and perhaps `ID`; `-` for a list on standard input.
    standard_input : iterable of str
        Its lines.

    Returns
    -------
    list of Recording

    Raises
    ------
    FileNotFoundError
        When an argument is neither file nor folder.
    ValueError
        When a list or manifest cannot be read, or nothing is found.
    """
    found: dict[str, Recording] = {}
    for one in inputs:
        for recording in _within(one, standard_input):
            found.setdefault(recording.path, recording)
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
        raise FileNotFoundError(f"expected a recording, folder, .txt list or .csv manifest at '{one}', found nothing")
    if path.suffix.lower() == ".txt":
        return _listed(_text(path).splitlines(), path.parent)
    if path.suffix.lower() == ".csv":
        return _manifest(path)
    return [Recording(one, one)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as err:
        raise ValueError(f"'{path}' must be UTF-8 text: {err}") from err


def _audio_under(folder: Path) -> list[Path]:
    files = [Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES)


def _listed(lines: Iterable[str], folder: Path) -> list[Recording]:
    paths = [_beside(line.strip(), folder) for line in lines if line.strip()]
    return [Recording(path, path) for path in paths]


def _beside(path: str, folder: Path) -> str:
    """A path of a list: relative to the list's folder where such a file is, otherwise as it stands."""
    return str(folder / path) if split_segment(folder / path)[0].is_file() else path


def _manifest(path: Path) -> list[Recording]:
    rows = csv.DictReader(_text(path).splitlines())
    columns = rows.fieldnames or []
    column = next((name for name in PATH_COLUMNS if name in columns), None)
    if column is None:
        raise ValueError(f"'{path}' must have a column {' or '.join(PATH_COLUMNS)}, it has {list(columns)}")
    root = _data_root(path)
    found = []
    for number, row in enumerate(rows, start=2):
        wav = (row[column] or "").strip()
        if not wav:
            raise ValueError(f"'{path}' names no recording in line {number}: its column {column} is empty")
        if wav.startswith(DATA_ROOT):
            if root is None:
                raise ValueError(
                    f"'{path}' means paths within a corpus, whose folder {path.with_suffix('.json')} says: missing"
                )
            wav = wav.replace(DATA_ROOT, root, 1)
        wav = _beside(wav, path.parent)
        found.append(Recording(row.get("ID") or wav, wav))
    return found


def _data_root(manifest: Path) -> str | None:
    """Folder of the corpus, from the description beside a manifest."""
    description = manifest.with_suffix(".json")
    if not description.is_file():
        return None
    try:
        return json.loads(_text(description)).get("data_folder")
    except (json.JSONDecodeError, AttributeError) as err:
        raise ValueError(f"'{description}' does not describe a manifest: {err}") from err
