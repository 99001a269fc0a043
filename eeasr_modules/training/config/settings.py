"""A checked configuration, and the data that it names beside the main corpus, as objects."""

from dataclasses import dataclass

from eeasr_modules.models.encoders import ENCODERS

PURPOSES = ("train", "valid", "test")


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


@dataclass(frozen=True)
class Config:
    """A checked configuration.

    Arguments
    ---------
    values : dict
        Every key of `keys_of(encoder)`; also `n_layers` and `dim` of an encoder whose checkpoint tells them, once it
        was asked (see `load`).
    other_sets : tuple of OtherSet
        From the `also_`, `release_` and `ood_..._folder` keys that are not null, in the order of the YAML.
    """

    values: dict
    other_sets: tuple[OtherSet, ...] = ()

    def __getattr__(self, name: str):
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"the configuration has no key '{name}'")
        return values[name]

    @property
    def encoder_settings(self) -> dict:
        """Arguments of `models.encoders.build_encoder`."""
        kind = self.values["encoder"]
        return {"encoder": kind, **ENCODERS[kind].settings_of(self.values)}

    @property
    def trained_corpora(self) -> list[str]:
        """Names of the corpora that are trained on, the main one first."""
        also = [other.corpus for other in self.other_sets if other.role == "also"]
        return list(dict.fromkeys([self.values["corpus"], *also]))

    @property
    def augmentations(self) -> set[str]:
        """Names of the test-time shifts that training has seen."""
        return {"fast"} if any(speed >= 120 for speed in self.values["speeds"]) else set()
