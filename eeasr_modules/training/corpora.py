"""What a YAML's flat keys mean as data: manifests to train on, and every test set with its computed label."""

import importlib.util
import inspect
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from eeasr_modules.data.labels import SetDescription, check_label, describe, n_seen_speakers, set_label
from eeasr_modules.training.config import Config, OtherSet, corpus_folders

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
    _check_normaliser(config, recipes)
    rule = _text_rule(recipe, config)
    manifests = recipe.prepare(config.data_folder, save_folder, splits=splits, **rule)
    train = [manifests[split] for split in config.train_splits]
    valid = [manifests[split] for split in config.valid_splits]
    trained_on = [*(describe(manifest) for manifest in train), *_trained_before(config)]

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
    for other in config.other_sets:
        for name, manifest in _prepare_other(other, config, train, recipes=recipes, save_folder=save_folder).items():
            declared = None if other.release else "ood"
            tests.append(evaluation_set(name, [manifest], other.corpus, shift=None, declared=declared))
    for one in tests:
        logger.info("test set %s: %s, %d speakers heard in training", one.name, one.label, one.n_seen_speakers)
    return Corpora(train, valid, dev, tests)


def _prepare_other(
    other: OtherSet, config: Config, train: list[Path], *, recipes: Path, save_folder: Path
) -> dict[str, Path]:
    """Manifests of another folder by the test set's name."""
    recipe = load_recipe(recipes / other.corpus)
    options = _text_rule(recipe, config)
    if other.release:
        if "exclude_speakers" not in inspect.signature(recipe.prepare).parameters:
            raise ValueError(
                f"release_{other.name}_folder: {other.corpus} has no releases whose speakers could be those of "
                "training; its other parts are test_splits"
            )
        options["exclude_speakers"] = train
    start = f"{other.corpus.lower()}_{other.name}" if other.release else other.name
    plain = start == other.corpus.lower()  # the usual case: one folder of another corpus
    where = save_folder if plain and other.corpus.lower() != config.corpus.lower() else save_folder / start
    manifests = recipe.prepare(other.folder, where, splits=list(other.splits), **options)
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
    """The corpus that the model of `init_from` was trained on, for labels; its utterances are not known here."""
    if config.init_from is None:
        return []
    corpus = json.loads((Path(config.init_from) / "config.json").read_text(encoding="utf-8")).get("corpus")
    if corpus is None:
        return []
    nothing = frozenset()
    return [SetDescription(corpus, f"{corpus} of init_from", utt_ids=nothing, speakers=nothing, audio=nothing)]


def texts_of(manifests: Sequence[Path]) -> list[str]:
    """Reference texts of manifests, for a subword vocabulary."""
    from eeasr_modules.data.manifest import read_manifest

    return [row.text for manifest in manifests for row in read_manifest(manifest)]
