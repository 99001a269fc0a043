"""Fitted policies: rules whose numbers come from a dev table; the one left to turn is a threshold on their score.

`gain(0.03)` names the rule and its threshold, never the numbers that were fitted: those are a *fitted model*, which
calibration makes (`eeasr_modules.exits.tuning.replay`) and a file keeps beside `policy.json`
(`eeasr_modules.exits.policies.files`). A policy parsed from text has none yet and is *open*.
"""

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eeasr_modules.exits.policies.protocol import Policy, call_text, finite_number


class FittedModel(Protocol):
    """What every fitted model offers. Rows are independent: a score is bitwise the same in every batch.

    Attributes: `name` (a key of `KINDS`), `exit_layers` (of the tables it was fitted on), `model_digest` (of the
    model whose tables those were; None decides for any model), `fitted_on` (what JSON can hold).
    """

    name: str
    exit_layers: tuple[int, ...]
    model_digest: str | None
    fitted_on: Mapping[str, Any]

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the signals that `step` reads; "hypothesis" gives transcripts."""

    def start(self, n: int) -> np.ndarray:
        """State of n utterances before the first exit, of shape (n, width) and any type."""

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores at this exit, of shape (n,), low ones stop; and the state after it."""

    def content(self) -> dict[str, Any]:
        """What JSON can hold."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What goes into an npz file; may be empty."""


@dataclass(frozen=True)
class Kind:
    """Where the class of a fitted model is, and the signals of this form of it.

    Arguments
    ---------
    module, class_name : str
        Imported when first asked for. The class has `fit(tables, *, name, signals)` and
        `from_content(content, arrays)`.
    signals : tuple of str
        Signals that it is fitted on.
    """

    module: str
    class_name: str
    signals: tuple[str, ...]

    def load(self) -> Any:
        """The class."""
        return getattr(importlib.import_module(self.module), self.class_name)


_GAIN = ("eeasr_modules.exits.policies.lexical_gain", "GainModel")
_LEXICAL = ("eeasr_modules.exits.policies.lexical_gain", "LexicalModel")
_WORD_GAIN = ("eeasr_modules.exits.policies.word_gain", "WordGainModel")
# name in a policy's text -> how it is fitted; names with _text need transcripts alone
KINDS: dict[str, Kind] = {
    "gain": Kind(*_GAIN, signals=("entropy", "rarity", "char_change")),
    "gain_text": Kind(*_GAIN, signals=("rare_share", "rarity", "char_change")),
    "lexical": Kind(*_LEXICAL, signals=("rarity", "entropy", "word_change")),
    "lexical_text": Kind(*_LEXICAL, signals=("rarity", "char_change")),
    "gain_words": Kind(*_WORD_GAIN, signals=("entropy", "rare_share", "char_change")),
    "gain_words_text": Kind(*_WORD_GAIN, signals=("rare_share", "char_change")),
}


def text_form(policy: object) -> str:
    """The end of an error: what to take where a table has no acoustic signals; "" where there is no such form.

    Example
    -------
    >>> text_form("between(lexical)")
    '; lexical_text needs transcripts alone'
    """
    found = [name for name in re.findall(r"\w+", str(policy)) if f"{name}_text" in KINDS]
    return f"; {found[0]}_text needs transcripts alone" if found else ""


@dataclass(frozen=True)
class Fitted(Policy):
    """Stops where a fitted model's score is at most a threshold (for `gain` the price of a layer-second).

    Arguments
    ---------
    name : str
        A key of `KINDS`.
    threshold : float or None
        In the score's unit; None is open.
    model : FittedModel or None
        None is open: it is fitted when the policy is calibrated.
    """

    name: str
    threshold: float | None = None
    model: FittedModel | None = None

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise ValueError(f"a fitted policy must be one of {', '.join(KINDS)}, got {self.name}")
        if self.model is not None and self.model.name != self.name:
            raise ValueError(
                f"the policy {self.name} needs a model fitted as {self.name}, got one of {self.model.name}"
            )
        object.__setattr__(self, "threshold", finite_number(self.name, "threshold", self.threshold))

    def __str__(self) -> str:
        return call_text(self.name, self.threshold)

    @property
    def needs(self) -> tuple[str, ...]:
        """Signals of the model, or those that it will be fitted on."""
        return KINDS[self.name].signals if self.model is None else tuple(self.model.needs)

    @property
    def is_open(self) -> bool:
        """Whether threshold or model are missing."""
        return self.threshold is None or self.model is None

    @property
    def has_open_threshold(self) -> bool:
        """Whether the threshold is missing: a model is fitted, not filled in."""
        return self.threshold is None

    def start(self, n: int) -> np.ndarray:
        """The model's state."""
        return self._fitted_model().start(n)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop at or below the threshold."""
        if self.threshold is None:
            raise ValueError(f"{self} is open and cannot decide: give its threshold or calibrate it on dev")
        score, state = self._fitted_model().step(signals, state)
        return score <= self.threshold, state

    def stopping_scores(self, signals: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The scores, where they lie in the table (`exits.tuning.replay.scored`)."""
        return signals.get(f"score of {self.name}")

    def _fitted_model(self) -> FittedModel:
        if self.model is None:
            raise ValueError(
                f"{self} has not been fitted and cannot decide: calibrate it on dev, or read the policy file that "
                f"calibration left"
            )
        return self.model


def nothing_passed(n: int) -> np.ndarray:
    """State of n utterances before the first exit, for models that keep an object each: None, of shape (n, 1)."""
    return np.full((n, 1), None, dtype=object)


def kept_in_file(content: Mapping[str, Any], features: Sequence[str] | None = None) -> dict[str, Any]:
    """What every fitted model takes from its file: name, exit_layers, model_digest, fitted_on.

    Arguments
    ---------
    content : mapping
        Of the file.
    features : sequence of str or None
        Columns that this version computes; None does not ask.

    Raises
    ------
    ValueError
        When the file's features are others.
    """
    if features is not None and tuple(content["features"]) != tuple(features):
        raise ValueError(f"{content['name']} was fitted on other features than this version computes; fit it again")
    kept = {name: content[name] for name in ("name", "model_digest", "fitted_on")}
    return {**kept, "exit_layers": tuple(content["exit_layers"])}


def common_exits(tables: Sequence[Any]) -> tuple[tuple[int, ...], str | None]:
    """Exit layers of the tables that something is fitted on, and model digest; None where models differ or are unknown.

    ValueError when there is no table, or exits differ.
    """
    if not tables:
        raise ValueError("fitting needs at least one exit table, got none")
    layers = [tuple(int(layer) for layer in table.exit_layers) for table in tables]
    other = next((one for one in layers if one != layers[0]), None)
    if other is not None:
        raise ValueError(
            f"all tables that a policy is fitted on must have the same exits, got layers {list(layers[0])} and "
            f"{list(other)}"
        )
    digests = {table.metadata.get("model_digest") for table in tables}
    return layers[0], digests.pop() if len(digests) == 1 else None


def described(tables: Sequence[Any]) -> dict[str, Any]:
    """What a model was fitted on, for its file: set_names, manifest_digests, n_utterances, n_speakers."""
    return {
        "set_names": [table.metadata.get("set_name") for table in tables],
        "manifest_digests": [table.metadata.get("manifest_digest") for table in tables],
        "n_utterances": sum(table.n_utterances for table in tables),
        "n_speakers": len({speaker for table in tables for speaker in table.speakers} - {""}),
    }
