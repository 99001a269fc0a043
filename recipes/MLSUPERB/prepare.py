"""ML-SUPERB: ten minutes or an hour of training speech in each of some 140 languages, scored in characters.

Layout as published: `<dataset>/<language>/transcript_{10min_train,1h_train,10min_dev,10min_test}.txt`, whose lines are
`utterance field text`, and `<dataset>/<language>/wav/<utterance>.wav`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.common.files import read_lines
from eeasr_modules.data.audio_files import find_audio
from eeasr_modules.data.manifest import Utterance, write_manifest
from eeasr_modules.data.text import normalise_ml_superb

CORPUS = "MLSUPERB"
SPLITS = ("10min_train", "1h_train", "10min_dev", "10min_test")


def prepare(
    data_folder: Path | str, save_folder: Path | str, *, splits: Sequence[str] = ("10min_train", "10min_dev")
) -> dict[str, Path]:
    """Manifests of one language, or of several with a language tag before each text.

    Who speaks is not published: each utterance counts as a speaker of its own.

    Arguments
    ---------
    data_folder : Path
        The folder of one language, for that alone; or the one above the data sets, for all languages: texts then begin
        with `<language> `.
    save_folder : Path
        Where `mlsuperb_<split>.csv` go.
    splits : sequence of str
        Of 10min_train, 1h_train, 10min_dev, 10min_test; `10min_test_eng` is the part of one language.

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when the folder is not ML-SUPERB; ValueError for an unknown or empty
        split.
    """
    folder = Path(data_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected ML-SUPERB in {folder}, but it is not a folder")
    alone = any((folder / f"transcript_{split}.txt").is_file() for split in SPLITS)
    found = [folder] if alone else sorted({path.parent for path in folder.glob("*/*/transcript_*.txt")})
    if not found:
        raise FileNotFoundError(
            f"expected ML-SUPERB's <dataset>/<language>/transcript_<split>.txt in {folder}, found none"
        )
    parts = {split: _part(split, found) for split in splits}
    manifests = {}
    for split, (published, folders) in parts.items():
        utterances, odd = [], []
        for one in folders:
            _list_language(one, published, "" if alone else f"<{one.name.lower()}> ", utterances, odd)
        manifests[split] = write_manifest(
            Path(save_folder) / f"mlsuperb_{split}.csv",
            utterances,
            corpus=CORPUS,
            split=split,
            data_folder=folder,
            normaliser="ml_superb",
            left_out={"empty text": odd},
        )
    return manifests


def _part(split: str, folders: list[Path]) -> tuple[str, list[Path]]:
    """The published split and the language folders that a split's name means."""
    published = next((name for name in SPLITS if split == name or split.startswith(f"{name}_")), None)
    if published is None:
        raise ValueError(f"{CORPUS} has the splits {', '.join(SPLITS)}, each also with _<language>, got {split}")
    language = split[len(published) + 1 :]
    chosen = [folder for folder in folders if language in ("", folder.name)]
    if not chosen:
        there = ", ".join(sorted({folder.name for folder in folders}))
        raise ValueError(f"{split}: there is no language {language!r}, only {there}")
    return published, chosen


def _list_language(folder: Path, split: str, tag: str, utterances: list[Utterance], odd: list[str]) -> None:
    transcripts = folder / f"transcript_{split}.txt"
    if not transcripts.is_file():
        return
    audio = find_audio(folder / "wav")
    for line in read_lines(transcripts):
        # mls_eng_000123 eng_speaker The text of it.
        utt_id, _, text = (*line.split(maxsplit=2), "", "", "")[:3]
        text = normalise_ml_superb(text)
        if text:
            utterances.append(Utterance(utt_id, utt_id, audio.get(utt_id), f"{tag}{text}"))
        elif utt_id:
            odd.append(utt_id)
