"""What a YAML's flat keys mean as data: manifests to train on, and every test set with its computed label."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from eeasr_modules.data.labels import check_label, describe, n_seen_speakers, set_label
from eeasr_modules.training.config import Config, corpus_folders

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSet:
    """A set to collect an exit table from.

    Arguments
    ---------
    name : str
        As in tables and reports, for instance `an4_test_noise_10db`.
    manifests : tuple of Path
        Its utterances.
    corpus : str
        Folder of `recipes/`.
    label : str
        in_domain, shifted or ood, computed.
    shift : str or None
        Disturbance applied when audio is read.
    n_seen_speakers : int
        Speakers that training has heard.
    """

    name: str
    manifests: tuple[Path, ...]
    corpus: str
    label: str
    shift: str | None
    n_seen_speakers: int


@dataclass(frozen=True)
class Corpora:
    """Everything that a run reads.

    Arguments
    ---------
    train, valid : list of Path
        Manifests.
    dev : EvaluationSet
        The validation data as a set of its own: thresholds are chosen there.
    tests : list of EvaluationSet
        In domain first, then shifted, then other corpora.
    """

    train: list[Path]
    valid: list[Path]
    dev: EvaluationSet
    tests: list[EvaluationSet]


def load_recipe(folder: Path) -> ModuleType:
    """The module `prepare.py` of a corpus folder."""
    spec = importlib.util.spec_from_file_location(f"recipes.{folder.name}.prepare", folder / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare_corpora(config: Config, *, recipes: Path, save_folder: Path, may_download: bool) -> Corpora:
    """Manifests of all that the configuration names.

    Arguments
    ---------
    config : Config
        Checked.
    recipes : Path
        The folder of corpora.
    save_folder : Path
        Where manifests go.
    may_download : bool
        Whether a `data_folder` that does not exist is to be fetched (never where the user named one).

    Raises
    ------
    FileNotFoundError, ValueError
        One sentence: a folder that is not the corpus, an unknown or empty split, a false label.
    """
    folder = corpus_folders(recipes)[config.corpus.lower()]
    recipe = load_recipe(folder)
    if not Path(config.data_folder).is_dir():
        if not (may_download and hasattr(recipe, "fetch")):
            raise FileNotFoundError(f"data_folder '{config.data_folder}' does not exist")
        recipe.fetch(Path(config.data_folder).parent)
    splits = list(dict.fromkeys([*config.train_splits, *config.valid_splits, *config.test_splits]))
    for name in ("train_splits", "valid_splits", "test_splits"):
        if not getattr(config, name):
            raise ValueError(f"{name} is empty: it must name at least one split of {config.corpus}")
    manifests = recipe.prepare(config.data_folder, save_folder, splits=splits)
    train = [manifests[split] for split in config.train_splits]
    valid = [manifests[split] for split in config.valid_splits]
    trained_on = [describe(manifest) for manifest in train]

    def evaluation_set(name: str, files: list[Path], corpus: str, *, shift: str | None, declared: str | None):
        described = [describe(file) for file in files]
        labels = {set_label(trained_on, one, shift=shift, train_augmentation=config.augmentations) for one in described}
        for label in labels:
            check_label(declared, label, name=name)
        seen = sum(n_seen_speakers(trained_on, one) for one in described)
        return EvaluationSet(name, tuple(files), corpus, labels.pop(), shift, seen)

    prefix = folder.name.lower()
    dev_name = "_".join([prefix, *config.valid_splits])
    dev = evaluation_set(dev_name, valid, folder.name, shift=None, declared="in_domain")
    tests = [
        evaluation_set(f"{prefix}_{split}", [manifests[split]], folder.name, shift=None, declared="in_domain")
        for split in config.test_splits
    ]
    first = tests[0]
    for shift in config.shifts:
        name = f"{first.name}_{shift}"
        # no claim to check: whether it is a shift depends on what training's augmentation was
        tests.append(evaluation_set(name, list(first.manifests), folder.name, shift=shift, declared=None))
    for corpus, data_folder in config.ood_folders.items():
        other = load_recipe(recipes / corpus).prepare(data_folder, save_folder, splits=["test"])
        tests.append(evaluation_set(f"{corpus.lower()}_test", [other["test"]], corpus, shift=None, declared="ood"))
    for one in tests:
        logger.info("test set %s: %s, %d speakers heard in training", one.name, one.label, one.n_seen_speakers)
    return Corpora(train, valid, dev, tests)


def texts_of(manifests: Sequence[Path]) -> list[str]:
    """Reference texts of manifests, for a subword vocabulary."""
    from eeasr_modules.data.manifest import read_manifest

    return [row.text for manifest in manifests for row in read_manifest(manifest)]
