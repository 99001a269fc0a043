"""Data beside the corpus that a YAML names first: other corpora to train on, and sets to test on.

also_<corpus>[_<name>]_folder       another corpus to train on; which of its parts say
also_<corpus>[_<name>]_train_splits, ..._valid_splits, ..._test_splits
release_<name>_folder, _splits      more of the main corpus to test on, without the speakers of training
ood_<corpus>[_<name>]_folder, _splits    a corpus that training has not, to test on
"""

import re
from dataclasses import dataclass
from pathlib import Path

from eeasr_modules.training.keys import Key

PURPOSES = ("train", "valid", "test")
OTHER_KEY = re.compile(r"(ood|release|also)_([a-z0-9]+(?:_[a-z0-9]+)*?)_(folder|(?:(?:train|valid|test)_)?splits)")


@dataclass(frozen=True)
class OtherSet:
    """Data from another folder than the one that the YAML's `data_folder` names.

    Arguments
    ---------
    name : str
        As in the keys: `digits`, `commonvoice_20`, `6_1`.
    corpus : str
        Folder of `recipes/`.
    folder : str
        The data.
    role : str
        "ood": a corpus that training has not. "release": more of the main corpus; speakers of training are left out.
        "also": trained on too.
    train_splits, valid_splits, test_splits : tuple of str
        Of that corpus; the first two only for "also".
    """

    name: str
    corpus: str
    folder: str
    role: str
    train_splits: tuple[str, ...] = ()
    valid_splits: tuple[str, ...] = ()
    test_splits: tuple[str, ...] = ()

    @property
    def start(self) -> str:
        """What its keys begin with."""
        return f"{self.role}_{self.name}"

    @property
    def splits(self) -> tuple[str, ...]:
        """All its splits, each once."""
        return tuple(dict.fromkeys([*self.train_splits, *self.valid_splits, *self.test_splits]))

    @property
    def keys(self) -> dict[str, object]:
        """The YAML keys that say this."""
        said = {f"{self.start}_folder": self.folder}
        if self.role != "also":
            return {**said, f"{self.start}_splits": list(self.test_splits)}
        return said | {
            f"{self.start}_{purpose}_splits": list(getattr(self, f"{purpose}_splits")) for purpose in PURPOSES
        }


def other_sets(values: dict, corpora: dict[str, Path], *, trained_on: str) -> tuple[OtherSet, ...]:
    """What the `also_`, `release_` and `ood_` keys say, those with a folder, in the order of the YAML.

    Arguments
    ---------
    values : dict
        Flat keys.
    corpora : dict of str to Path
        Recipe folders by lower-case name.
    trained_on : str
        The main corpus, lower-case.

    Raises
    ------
    ValueError
        One sentence: a corpus that there is not, splits without their folder, no split at all.
    """
    found = []
    said = {key: OTHER_KEY.fullmatch(key).groups() for key in values if OTHER_KEY.fullmatch(key)}
    for key, (role, name, what) in sorted(said.items(), key=lambda one: one[1][2] == "folder"):  # splits first
        start = f"{role}_{name}"
        corpus = trained_on if role == "release" else name.split("_")[0]
        if corpus not in corpora:
            raise ValueError(f"{key}: no corpus '{corpus}' under recipes/, there are {', '.join(corpora)}")
        if what != "folder":
            _check_splits(key, values, start, corpora[corpus].name, by_purpose=role == "also")
            continue
        Key(str, optional=True).check(key, values[key])
        if values[key] is not None:
            found.append(OtherSet(name, corpora[corpus].name, values[key], role, **_splits(values, start, role)))
    return tuple(found)


def _check_splits(key: str, values: dict, start: str, corpus: str, *, by_purpose: bool) -> None:
    Key(str, many=True).check(key, values[key])
    if f"{start}_folder" not in values:
        raise ValueError(f"{key} needs {start}_folder beside it, the data that these splits are of")
    if by_purpose == key.endswith(f"{start}_splits"):
        wanted = f"{start}_train_splits, _valid_splits and _test_splits" if by_purpose else f"{start}_splits"
        raise ValueError(f"unknown key {key}: the splits of {start}_folder are said by {wanted}")
    if not by_purpose and not values[key]:
        raise ValueError(f"{key} is empty: it must name at least one split of {corpus}")


def _splits(values: dict, start: str, role: str) -> dict[str, tuple[str, ...]]:
    if role != "also":
        return {"test_splits": tuple(values.get(f"{start}_splits", ["test"]))}
    said = {f"{purpose}_splits": tuple(values.get(f"{start}_{purpose}_splits", [])) for purpose in PURPOSES}
    if not said["train_splits"]:
        raise ValueError(
            f"{start}_folder needs {start}_train_splits, what to train on there; a corpus that is only tested on is "
            f"ood_{start.removeprefix('also_')}_folder"
        )
    return said
