"""The rules: a fixed exit, chance, thresholds on one signal, patience, the most confident exit.

Sources: entropy thresholds after Teerapittayanon et al. 2016 (BranchyNet); patience after Zhou et al. 2020
(PABEE), here with the change of a transcript or of the posteriors between exits in place of agreement of class labels;
patience over all pairs that emits the first of the run, and the most confident exit, after the code of Berrebbi et al.
2022 (Avoid Overthinking in Self-Supervised Models for Speech Recognition; docs/paper.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits.policies.protocol import (
    EVERY_EXIT,
    MOST_LAGS,
    Policy,
    call_text,
    finite_number,
    lagged,
    layer_number,
    midway,
    number_text,
)

# name of the policy -> the signal it reads, and whether low values of it stop
THRESHOLD_SIGNALS = {
    "entropy": ("entropy", True),
    "max_entropy": ("max_entropy", True),
    "confidence": ("confidence", False),
    "margin": ("margin", False),
    "similarity": ("cosine", False),
    "nbest": ("nbest_posterior", False),
    "sequence_log_prob": ("sequence_log_prob", False),
    "token_entropy": ("token_entropy", True),
}
# name of the policy -> the signal that says how much changed since the exit before
PATIENCE_SIGNALS = {
    "patience": "char_change",
    "patience_words": "word_change",
    "patience_ce": "cross_entropy",
    "patience_bce": "binary_cross_entropy",
}
COMPARED = ("neighbours", "pairs")  # what a run of patience compares an exit with; the first is not written
EMITTED = ("last", "first")  # which member of the run speaks; the first of these is not written


@dataclass(frozen=True)
class Static(Policy):
    """Stops everybody at one exit."""

    layer: int | None = None  # the exit's layer; None is open
    name = "static"
    needs = ("exit_layer",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", layer_number("static", "layer", self.layer))

    @property
    def is_open(self) -> bool:
        """Whether the layer is left to calibrate."""
        return self.layer is None

    def with_threshold(self, threshold: float) -> "Static":
        """With its layer."""
        return Static(int(threshold))

    def thresholds(self, signals: Mapping[str, np.ndarray], n_thresholds: int) -> np.ndarray:
        """The layers of the exits, all of them."""
        return np.unique(signals["exit_layer"]).astype(np.float64)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop where the exit's layer is reached."""
        self._refuse_open()
        return np.asarray(signals["exit_layer"]) >= self.layer, state

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """None: no head is read to decide."""
        return np.zeros(len(exit_layers), dtype=bool)


@dataclass(frozen=True)
class Random(Policy):
    """Stops with a fixed probability at each exit, by the utterance's name and the seed alone."""

    p: float | None = None  # probability, 0 to 1; None is open
    name = "random"
    needs = ("uniform",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", finite_number("random", "probability", self.p))
        if self.p is not None and not 0.0 <= self.p <= 1.0:
            raise ValueError(f"random: the probability must lie between 0 and 1, got {number_text(self.p)}")

    @property
    def is_open(self) -> bool:
        """Whether the probability is left to calibrate."""
        return self.p is None

    def with_threshold(self, threshold: float) -> "Random":
        """With its probability."""
        return Random(threshold)

    def stopping_scores(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """uniform < p, while all others stop on equality: the next number above settles it."""
        return np.nextafter(signals["uniform"], np.inf)

    def thresholds(self, signals: Mapping[str, np.ndarray], n_thresholds: int) -> np.ndarray:
        """From never, 0, to always, 1."""
        return midway(signals["uniform"], n_thresholds, ends=(0.0, 1.0))

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop where the uniform number is below the probability, so that 0 never stops and 1 always does."""
        self._refuse_open()
        return np.asarray(signals["uniform"], dtype=np.float64) < self.p, state

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """None: no head is read to decide."""
        return np.zeros(len(exit_layers), dtype=bool)


@dataclass(frozen=True)
class Threshold(Policy):
    """Stops when one signal of this exit passes a threshold (reaching it is enough)."""

    name: str  # a key of `THRESHOLD_SIGNALS`
    threshold: float | None = None  # in the signal's unit; None is open

    def __post_init__(self) -> None:
        if self.name not in THRESHOLD_SIGNALS:
            raise ValueError(f"a threshold policy must be one of {', '.join(THRESHOLD_SIGNALS)}, got {self.name}")
        object.__setattr__(self, "threshold", finite_number(self.name, "threshold", self.threshold))

    @property
    def needs(self) -> tuple[str, ...]:
        """The signal."""
        return (THRESHOLD_SIGNALS[self.name][0],)

    @property
    def low_stops(self) -> bool:
        """Whether low values of the signal stop."""
        return THRESHOLD_SIGNALS[self.name][1]

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop at or below the threshold, or at or above it, as the signal asks."""
        self._refuse_open()
        values = self.stopping_scores(signals)
        return (values <= self.threshold if self.low_stops else values >= self.threshold), state

    def stopping_scores(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """The signal; float64 even where it is float32: else the threshold would be rounded, live not as in replay."""
        return np.asarray(signals[self.needs[0]], dtype=np.float64)

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """Every exit, except for cosine, which compares layer states and no heads."""
        return np.full(len(exit_layers), self.name != "similarity")


@dataclass(frozen=True)
class Patience(Policy):
    """Stops when k consecutive exits changed by at most a threshold, that is, when k + 1 of them agree: the *run*.

    Compared with neighbours, an exit belongs to the run when it is near the one before, and one that is not ends it;
    the first exit is compared with the empty transcript (or the all-blank posterior), so its change is large unless
    nothing was heard. Compared in pairs, an exit joins the run when the largest of its distances to all its members is
    at most the threshold; one that does not is put at the end and the oldest member leaves, so the run never gets
    shorter; the first exit is a run of one.
    """

    name: str  # a key of `PATIENCE_SIGNALS`: how far two exits are apart
    k: int  # at least 1: the run has one member more
    threshold: float | None = None  # largest change that counts as none; 0 is exact equality; None is open
    compared: str = COMPARED[0]  # one of `COMPARED`
    # one of `EMITTED`: whose transcript comes out when the run is complete. A run that never is emits the exit where
    # the utterance is stopped otherwise
    emits: str = EMITTED[0]

    def __post_init__(self) -> None:
        if self.name not in PATIENCE_SIGNALS:
            raise ValueError(f"a patience policy must be one of {', '.join(PATIENCE_SIGNALS)}, got {self.name}")
        if isinstance(self.k, bool) or not isinstance(self.k, int | np.integer) or self.k < 1:
            raise ValueError(f"{self.name}: k must be a whole number of exits from 1, got {self.k}")
        for what, value, known in (("compared", self.compared, COMPARED), ("emits", self.emits, EMITTED)):
            if value not in known:
                raise ValueError(f"{self.name}: {what} must be one of {', '.join(known)}, got {value!r}")
        if self.compared == "pairs" and self.name in ("patience_ce", "patience_bce") and self.k > MOST_LAGS:
            raise ValueError(
                f"{self.name}: posteriors are compared with those of at most {MOST_LAGS} exits before, so k must be at "
                f"most {MOST_LAGS} with pairs, got {self.k}"
            )
        object.__setattr__(self, "threshold", finite_number(self.name, "threshold", self.threshold))

    def __str__(self) -> str:
        words = [None if word == known[0] else word for word, known in self._words()]
        return call_text(self.name, self.k, self.threshold, *words)

    def _words(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(self.compared, COMPARED), (self.emits, EMITTED)]

    @property
    def needs(self) -> tuple[str, ...]:
        """The signal of change, for pairs with each of the k exits before."""
        lags = range(1, self.k + 1) if self.compared == "pairs" else (1,)
        return tuple(lagged(PATIENCE_SIGNALS[self.name], lag) for lag in lags)

    @property
    def reach(self) -> int:
        """The first member of the run lies k exits back."""
        return self.k if self.emits == "first" else 0

    def start(self, n: int) -> np.ndarray:
        """Neighbours: small changes in a row, 0; pairs: members of the run, 0; of shape (n, 1)."""
        return np.zeros((n, 1), dtype=np.int64)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Let the exit join the run or not; stop when the run is complete."""
        self._refuse_open()
        changes = [np.asarray(signals[name], dtype=np.float64) for name in self.needs]
        if self.compared == "neighbours":
            state = np.where(changes[0] <= self.threshold, state[:, 0] + 1, 0)[:, None]
        else:
            state = self._joined(np.stack(changes, axis=1), state)
        return self._complete(state), state

    def _joined(self, changes: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Members of the run after this exit; changes of shape (n, k), from the exit before backwards."""
        # the run's members are always the exits just passed; who was not let go with k + 1 compares with the newest k
        members = np.minimum(state[:, 0], self.k)
        is_member = np.arange(1, self.k + 1) <= members[:, None]
        near = ((changes <= self.threshold) | ~is_member).all(axis=1)
        return (members + near)[:, None]

    def _complete(self, state: np.ndarray) -> np.ndarray:
        return state[:, 0] >= (self.k if self.compared == "neighbours" else self.k + 1)

    def back(self, state: np.ndarray) -> np.ndarray:
        """k where the run is complete and its first member speaks, 0 elsewhere."""
        return np.where(self._complete(state), self.reach, 0)

    def stopping_scores(self, signals: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Of neighbours the largest of the last k changes; the run of pairs depends on the threshold."""
        if self.compared == "pairs":
            return None
        change = np.asarray(signals[self.needs[0]], dtype=np.float64)
        scores = np.full(change.shape, np.inf)
        if change.shape[1] >= self.k:
            windows = np.lib.stride_tricks.sliding_window_view(change, self.k, axis=1)
            scores[:, self.k - 1 :] = windows.max(axis=2)
        return scores

    def thresholds(self, signals: Mapping[str, np.ndarray], n_thresholds: int) -> np.ndarray:
        """Midway between the changes."""
        return midway(np.stack([signals[name] for name in self.needs]), n_thresholds)


@dataclass(frozen=True)
class MostConfident(Policy):
    """Never stops, and emits the exit passed whose mean best probability is highest (the earliest of equal ones).

    By itself all layers and heads run: `between(2, 8, most_confident)` chooses among the exits up to layer 8.
    """

    name = "most_confident"
    needs = ("confidence",)
    reach = EVERY_EXIT

    def start(self, n: int) -> np.ndarray:
        """Highest confidence so far, and how many exits back that was; of shape (n, 2)."""
        return np.tile([-np.inf, 0.0], (n, 1))

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Remember the exit if it is more confident than all before."""
        confidence = np.asarray(signals["confidence"], dtype=np.float64)
        better = confidence > state[:, 0]
        best = np.where(better, confidence, state[:, 0])
        return np.zeros(len(state), dtype=bool), np.stack([best, np.where(better, 0.0, state[:, 1] + 1)], axis=1)

    def back(self, state: np.ndarray) -> np.ndarray:
        """Exits back to the most confident one."""
        return state[:, 1]
