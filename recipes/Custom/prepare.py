"""Your own recordings: CSV or JSON-lines manifests, Kaldi-style folders, or a saved Hugging Face dataset.

A split is `<split>.csv`, `<split>.tsv`, `<split>.jsonl`, a folder `<split>` with Kaldi's `wav.scp` and `text`, or the
split of a dataset that `datasets` saved or streams. See the README beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from eeasr_modules.common.normalise import composed
from eeasr_modules.data.manifest import Utterance, write_manifest
from eeasr_modules.data.own_data import Entry, find_split, is_hub, read_split
from eeasr_modules.data.text import NORMALISERS

CORPUS = "Custom"
RULES = (*NORMALISERS, "none")


def prepare(
    data_folder: Path | str,
    save_folder: Path | str,
    *,
    splits: Sequence[str] = ("train", "dev", "test"),
    normaliser: str = "english",
    decode: bool = False,
) -> dict[str, Path]:
    """Manifests of a folder of one's own.

    Arguments
    ---------
    data_folder : Path or str
        The folder that holds the splits, or `hf:NAME`, `hf:NAME,CONFIGURATION` for a set of the hub.
    save_folder : Path
        Where `custom_<split>.csv` go.
    splits : sequence of str
        Names of files or folders in it.
    normaliser : str
        Rule for the texts: english (upper-case letters and apostrophes), letters (those of any script), an4, or none,
        which takes them as they are (composed, NFC).
    decode : bool
        Decode every file to find those cut short; False reads headers only.

    Returns
    -------
    dict of str to Path
        Manifest per split. FileNotFoundError when a split is not there; ValueError when one cannot be read, is empty,
        or the rule is unknown.
    """
    if normaliser not in RULES:
        raise ValueError(f"the normaliser of {CORPUS} must be one of {', '.join(RULES)}, got {normaliser!r}")
    sources = {split: find_split(data_folder, split) for split in splits}
    rule = _as_it_is if normaliser == "none" else NORMALISERS[normaliser]
    manifests = {}
    for split, source in sources.items():
        utterances, left_out = _utterances(read_split(source, split, save_folder=Path(save_folder)), rule)
        manifests[split] = write_manifest(
            Path(save_folder) / f"custom_{split}.csv",
            utterances,
            corpus=CORPUS,
            split=split,
            data_folder=save_folder if is_hub(data_folder) else data_folder,
            normaliser=normaliser,
            left_out=left_out,
            decode=decode,
        )
    return manifests


def _utterances(
    entries: Iterator[Entry], rule: Callable[[str], str | None]
) -> tuple[list[Utterance], dict[str, list[str]]]:
    utterances: list[Utterance] = []
    left_out: dict[str, list[str]] = {"text without spelling": [], "empty text": []}
    for entry in entries:
        text = rule(entry.text) if entry.text.strip() else ""
        if text:
            utterances.append(Utterance(entry.utt_id, entry.speaker, entry.audio, text, segment=entry.segment))
        else:
            reason = "empty text" if text == "" else "text without spelling"
            left_out[reason].append(f"{entry.utt_id}\t{entry.text}")
    return utterances, left_out


def _as_it_is(text: str) -> str:
    return " ".join(composed(text).split())
