"""Two rules fitted by ridge regression: `gain`, by what going on would mend, and `lexical`, by how text looks.

`gain`, learned optimal stopping: go on as long as another layer is expected to remove enough errors. At exit k the
model predicts, for every later exit j, how many word errors per second of speech going on to j would remove, and scores

    S_k = max over j > k of  predicted (errors_k - errors_j) / (seconds * (layer_j - layer_k)).

The policy stops where S_k is at most a price, in errors per layer and second. One price gives a point of the whole
frontier, so it needs no floor or ceiling. Looking ahead to the best later exit stands for backward induction
(optimal stopping, e.g. Chow, Robbins and Siegmund 1971); fitted induction gave the same numbers.

The linear form: for each pair (k, j) a ridge regression (Hoerl and Kennard 1970) on a few signals of exit k.

`lexical`: stop when what was heard looks like language, a rule of speech recognition that classifiers do not have.
Inner exits write what they hear letter by letter (`koncord re turnedt`), later ones write words. The score is the
number of word errors per second that a few signals of one exit suggest: how rare its words are, how much the exit
before said otherwise and, where there is one, an acoustic signal. All exits share the same few numbers (one ridge
regression on dev), so a threshold on the score still wants a floor and a ceiling: `between(lexical)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eeasr_modules.exits.policies.protocol import FittedModel, common_exits, described, kept_in_file
from eeasr_modules.exits.tables.table import ExitTable

STRENGTH = 30.0


@dataclass(frozen=True, eq=False)
class GainModel(FittedModel):
    """Linear predictions of what each later exit would gain."""

    name: str  # such as "gain"
    signals: tuple[str, ...]  # what the predictions are linear in
    exit_layers: tuple[int, ...]  # exits, from 1, rising
    # (n_exits, n_exits, n_signals), of each signal, for exit k (axis 0) and a later exit j (axis 1); zeros where j is
    # not later
    weights: np.ndarray
    intercepts: np.ndarray  # (n_exits, n_exits), errors removed per second
    model_digest: str | None = None  # see `FittedModel`
    fitted_on: Mapping[str, Any] = field(default_factory=dict)  # of `described`

    def __post_init__(self) -> None:
        n_exits, n_signals = len(self.exit_layers), len(self.signals)
        for what, shape in (("weights", (n_exits, n_exits, n_signals)), ("intercepts", (n_exits, n_exits))):
            value = np.asarray(getattr(self, what), dtype=np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{what} of {self.name} must be finite and of shape {shape}, got {value.shape}")
            object.__setattr__(self, what, value)

    @classmethod
    def fit(
        cls, tables: Sequence[ExitTable], *, name: str, signals: tuple[str, ...], strength: float = STRENGTH
    ) -> "GainModel":
        """Fit on dev tables. ValueError when exits differ or a table lacks a signal."""
        exit_layers, digest = common_exits(tables)
        n = len(exit_layers)
        # (all utterances, n_exits, n_signals) and (all utterances, n_exits)
        x = np.concatenate([np.stack([signal_of(table, one) for one in signals], axis=2) for table in tables])
        seconds = np.concatenate([signal_of(table, "duration_s") for table in tables])
        errors = np.concatenate([table.errors for table in tables])
        weights, intercepts = np.zeros((n, n, len(signals))), np.zeros((n, n))
        for k in range(n - 1):
            removed = (errors[:, k, None] - errors[:, k + 1 :]) / seconds[:, k, None]
            weights[k, k + 1 :], intercepts[k, k + 1 :] = ridge(
                x[:, k], removed, sample_weights=seconds[:, k], strength=strength
            )
        return cls(name, tuple(signals), exit_layers, weights, intercepts, digest, described(tables))

    @property
    def needs(self) -> tuple[str, ...]:
        """The signals, and the exit's layer."""
        return (*self.signals, "exit_layer")

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Best predicted gain per second and layer of going on, of shape (n,), and the state."""
        k = exit_position(signals["exit_layer"], self.exit_layers)
        columns = [signals[name] for name in self.signals]
        gains = weighted_sum(columns, self.weights[k, k + 1 :], self.intercepts[k, k + 1 :])
        return lookahead(gains, k, exit_layers=self.exit_layers), state

    def content(self) -> dict[str, Any]:
        """Everything, since it is small."""
        return {"signals": list(self.signals), "weights": self.weights.tolist(), "intercepts": self.intercepts.tolist()}

    @classmethod
    def from_content(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "GainModel":
        """The model that `content` describes."""
        return cls(
            signals=tuple(content["signals"]),
            weights=np.array(content["weights"]),
            intercepts=np.array(content["intercepts"]),
            **kept_in_file(content),
        )


def exit_position(exit_layer: np.ndarray, exit_layers: Sequence[int]) -> int:
    """Which exit a step is at, from 0; 0 where n is 0. ValueError when the layer is no exit.

    Example
    -------
    >>> exit_position(np.array([4, 4]), (2, 4, 6))
    1
    """
    if len(exit_layer) == 0:
        return 0
    layer = int(exit_layer[0])
    if layer not in exit_layers or np.any(exit_layer != layer):
        raise ValueError(f"a step must be at one of the exits after layers {list(exit_layers)}, got {layer}")
    return list(exit_layers).index(layer)


def lookahead(gains: np.ndarray, k: int, *, exit_layers: Sequence[int]) -> np.ndarray:
    """Best gain per second and layer over the later exits; shape (n,).

    `gains` (n, n_later): errors per second that going on to exits k + 1, k + 2, ... would remove. `k`: this exit, from
    0. `exit_layers`: all exits.

    Example
    -------
    >>> lookahead(np.array([[0.2, 1.2]]), 0, exit_layers=(2, 4, 8))
    array([0.2])
    """
    layers = np.asarray(exit_layers, dtype=np.float64)
    return (gains / (layers[k + 1 :] - layers[k])).max(axis=1)


def weighted_sum(columns: Sequence[np.ndarray], weights: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
    """Linear predictions whose last bits do not depend on how many rows there are, as those of a matrix product do.

    `columns` (n,): the signals. `weights` (n_outputs, n_columns): of each signal. `intercepts` (n_outputs,): what is
    added.

    Example
    -------
    >>> weighted_sum([np.array([1.0, 2.0])], np.array([[3.0]]), np.array([0.5]))
    array([[3.5],
           [6.5]])
    """
    total = np.broadcast_to(intercepts, (len(columns[0]), len(intercepts)))
    for column, weight in zip(columns, weights.T):
        total = total + np.asarray(column, dtype=np.float64)[:, None] * weight
    return total


def ridge(
    x: np.ndarray, y: np.ndarray, *, sample_weights: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted ridge regression on standardised columns, given back for the columns as they were.

    Gives weights of shape (n_outputs, n_columns), and intercepts of shape (n_outputs,).

    `x` (n, n_columns): a column that never changes gets the weight 0. `y` (n, n_outputs): targets. `sample_weights`
    (n,): above 0. `strength`: penalty on the squared weights of the standardised columns, in the unit of
    `sample_weights`.

    Example
    -------
    >>> weights, intercepts = ridge(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]),
    ...                             sample_weights=np.ones(3), strength=0.0)
    >>> weights.round(6), intercepts.round(6)
    (array([[2.]]), array([1.]))
    """
    share = sample_weights / sample_weights.sum()
    centre, target = share @ x, share @ y
    spread = np.sqrt(share @ (x - centre) ** 2)
    varies = spread > 1e-9 * np.maximum(1.0, np.abs(centre))
    z = (x[:, varies] - centre[varies]) / spread[varies]
    gram = z.T @ (z * sample_weights[:, None]) + strength * np.eye(z.shape[1])
    # least squares, so that equal columns without a penalty do not stop it
    solved = np.linalg.lstsq(gram, z.T @ ((y - target) * sample_weights[:, None]), rcond=None)[0]
    weights = np.zeros((y.shape[1], x.shape[1]))
    weights[:, varies] = (solved / spread[varies][:, None]).T
    return weights, target - weights @ centre


def signal_of(table: ExitTable, name: str) -> np.ndarray:
    """A signal to fit on, where its absence is the caller's mistake; shape (n_utterances, n_exits).

    ValueError naming the signal.
    """
    try:
        return table.signal(name)
    except KeyError as err:
        raise ValueError(f"fitting needs a signal that is not there: {err.args[0]}") from err


@dataclass(frozen=True, eq=False)
class LexicalModel(FittedModel):
    """Errors per second as a weighted sum of signals, the same at every exit."""

    name: str  # such as "lexical"
    signals: tuple[str, ...]  # what is summed
    exit_layers: tuple[int, ...]  # exits of the tables that it was fitted on
    weights: np.ndarray  # (n_signals,), of each signal
    intercept: float  # errors per second where all signals are 0
    model_digest: str | None = None  # see `FittedModel`
    fitted_on: Mapping[str, Any] = field(default_factory=dict)  # of `described`

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
        """Fit on dev tables. ValueError when exits differ or a table lacks a signal."""
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

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Suggested errors per second, of shape (n,), and the state."""
        columns = [signals[name] for name in self.signals]
        return weighted_sum(columns, self.weights[None, :], np.array([self.intercept]))[:, 0], state

    def content(self) -> dict[str, Any]:
        """Everything, since it is small."""
        return {"signals": list(self.signals), "weights": self.weights.tolist(), "intercept": self.intercept}

    @classmethod
    def from_content(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "LexicalModel":
        """The model that `content` describes."""
        return cls(
            signals=tuple(content["signals"]),
            weights=np.array(content["weights"]),
            intercept=float(content["intercept"]),
            **kept_in_file(content),
        )
