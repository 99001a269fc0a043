"""What a run's model was trained on: copies of its manifests, in the run folder's `trained_on`.

The listings that a command names may change after training; the weights do not.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.data.manifest import manifest_digest, read_manifest

logger = logging.getLogger(__name__)

FOLDER = "trained_on"


def heard_by(folder: Path) -> list[Path]:
    """Manifests that the model of a run folder was trained on so far; none before its first epoch."""
    return sorted((Path(folder) / FOLDER).glob("*.csv"))


def note_heard(folder: Path, manifests: Sequence[Path]) -> None:
    """Copy the manifests, with their descriptions, beside those of earlier sittings; each content once."""
    known = {manifest_digest(path) for path in heard_by(folder)}
    for manifest in manifests:
        digest = manifest_digest(manifest)
        if digest in known:
            continue
        copy = Path(folder) / FOLDER / f"{manifest.stem}-{digest[:12]}.csv"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest.with_suffix(".json"), copy.with_suffix(".json"))
        shutil.copyfile(manifest, copy.with_suffix(".tmp"))
        copy.with_suffix(".tmp").replace(copy)


def is_trained(folder: Path, n_epochs: int) -> bool:
    """Whether a checkpoint of the last epoch is there, so that nothing is left to train."""
    for note in (Path(folder) / "save").glob("CKPT*/CKPT.yaml"):
        said = [line.split(":", 1) for line in note.read_text(encoding="utf-8").splitlines() if ":" in line]
        found = {key.strip(): value.strip() for key, value in said}
        if found.get("end-of-epoch") == "true" and int(found.get("epoch", 0)) >= n_epochs:
            return True
    return False


def say_changed(train: Sequence[Path], heard: Sequence[Path], *, goes_on: bool) -> None:
    """Warn where training data are others than those that the model has heard."""
    if not heard or {manifest_digest(path) for path in train} <= {manifest_digest(path) for path in heard}:
        return
    now, before = (_ids(paths) for paths in (train, heard))
    logger.warning(
        "the training data have changed (%d utterances before, %d now, %d of them in both): %s",
        len(before),
        len(now),
        len(now & before),
        "training goes on with those of now, and both count as heard"
        if goes_on
        else "the model is as it was trained, and labels and speakers go by what it heard; to train on those of now, "
        "give another --output_folder",
    )


def _ids(manifests: Sequence[Path]) -> set[tuple[str, str]]:
    """Corpus and utterance of each row."""
    found = set()
    for manifest in manifests:
        corpus = json.loads(manifest.with_suffix(".json").read_text(encoding="utf-8"))["corpus"]
        found |= {(corpus, row.utt_id) for row in read_manifest(manifest)}
    return found
