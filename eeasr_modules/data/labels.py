"""What a test set is to a model: in domain, shifted or out of domain, computed from what the model was
trained on.

Nobody gets to call a set "in domain" by hand: the label follows from the corpora, the utterances and the
augmentation of training, and a false claim is refused, as is a test set whose utterances were trained on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from eeasr_modules.data.manifest import audio_path, read_description, read_manifest
from eeasr_modules.data.waveform import split_segment, with_segment

LABELS = ("in_domain", "shifted", "ood", "unknown")


@dataclass(frozen=True)
class SetDescription:
    """What of a set decides its label.

    Arguments
    ---------
    corpus : str
        For instance "AN4".
    name : str
        For messages: corpus and split.
    utt_ids, speakers : frozenset of str
    audio : frozenset of str
        Absolute paths, links followed, with the stretch where there is one.
    """

    corpus: str
    name: str
    utt_ids: frozenset[str]
    speakers: frozenset[str]
    audio: frozenset[str]


def describe(manifest: Path | str) -> SetDescription:
    """Description of a manifest that `write_manifest` made."""
    noted, rows = read_description(manifest), read_manifest(manifest)
    return SetDescription(
        corpus=noted["corpus"],
        name=f"{noted['corpus']} {noted['split']}",
        utt_ids=frozenset(row.utt_id for row in rows),
        speakers=frozenset(row.speaker for row in rows),
        audio=frozenset(_true_path(audio_path(row.wav, noted["data_folder"])) for row in rows),
    )


def _true_path(path: Path) -> str:
    file, segment = split_segment(path)
    return with_segment(os.path.realpath(file), segment)


def set_label(
    train: Sequence[SetDescription],
    test: SetDescription,
    *,
    shift: str | None = None,
    train_augmentation: Collection[str] = (),
) -> str:
    """Label of a test set for a model trained on `train`.

    Arguments
    ---------
    train : sequence of SetDescription
        Everything the model was trained on; empty when that is not known.
    test : SetDescription
        The set to label.
    shift : str, optional
        Name of the shift (see `shifts.SHIFTS`) that is applied when the set is read.
    train_augmentation : collection of str
        Names of the shifts that training saw as augmentation.

    Returns
    -------
    str
        "unknown" without knowledge of training; "ood" for a corpus that training did not hold, shifted or
        not; "shifted" for a shift that training did not see; else "in_domain". ValueError when utterances
        of the set were trained on.
    """
    check_disjoint(train, test)
    if not train:
        return "unknown"
    if test.corpus not in {part.corpus for part in train}:
        return "ood"
    return "shifted" if shift is not None and shift not in train_augmentation else "in_domain"


def check_label(declared: str | None, computed: str, *, name: str) -> str:
    """The computed label; ValueError when the configuration claims another one for the set `name`."""
    if declared is not None and declared not in LABELS:
        raise ValueError(f"the label of {name} must be one of {', '.join(LABELS)}, got {declared!r}")
    if declared is not None and declared != computed:
        raise ValueError(
            f"{name} is declared {declared}, but by what the model was trained on it is {computed}: correct the label"
        )
    return computed


def check_disjoint(train: Sequence[SetDescription], test: SetDescription) -> None:
    """ValueError when test utterances were trained on: the same id in the same corpus, or the same file."""
    for part in train:
        shared = sorted(part.audio & test.audio)
        if part.corpus == test.corpus:
            shared = sorted(part.utt_ids & test.utt_ids) or shared
        if shared:
            raise ValueError(
                f"{len(shared)} of {len(test.utt_ids)} utterances of {test.name} are in the training set "
                f"{part.name} (first: {shared[0]}): test on other utterances"
            )


def n_seen_speakers(train: Sequence[SetDescription], test: SetDescription) -> int:
    """How many speakers of the test set training has heard (speakers are known by name within a corpus)."""
    heard = {speaker for part in train if part.corpus == test.corpus for speaker in part.speakers}
    return len(heard & test.speakers)
