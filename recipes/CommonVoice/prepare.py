"""Mozilla Common Voice, English: sentences read by volunteers, MP3; any release.

Layout as published: `<release>/en/<split>.tsv` and the audio in `clips/` (`validated_clips/` in some
deltas). The columns changed over the releases; `client_id`, `path` and `sentence` are in all of them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from eeasr_modules.data.manifest import Utterance, read_manifest, require_files, write_manifest
from eeasr_modules.data.text import normalise_english

CORPUS = "CommonVoice"
CLIP_FOLDERS = ("clips", "validated_clips")
COLUMNS = ("client_id", "path", "sentence")
# 128 hexadecimal digits in the TSV; 64 bits tell any number of volunteers apart.
SPEAKER_LENGTH = 16


def prepare(
    data_folder: Path | str,
    save_folder: Path | str,
    *,
    splits: Sequence[str] = ("test",),
    unreadable: str = "drop",
    exclude_speakers: Sequence[Path | str] = (),
    decode: bool = True,
) -> dict[str, Path]:
    """Manifests of one release and language.

    Left out and counted: sentences with digits or other characters that have no spelling (`unreadable`),
    rows that are not whole, clips that are missing or do not decode, speakers in `exclude_speakers`.

    Arguments
    ---------
    data_folder : Path
        The folder with the TSVs, or the release's folder with `en` in it.
    save_folder : Path
        Where `commonvoice_<split>.csv` go: one folder per release.
    splits : sequence of str
        Names of TSVs: train, dev, test, validated, ...
    unreadable : str
        "drop" leaves such sentences out, "remove" takes out the characters (see `text.normalise_english`).
    exclude_speakers : sequence of Path
        Manifests (of training, from any release) whose speakers are left out.
    decode : bool
        Decode every clip to find those cut short; False reads headers only, for whole releases.

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not Common Voice or lacks a split's TSV;
        ValueError for an empty split.
    """
    folder = Path(data_folder)
    if (folder / "en").is_dir():
        folder = folder / "en"
    folder = require_files(folder, [f"{split}.tsv" for split in splits], corpus="Common Voice")
    clips = next((folder / name for name in CLIP_FOLDERS if (folder / name).is_dir()), None)
    if clips is None:
        raise FileNotFoundError(f"expected Common Voice's {' or '.join(CLIP_FOLDERS)} in {folder}, found neither")
    excluded = {row.speaker for manifest in exclude_speakers for row in read_manifest(manifest)}
    manifests = {}
    for split in splits:
        utterances, left_out = _list_split(folder / f"{split}.tsv", clips, unreadable, excluded)
        manifests[split] = write_manifest(
            Path(save_folder) / f"commonvoice_{split}.csv",
            utterances,
            corpus=CORPUS,
            split=split,
            data_folder=folder,
            normaliser="english",
            options={"unreadable": unreadable},
            left_out=left_out,
            decode=decode,
        )
    return manifests


def _list_split(
    tsv: Path, clips: Path, unreadable: str, excluded: set[str]
) -> tuple[list[Utterance], dict[str, list[str]]]:
    """Utterances in the order of the TSV, and what was left out, by reason."""
    utterances: list[Utterance] = []
    left_out: dict[str, list[str]] = {
        "row not whole": [],
        "text without English spelling": [],
        "empty text": [],
        "speaker excluded": [],
    }
    for number, row in _read_tsv(tsv):
        if not all(row.get(column) for column in COLUMNS):
            left_out["row not whole"].append(f"line {number} of {tsv.name}")
            continue
        utt_id, speaker = Path(row["path"]).stem, row["client_id"][:SPEAKER_LENGTH]
        text = normalise_english(row["sentence"], unreadable=unreadable)
        if speaker in excluded:
            left_out["speaker excluded"].append(utt_id)
        elif text is None:
            left_out["text without English spelling"].append(f"{utt_id}\t{row['sentence']}")
        elif not text:
            left_out["empty text"].append(f"{utt_id}\t{row['sentence']}")
        else:
            utterances.append(Utterance(utt_id, speaker, clips / row["path"], text))
    return utterances, left_out


def _read_tsv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows with their line numbers."""
    # client_id   path                          sentence                                  up_votes ...
    # 045edc6a... common_voice_en_37238108.mp3  Israel called it "nothing short of ...".  2        ...
    with path.open(newline="", encoding="utf-8") as file:
        # Sentences hold quotation marks that quote nothing for CSV: with the default rules a mark swallows
        # lines.
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, lacks {', '.join(missing)}")
        for row in reader:
            yield reader.line_num, row
