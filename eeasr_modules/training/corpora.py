"""What a YAML's flat keys mean as data: manifests to train on, and every test set with its computed label.

Copies of the manifests lie in the run folder's `trained_on`: listings may change after training; the weights do not.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from eeasr_modules.common.files import write_aside
from eeasr_modules.data.audio_files import split_segment, with_segment
from eeasr_modules.data.manifest import audio_path, manifest_digest, read_description, read_manifest
from eeasr_modules.data.own_data import is_hub
from eeasr_modules.data.pipeline import apply_shift
from eeasr_modules.training.config.checks import OtherSet
from eeasr_modules.training.config.config import Config, corpora_of, corpus_folders

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
        write_aside(copy.with_suffix(".json"), manifest.with_suffix(".json").read_bytes())
        write_aside(copy, manifest.read_bytes())


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


@dataclass(frozen=True)
class EvaluationSet:
    """A set to collect an exit table from."""

    name: str  # as in tables and reports, for instance `an4_test_noise_10db`
    manifests: tuple[Path, ...]
    corpus: str  # folder of `recipes/`; several, apart by commas, for validation data of several
    label: str  # in_domain, shifted or ood, computed
    shift: str | None  # disturbance applied when audio is read
    n_seen_speakers: int  # speakers that training has heard

    def waveform(self, utt_id: str, item: dict, read: Callable, *, seed: int, sample_rate: int) -> torch.Tensor:
        """One utterance, of shape (samples,), under the shift; `item` as `manifest_items` has it."""
        wav = read(item["wav"])
        if self.shift is None:
            return wav
        return apply_shift(self.shift, wav, utt_id=utt_id, seed=seed, sample_rate=sample_rate)


@dataclass(frozen=True)
class Corpora:
    """Everything that a run reads."""

    train: list[Path]
    valid: list[Path]
    dev: EvaluationSet  # the validation data as a set of its own: thresholds are chosen there
    tests: list[EvaluationSet]  # in domain first, then shifted, then other corpora


def load_recipe(folder: Path) -> ModuleType:
    """The module `prepare.py` of a corpus folder."""
    spec = importlib.util.spec_from_file_location(f"recipes.{folder.name}.prepare", folder / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare_corpora(
    config: Config,
    *,
    recipes: Path,
    save_folder: Path,
    may_download: bool,
    heard: Sequence[Path] = (),
    goes_on: bool = True,
) -> Corpora:
    """Manifests of all that the configuration names.

    `may_download`: whether a `data_folder` that does not exist is to be fetched (never where the user named one).
    `heard`: manifests that the run folder's model was trained on so far (see `heard`): labels and speakers go by them.
    `goes_on`: whether it will be trained on those of today as well. FileNotFoundError, ValueError: one sentence: a
    folder that is not the corpus, an unknown or empty split, a false label.
    """
    folder = corpus_folders(recipes)[config.corpus.lower()]
    recipe = load_recipe(folder)
    if not (is_hub(config.data_folder) or Path(config.data_folder).is_dir()):
        if not (may_download and hasattr(recipe, "fetch")):
            raise FileNotFoundError(f"data_folder '{config.data_folder}' does not exist")
        recipe.fetch(Path(config.data_folder).parent)
    splits = list(dict.fromkeys([*config.train_splits, *config.valid_splits, *config.test_splits]))
    for name in ("train_splits", "valid_splits", "test_splits"):
        if not getattr(config, name):
            raise ValueError(f"{name} is empty: it must name at least one split of {config.corpus}")
    _check_normaliser(config, recipes)
    rule = _text_rule(recipe, config)
    manifests = recipe.prepare(config.data_folder, save_folder, splits=splits, **rule)
    prepared = {(folder.name.lower(), split): manifest for split, manifest in manifests.items()}
    purposes = {name: [manifests[split] for split in getattr(config, f"{name}_splits")] for name in ("train", "valid")}
    also_tests = {}
    for other in config.other_sets:
        if other.role == "also":
            theirs = _prepare_also(other, config, prepared, recipes=recipes, save_folder=save_folder)
            prepared |= {(other.name, split): manifest for split, manifest in theirs.items()}
            for name, chosen in purposes.items():
                chosen += [theirs[split] for split in getattr(other, f"{name}_splits")]
            also_tests |= {f"{other.name}_{split}": (theirs[split], other.corpus) for split in other.test_splits}
    train, valid = purposes["train"], purposes["valid"]
    learned_from = [*heard, *(train if goes_on or not heard else [])]
    trained_on = [*(describe(manifest) for manifest in learned_from), *_trained_before(config)]
    say_changed(train, heard, goes_on=goes_on)

    def evaluation_set(name: str, files: list[Path], corpus: str, *, shift: str | None, declared: str | None):
        described = [describe(file) for file in files]
        labels = {set_label(trained_on, one, shift=shift, train_augmentation=config.augmentations) for one in described}
        for label in labels:
            check_label(declared, label, name=name)
        seen = sum(n_seen_speakers(trained_on, one) for one in described)
        return EvaluationSet(name, tuple(files), corpus, labels.pop(), shift, seen)

    prefix = folder.name.lower()
    several = len(valid) > len(config.valid_splits)
    dev_name = "mixed_dev" if several else "_".join([prefix, *config.valid_splits])
    dev_corpora = ", ".join(dict.fromkeys(read_description(manifest)["corpus"] for manifest in valid))
    dev = evaluation_set(dev_name, valid, dev_corpora, shift=None, declared="in_domain")
    tests = [
        evaluation_set(f"{prefix}_{split}", [manifests[split]], folder.name, shift=None, declared="in_domain")
        for split in config.test_splits
    ]
    first = tests[0]
    for name, (manifest, corpus) in also_tests.items():
        tests.append(evaluation_set(name, [manifest], corpus, shift=None, declared="in_domain"))
    for shift in config.shifts:
        name = f"{first.name}_{shift}"
        # no claim to check: whether it is a shift depends on what training's augmentation was
        tests.append(evaluation_set(name, list(first.manifests), folder.name, shift=shift, declared=None))
    for other in config.other_sets:
        if other.role == "also":
            continue
        for name, manifest in _prepare_other(other, config, train, recipes=recipes, save_folder=save_folder).items():
            declared = None if other.role == "release" else "ood"
            tests.append(evaluation_set(name, [manifest], other.corpus, shift=None, declared=declared))
    for one in tests:
        logger.info("test set %s: %s, %d speakers heard in training", one.name, one.label, one.n_seen_speakers)
    return Corpora(train, valid, dev, tests)


def _prepare_also(
    other: OtherSet, config: Config, prepared: dict[tuple[str, str], Path], *, recipes: Path, save_folder: Path
) -> dict[str, Path]:
    """Manifests of another corpus to train on, by split.

    Where the same corpus was prepared before (another release), speakers of its validation and test splits are left
    out: `prepared` holds manifests by the set's name and split.
    """
    recipe = load_recipe(recipes / other.corpus)
    options = _text_rule(recipe, config)
    takes = "exclude_speakers" in inspect.signature(recipe.prepare).parameters
    if takes:
        kept_apart = {(config.corpus.lower(), split) for split in (*config.valid_splits, *config.test_splits)}
        for one in config.other_sets:
            kept_apart |= {(one.name, split) for split in (*one.valid_splits, *one.test_splits)}
        options["exclude_speakers"] = [
            manifest
            for key, manifest in prepared.items()
            if key in kept_apart and read_description(manifest)["corpus"] == recipe.CORPUS
        ]
    where = save_folder if other.name == other.corpus.lower() != config.corpus.lower() else save_folder / other.name
    return recipe.prepare(other.folder, where, splits=list(other.splits), **options)


def _prepare_other(
    other: OtherSet, config: Config, train: list[Path], *, recipes: Path, save_folder: Path
) -> dict[str, Path]:
    """Manifests of another folder by the test set's name."""
    recipe = load_recipe(recipes / other.corpus)
    options = _text_rule(recipe, config)
    if other.role == "release":
        if "exclude_speakers" not in inspect.signature(recipe.prepare).parameters:
            raise ValueError(
                f"release_{other.name}_folder: {other.corpus} has no releases whose speakers could be those of "
                "training; its other parts are test_splits"
            )
        options["exclude_speakers"] = train
    start = f"{other.corpus.lower()}_{other.name}" if other.role == "release" else other.name
    plain = start == other.corpus.lower()  # the usual case: one folder of another corpus
    where = save_folder if plain and other.corpus.lower() != config.corpus.lower() else save_folder / start
    manifests = recipe.prepare(other.folder, where, splits=list(other.test_splits), **options)
    return {f"{start}_{split}": manifest for split, manifest in manifests.items()}


def _text_rule(recipe: ModuleType, config: Config) -> dict[str, str]:
    """`normaliser` for a corpus that leaves the choice; others have their own rule."""
    takes = "normaliser" in inspect.signature(recipe.prepare).parameters
    return {"normaliser": config.normaliser} if takes and config.normaliser is not None else {}


def _check_normaliser(config: Config, recipes: Path) -> None:
    if config.normaliser is None:
        return
    folders = corpus_folders(recipes)
    used = {folders[config.corpus.lower()].name, *(other.corpus for other in config.other_sets)}
    if not any(_text_rule(load_recipe(recipes / corpus), config) for corpus in used):
        names = ", ".join(sorted(used))
        raise ValueError(
            f"normaliser must be null: no corpus of this run leaves the choice of a rule, there is {names}"
        )


def _trained_before(config: Config) -> list[SetDescription]:
    """The corpora that the model of `init_from` was trained on, for labels; their utterances are not known here."""
    if config.init_from is None:
        return []
    model_config = json.loads((Path(config.init_from) / "config.json").read_text(encoding="utf-8"))
    nothing = frozenset()
    return [
        SetDescription(corpus, f"{corpus} of init_from", utt_ids=nothing, speakers=nothing, audio=nothing)
        for corpus in corpora_of(model_config)
    ]


def texts_of(manifests: Sequence[Path]) -> list[str]:
    """Reference texts of manifests, for a subword vocabulary."""
    return [row.text for manifest in manifests for row in read_manifest(manifest)]


LABELS = ("in_domain", "shifted", "ood", "unknown")


@dataclass(frozen=True)
class SetDescription:
    """What of a set decides its label."""

    corpus: str  # for instance "AN4"
    name: str  # for messages: corpus and split
    utt_ids: frozenset[str]
    speakers: frozenset[str]
    audio: frozenset[str]  # absolute paths, links followed, with the stretch where there is one


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

    Returns: "unknown" without knowledge of training; "ood" for a corpus that training did not hold, shifted or not;
    "shifted" for a shift that training did not see; else "in_domain". ValueError when utterances of the set were
    trained on.

    `train`: everything the model was trained on; empty when that is not known. `shift`: name of the shift (see
    `data.pipeline.SHIFTS`) that is applied when the set is read. `train_augmentation`: names of the shifts that
    training saw as augmentation.
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
