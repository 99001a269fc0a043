"""Stop when what was heard looks like language: a rule of speech recognition that classifiers do not have.

Inner exits write what they hear letter by letter (`koncord re turnedt`), later ones write words. The score is the
number of word errors per second that a few signals of one exit suggest: how rare its words are, how much the exit
before said otherwise and, where there is one, an acoustic signal. All exits share the same few numbers (one ridge
regression on dev), so a threshold on the score still wants a floor and a ceiling: `between(lexical)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eeasr_modules.exits.policies.fitted import common_exits, described, kept_in_file
from eeasr_modules.exits.policies.gain import STRENGTH, ridge, signal_of, weighted_sum
from eeasr_modules.exits.tables.table import ExitTable


@dataclass(frozen=True, eq=False)
class LexicalModel:
    """Errors per second as a weighted sum of signals, the same at every exit.

    Arguments
    ---------
    name : str
        Such as "lexical".
    signals : tuple of str
        What is summed.
    exit_layers : tuple of int
        Exits of the tables that it was fitted on.
    weights : np.ndarray of shape (n_signals,)
        Of each signal.
    intercept : float
        Errors per second where all signals are 0.
    model_digest : str or None
        See `FittedModel`.
    fitted_on : dict
        Of `described`.
    """

    name: str
    signals: tuple[str, ...]
    exit_layers: tuple[int, ...]
    weights: np.ndarray
    intercept: float
    model_digest: str | None = None
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (len(self.signals),) or not np.isfinite([*weights.ravel(), self.intercept]).all():
            raise ValueError(
                f"weights of {self.name} must be {len(self.signals)} finite numbers, one for each signal, got {weights}"
            )
        object.__setattr__(self, "weights", weights)

    @classmethod
    def fit(
        cls, tables: Sequence[ExitTable], *, name: str, signals: tuple[str, ...], strength: float = STRENGTH
    ) -> "LexicalModel":
        """Fit on dev tables.

        Arguments
        ---------
        tables : sequence of ExitTable
            Dev data, all with the same exits.
        name : str
            What the model is called.
        signals : tuple of str
            Stored or derived.
        strength : float
            Of the ridge penalty, in seconds of speech.

        Raises
        ------
        ValueError
            When exits differ or a table lacks a signal.
        """
        exit_layers, digest = common_exits(tables)
        # the first exit has no exit before it, the last one nobody asks
        asked = slice(min(1, len(exit_layers) - 1), max(1, len(exit_layers) - 1))
        seconds = np.concatenate([signal_of(table, "duration_s")[:, asked].ravel() for table in tables])
        x = np.stack(
            [np.concatenate([signal_of(table, one)[:, asked].ravel() for table in tables]) for one in signals], axis=1
        )
        errors = np.concatenate([table.errors[:, asked].ravel() for table in tables])
        weights, intercepts = ridge(x, (errors / seconds)[:, None], sample_weights=seconds, strength=strength)
        return cls(name, tuple(signals), exit_layers, weights[0], float(intercepts[0]), digest, described(tables))

    @property
    def needs(self) -> tuple[str, ...]:
        """The signals."""
        return self.signals

    def start(self, n: int) -> np.ndarray:
        """State of n utterances: nothing, of shape (n, 0)."""
        return np.zeros((n, 0))

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Suggested errors per second, of shape (n,), and the state."""
        columns = [signals[name] for name in self.signals]
        return weighted_sum(columns, self.weights[None, :], np.array([self.intercept]))[:, 0], state

    def content(self) -> dict[str, Any]:
        """Everything, since it is small."""
        return {"signals": list(self.signals), "weights": self.weights.tolist(), "intercept": self.intercept}

    def arrays(self) -> dict[str, np.ndarray]:
        """None."""
        return {}

    @classmethod
    def from_content(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "LexicalModel":
        """The model that `content` describes.

        Arguments
        ---------
        content : mapping
            Of `content`, with name, exit_layers, model_digest and fitted_on added by the file.
        arrays : mapping
            Not used.
        """
        return cls(
            signals=tuple(content["signals"]),
            weights=np.array(content["weights"]),
            intercept=float(content["intercept"]),
            **kept_in_file(content),
        )
