"""Policies: rules that decide, exit by exit and utterance by utterance, whether to stop.

A policy never runs a model and never sees a reference. It names the signals it `needs`, and is asked after
every exit but the last (which accepts whatever came):

    state = policy.start(n)                      # (n, width), a row per utterance
    stop, state = policy.step(signals, state)    # signals: dict of name to (n,); stop: (n,) bool
    state = state[~stop]                         # who stopped is dropped

Live decoding and replay of an exit table go through the same `step`. Policies are frozen, and print the text
that `parse_policy` reads: `entropy(0.12)`. A policy whose threshold was left out is *open* (`entropy`);
it must be calibrated before it can decide.

Sources: entropy thresholds after Teerapittayanon et al. 2016 (BranchyNet); patience after Zhou et al. 2020
(PABEE), here with the change of a transcript or of the posteriors between consecutive exits in place of
agreement of class labels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# name of the policy -> the signal it reads, and whether low values of it stop
THRESHOLD_SIGNALS = {
    "entropy": ("entropy", True),
    "confidence": ("confidence", False),
    "margin": ("margin", False),
    "similarity": ("cosine", False),
    "nbest": ("nbest_posterior", False),
    "sequence_log_prob": ("sequence_log_prob", False),
    "token_entropy": ("token_entropy", True),
}
# what the attention decoder must spell a transcript for; only tables of `decoding: attention` hold them
DECODER_SIGNALS = frozenset({"sequence_log_prob", "token_entropy"})
# name of the policy -> the signal that says how much changed since the exit before
PATIENCE_SIGNALS = {"patience": "char_change", "patience_ce": "cross_entropy"}


class Policy(Protocol):
    """What every policy offers; see the module's text for the order of calls."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the signals that `step` reads."""

    @property
    def is_open(self) -> bool:
        """Whether something is left to calibrate."""

    def start(self, n: int) -> np.ndarray:
        """State of n utterances before the first exit, of shape (n, width)."""

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Who stops at this exit, of shape (n,), and the state after it, of shape (n, width)."""

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """Exits whose head must run to decide, of shape (n_exits,); the emitting one's runs in any case."""


def number_text(number: float) -> str:
    """A number as policy texts show it: whole numbers without a point, all others exactly."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def call_text(name: str, *arguments: Any) -> str:
    """Text of a call; arguments that are None are left out."""
    shown = [str(a) if not isinstance(a, float) else number_text(a) for a in arguments if a is not None]
    return f"{name}({', '.join(shown)})" if shown else name


def finite_number(name: str, what: str, value: Any) -> float | None:
    """A finite number, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise ValueError(f"{name}: the {what} must be a finite number, got {value}")
    return float(value)


def layer_number(name: str, what: str, value: Any) -> int | None:
    """A whole number from 1, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: the {what} must be a whole number from 1, got {value}")
    return int(value)


class _Stateless:
    """The parts that policies without memory share."""

    def start(self, n: int) -> np.ndarray:
        """State of n utterances: nothing, of shape (n, 0)."""
        return np.zeros((n, 0), dtype=np.int64)

    def _refuse_open(self) -> None:
        if self.is_open:
            raise ValueError(f"{self} is open and cannot decide: give its arguments or calibrate it on dev")


@dataclass(frozen=True)
class Static(_Stateless):
    """Stops everybody at one exit.

    Arguments
    ---------
    layer : int or None
        The exit's layer; None is open.
    """

    layer: int | None = None
    needs = ("exit_layer",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", layer_number("static", "layer", self.layer))

    def __str__(self) -> str:
        return call_text("static", self.layer)

    @property
    def is_open(self) -> bool:
        """Whether the layer is left to calibrate."""
        return self.layer is None

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop where the exit's layer is reached."""
        self._refuse_open()
        return np.asarray(signals["exit_layer"]) >= self.layer, state

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """None: no head is read to decide."""
        return np.zeros(len(exit_layers), dtype=bool)


@dataclass(frozen=True)
class Random(_Stateless):
    """Stops with a fixed probability at each exit, by the utterance's name and the seed alone.

    Arguments
    ---------
    p : float or None
        Probability, 0 to 1; None is open.
    """

    p: float | None = None
    needs = ("uniform",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", finite_number("random", "probability", self.p))
        if self.p is not None and not 0.0 <= self.p <= 1.0:
            raise ValueError(f"random: the probability must lie between 0 and 1, got {number_text(self.p)}")

    def __str__(self) -> str:
        return call_text("random", self.p)

    @property
    def is_open(self) -> bool:
        """Whether the probability is left to calibrate."""
        return self.p is None

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop where the uniform number is below the probability, so that 0 never stops and 1 always does."""
        self._refuse_open()
        return np.asarray(signals["uniform"], dtype=np.float64) < self.p, state

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """None: no head is read to decide."""
        return np.zeros(len(exit_layers), dtype=bool)


@dataclass(frozen=True)
class Threshold(_Stateless):
    """Stops when one signal of this exit passes a threshold (reaching it is enough).

    Arguments
    ---------
    name : str
        A key of `THRESHOLD_SIGNALS`.
    threshold : float or None
        In the signal's unit; None is open.
    """

    name: str
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.name not in THRESHOLD_SIGNALS:
            raise ValueError(f"a threshold policy must be one of {', '.join(THRESHOLD_SIGNALS)}, got {self.name}")
        object.__setattr__(self, "threshold", finite_number(self.name, "threshold", self.threshold))

    def __str__(self) -> str:
        return call_text(self.name, self.threshold)

    @property
    def needs(self) -> tuple[str, ...]:
        """The signal."""
        return (THRESHOLD_SIGNALS[self.name][0],)

    @property
    def is_open(self) -> bool:
        """Whether the threshold is left to calibrate."""
        return self.threshold is None

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop at or below the threshold, or at or above it, as the signal asks."""
        self._refuse_open()
        signal, low_stops = THRESHOLD_SIGNALS[self.name]
        # float64 even for float32 signals: else the threshold would be rounded, and live differ from replay
        values = np.asarray(signals[signal], dtype=np.float64)
        return (values <= self.threshold if low_stops else values >= self.threshold), state

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """Every exit, except for cosine, which compares layer states and no heads."""
        return np.full(len(exit_layers), self.name != "similarity")


@dataclass(frozen=True)
class Patience:
    """Stops when k consecutive exits changed by at most a threshold.

    The first exit is compared with the empty transcript (or the all-blank posterior), so its change is large
    unless nothing was heard.

    Arguments
    ---------
    name : str
        A key of `PATIENCE_SIGNALS`.
    k : int
        Consecutive exits, at least 1.
    threshold : float or None
        Largest change that counts as none; 0 is exact equality; None is open.
    """

    name: str
    k: int
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.name not in PATIENCE_SIGNALS:
            raise ValueError(f"a patience policy must be one of {', '.join(PATIENCE_SIGNALS)}, got {self.name}")
        if isinstance(self.k, bool) or not isinstance(self.k, int | np.integer) or self.k < 1:
            raise ValueError(f"{self.name}: k must be a whole number of exits from 1, got {self.k}")
        object.__setattr__(self, "threshold", finite_number(self.name, "threshold", self.threshold))

    def __str__(self) -> str:
        return call_text(self.name, self.k, self.threshold)

    @property
    def needs(self) -> tuple[str, ...]:
        """The signal of change."""
        return (PATIENCE_SIGNALS[self.name],)

    @property
    def is_open(self) -> bool:
        """Whether the threshold is left to calibrate."""
        return self.threshold is None

    def start(self, n: int) -> np.ndarray:
        """Consecutive small changes so far: 0, of shape (n, 1)."""
        return np.zeros((n, 1), dtype=np.int64)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count one more small change or begin again; stop at k."""
        if self.is_open:
            raise ValueError(f"{self} is open and cannot decide: give its arguments or calibrate it on dev")
        change = np.asarray(signals[PATIENCE_SIGNALS[self.name]], dtype=np.float64)
        count = np.where(change <= self.threshold, state[:, 0] + 1, 0)
        return count >= self.k, count[:, None]

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """Every exit."""
        return np.ones(len(exit_layers), dtype=bool)
