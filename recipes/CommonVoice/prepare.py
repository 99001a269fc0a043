"""Mozilla Common Voice: sentences read by volunteers, MP3; any language and release.

Layout as published: `<release>/<language>/<split>.tsv` and the audio in `clips/` (`validated_clips/` in some
deltas). The columns changed over the releases; `client_id`, `path` and `sentence` are in all of them. Later
releases bring `clip_durations.tsv`, which spares opening the clips of a large split.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from eeasr_modules.data.manifest import Utterance, read_manifest, write_manifest
from eeasr_modules.data.text import NORMALISERS

logger = logging.getLogger(__name__)

CORPUS = "CommonVoice"
RULES = ("english", "letters")
CLIP_FOLDERS = ("clips", "validated_clips")
COLUMNS = ("client_id", "path", "sentence")
# 128 hexadecimal digits in the TSV; 64 bits tell any number of volunteers apart.
SPEAKER_LENGTH = 16
BY_SPEAKER = ("train", "dev", "test")  # made of validated.tsv where a release has none of these
DECODED_UP_TO = 20000  # clips of a split, some two minutes of looking on one core


def prepare(
    data_folder: Path | str,
    save_folder: Path | str,
    *,
    splits: Sequence[str] = ("test",),
    normaliser: str | None = None,
    unreadable: str = "drop",
    exclude_speakers: Sequence[Path | str] = (),
    decode: bool | None = None,
) -> dict[str, Path]:
    """Manifests of one release and language.

    Left out and counted: sentences with digits or other characters that have no spelling (`unreadable`),
    rows that are not whole, clips that are missing or do not decode, speakers in `exclude_speakers`.

    Arguments
    ---------
    data_folder : Path
        The folder with the TSVs, or the release's folder with a single language (or `en`) in it.
    save_folder : Path
        Where `commonvoice_<split>.csv` go: one folder per release and language.
    splits : sequence of str
        Names of TSVs: train, dev, test, validated, ... A release with none of train, dev and test has
        `validated.tsv` split by speaker (a tenth each to test and dev, by a hash of the speaker, so that one
        speaker is in the same split of every such release).
    normaliser : str, optional
        "english" (as in LibriSpeech) or "letters" (those of any script); None takes english where the TSVs'
        `locale` is en, letters elsewhere.
    unreadable : str
        "drop" leaves such sentences out, "remove" takes out the characters (see `text.normalise_english`).
    exclude_speakers : sequence of Path
        Manifests (of training, from any release) whose speakers are left out.
    decode : bool, optional
        Decode every clip to find those cut short; False believes `clip_durations.tsv`, or headers without it;
        None decodes splits of up to 20,000 clips.

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not Common Voice or lacks a split's TSV;
        ValueError for an empty split or an unknown rule.
    """
    if normaliser not in (None, *RULES):
        raise ValueError(f"the normaliser of {CORPUS} must be {' or '.join(RULES)}, got {normaliser!r}")
    folder = _language_folder(Path(data_folder))
    sources = {split: _tsv_of(folder, split) for split in splits}
    clips = next((folder / name for name in CLIP_FOLDERS if (folder / name).is_dir()), None)
    if clips is None:
        raise FileNotFoundError(f"expected Common Voice's {' or '.join(CLIP_FOLDERS)} in {folder}, found neither")
    excluded = {row.speaker for manifest in exclude_speakers for row in read_manifest(manifest)}
    manifests = {}
    for split, tsv in sources.items():
        rule = normaliser or ("english" if _locale(tsv) in ("en", None) else "letters")
        part = split if tsv.stem != split else None
        utterances, left_out = _list_split(
            tsv,
            clips,
            normalise=lambda text, rule=rule: NORMALISERS[rule](text, unreadable=unreadable),
            wanted=lambda speaker, part=part: part in (None, split_of_speaker(speaker)),
            excluded=excluded,
        )
        decoded = len(utterances) <= DECODED_UP_TO if decode is None else decode
        options: dict[str, object] = {"unreadable": unreadable}
        if part is not None:
            logger.info("%s has no %s.tsv: its validated clips are split by speaker", folder, split)
            options["split_by_speaker_from"] = tsv.name
        manifests[split] = write_manifest(
            Path(save_folder) / f"commonvoice_{split}.csv",
            utterances if decoded else _with_durations(utterances, folder / "clip_durations.tsv"),
            corpus=CORPUS,
            split=split,
            data_folder=folder,
            normaliser=rule,
            options=options,
            left_out=left_out,
            decode=decoded,
        )
    return manifests


def split_of_speaker(speaker: str) -> str:
    """train, dev or test, by a hash of the speaker alone.

    Example
    -------
    >>> [split_of_speaker(speaker) for speaker in ("1b16cc0ee04369e0", "2b5c37d0e0fd8a37", "d")]
    ['train', 'dev', 'test']
    """
    tenth = int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) * 10 // 2**32
    return {0: "test", 1: "dev"}.get(tenth, "train")


def _language_folder(folder: Path) -> Path:
    """The folder that holds TSVs: this one, its `en`, or the only language in it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"expected Common Voice in {folder}, but it is not a folder")
    if next(folder.glob("*.tsv"), None):
        return folder
    languages = sorted({path.parent.name for path in folder.glob("*/*.tsv")})
    if "en" in languages or len(languages) == 1:
        return folder / ("en" if "en" in languages else languages[0])
    if languages:
        raise FileNotFoundError(f"{folder} holds the languages {', '.join(languages)}: name the folder of one")
    raise FileNotFoundError(f"expected Common Voice's TSVs in {folder} or in a language's folder there, found none")


def _tsv_of(folder: Path, split: str) -> Path:
    """The TSV that a split is read from; `validated.tsv` where the release was never split."""
    if (folder / f"{split}.tsv").is_file():
        return folder / f"{split}.tsv"
    never_split = not any((folder / f"{name}.tsv").is_file() for name in BY_SPEAKER)
    if never_split and split in BY_SPEAKER and (folder / "validated.tsv").is_file():
        return folder / "validated.tsv"
    there = ", ".join(sorted(path.stem for path in folder.glob("*.tsv") if path.stem != "clip_durations"))
    raise FileNotFoundError(f"expected Common Voice with {split}.tsv in {folder}, lacks {split}.tsv (it has {there})")


def _list_split(
    tsv: Path,
    clips: Path,
    *,
    normalise: Callable[[str], str | None],
    wanted: Callable[[str], bool],
    excluded: set[str],
) -> tuple[list[Utterance], dict[str, list[str]]]:
    """Utterances in the order of the TSV, and what was left out, by reason."""
    utterances: list[Utterance] = []
    left_out: dict[str, list[str]] = {
        "row not whole": [],
        "text without spelling": [],
        "empty text": [],
        "speaker excluded": [],
    }
    for number, row in _read_tsv(tsv):
        if not all(row.get(column) for column in COLUMNS):
            left_out["row not whole"].append(f"line {number} of {tsv.name}")
            continue
        utt_id, speaker = Path(row["path"]).stem, row["client_id"][:SPEAKER_LENGTH]
        if not wanted(speaker):
            continue
        text = normalise(row["sentence"])
        if speaker in excluded:
            left_out["speaker excluded"].append(utt_id)
        elif text is None:
            left_out["text without spelling"].append(f"{utt_id}\t{row['sentence']}")
        elif not text:
            left_out["empty text"].append(f"{utt_id}\t{row['sentence']}")
        else:
            utterances.append(Utterance(utt_id, speaker, clips / row["path"], text))
    return utterances, left_out


def _locale(tsv: Path) -> str | None:
    """Language of the first row, None where there is no such column."""
    return next((row.get("locale") for _, row in _read_tsv(tsv)), None) or None


def _with_durations(utterances: list[Utterance], published: Path) -> list[Utterance]:
    """Utterances with the published durations; unchanged where a release has none."""
    if not published.is_file():
        return utterances
    known = {}
    with published.open(newline="", encoding="utf-8-sig") as file:
        # clip                           duration[ms]      (duration[s] holds milliseconds too, in some releases)
        # common_voice_en_41447677.mp3   6660
        for line in file:
            clip, _, duration = line.strip().partition("\t")
            if duration.isdecimal():
                known[clip] = int(duration) / 1000.0
    return [
        Utterance(one.utt_id, one.speaker, one.audio, one.text, known.get(one.audio.name) or None) for one in utterances
    ]


def _read_tsv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows with their line numbers."""
    # client_id   path                          sentence                                  up_votes ...
    # 045edc6a... common_voice_en_37238108.mp3  Israel called it "nothing short of ...".  2        ...
    with path.open(newline="", encoding="utf-8-sig") as file:
        # Sentences hold quotation marks that quote nothing for CSV: with the default rules a mark swallows
        # lines.
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, lacks {', '.join(missing)}")
        for row in reader:
            yield reader.line_num, row
