"""VoxPopuli: speeches of the European Parliament with transcripts, in one of sixteen languages.

Layout as its own scripts leave it: `transcribed_data/<language>/asr_<split>.tsv` (columns id, raw_text,
normalized_text, speaker_id, split, gender, ...) and the audio by year, `transcribed_data/<language>/<year>/<id>.ogg`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.data.audio_files import find_audio
from eeasr_modules.data.manifest import Utterance, write_manifest
from eeasr_modules.data.text import NORMALISERS

CORPUS = "VoxPopuli"
SPLITS = ("train", "dev", "test")
COLUMNS = ("id", "normalized_text", "speaker_id")
RULES = ("english", "letters")


def prepare(
    data_folder: Path | str,
    save_folder: Path | str,
    *,
    splits: Sequence[str] = SPLITS,
    normaliser: str | None = None,
    decode: bool = False,
) -> dict[str, Path]:
    """Manifests of one language.

    Left out and counted: rows without text, texts without spelling, audio that is missing or cannot be opened. The
    speaker `None`, of speeches whose speaker is not known, becomes one speaker per speech.

    Arguments
    ---------
    data_folder : Path
        The folder of the language, or one above it that holds a single language (or `en`).
    save_folder : Path
        Where `voxpopuli_<split>.csv` go.
    splits : sequence of str
        Of train, dev, test.
    normaliser : str, optional
        english or letters (those of any script); None takes english for the folder `en`, letters for others.
    decode : bool
        Decode every file to find those cut short; False reads headers only.

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not VoxPopuli; ValueError for an unknown or empty
        split, an unknown rule or a TSV without the columns.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"{CORPUS} has the splits {', '.join(SPLITS)}, got {', '.join(unknown)}")
    if normaliser not in (None, *RULES):
        raise ValueError(f"the normaliser of {CORPUS} must be {' or '.join(RULES)}, got {normaliser!r}")
    folder = _language_folder(Path(data_folder))
    tables = {split: folder / f"asr_{split}.tsv" for split in splits}
    for table in tables.values():
        if not table.is_file():
            raise FileNotFoundError(f"expected VoxPopuli with {table.name} in {folder}, lacks {table.name}")
    rule = normaliser or ("english" if folder.name == "en" else "letters")
    audio = {Path(key).name: file for key, file in find_audio(folder).items()}
    manifests = {}
    for split, table in tables.items():
        utterances, left_out = _list_split(table, audio, rule)
        manifests[split] = write_manifest(
            Path(save_folder) / f"voxpopuli_{split}.csv",
            utterances,
            corpus=CORPUS,
            split=split,
            data_folder=folder,
            normaliser=rule,
            left_out=left_out,
            decode=decode,
        )
    return manifests


def _language_folder(folder: Path) -> Path:
    if next(folder.glob("asr_*.tsv"), None):
        return folder
    languages = {path.parent.name: path.parent for path in folder.glob("**/asr_*.tsv")}
    if "en" in languages or len(languages) == 1:
        return languages.get("en") or next(iter(languages.values()))
    if languages:
        raise FileNotFoundError(f"{folder} holds the languages {', '.join(sorted(languages))}: name the folder of one")
    raise FileNotFoundError(f"expected VoxPopuli's transcribed_data/<language>/asr_<split>.tsv in {folder}, found none")


def _list_split(table: Path, audio: dict[str, Path], rule: str) -> tuple[list[Utterance], dict[str, list[str]]]:
    utterances: list[Utterance] = []
    left_out: dict[str, list[str]] = {"empty text": [], "text without spelling": []}
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{table} must have the columns {', '.join(COLUMNS)}, lacks {', '.join(missing)}")
        for row in reader:
            utt_id, published = row["id"], (row["normalized_text"] or "").strip()
            speaker = row["speaker_id"] if row["speaker_id"] not in (None, "", "None") else utt_id
            text = NORMALISERS[rule](published) if published else ""
            if text:
                utterances.append(Utterance(utt_id, speaker, audio.get(utt_id), text))
            else:
                left_out["empty text" if text == "" else "text without spelling"].append(f"{utt_id}\t{published}")
    return utterances, left_out
