"""Acoustic signals in numpy, of one utterance without padding: what `models.signals` computes in torch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LEAST_LOG_PROB = -100.0  # in place of -inf: 0 log 0 is 0, not nan


@dataclass(frozen=True, eq=False)
class ExitArrays:
    """One utterance at one exit.

    Arguments
    ---------
    log_probs : np.ndarray of shape (frames, tokens) or None
        Float32; None where only layer states are asked for.
    hidden, previous_hidden : np.ndarray of shape (frames, dim)
        Layer states at this exit and at the one before.
    previous_log_probs : np.ndarray of shape (frames, tokens) or None
        Of the exit before; None at the first.
    blank_index : int
        Index of blank.
    """

    log_probs: np.ndarray | None
    hidden: np.ndarray
    previous_log_probs: np.ndarray | None
    previous_hidden: np.ndarray
    blank_index: int

    @cached_property
    def finite(self) -> np.ndarray:
        """Log-probs without -inf."""
        return np.maximum(self.log_probs, np.float32(LEAST_LOG_PROB))

    @cached_property
    def path(self) -> np.ndarray:
        """Best token of each frame, (frames,)."""
        return self.log_probs.argmax(axis=-1)

    @cached_property
    def spoken(self) -> np.ndarray:
        """True for frames whose best token is not blank."""
        return self.path != self.blank_index

    @cached_property
    def top_probs(self) -> np.ndarray:
        """The largest and the second probability of each frame, (frames, 2)."""
        return np.exp(-np.partition(-self.log_probs, 1, axis=-1)[:, :2])

    @cached_property
    def entropy(self) -> np.ndarray:
        """Nats of each frame, (frames,)."""
        return -(np.exp(self.log_probs) * self.finite).sum(axis=-1)

    def token_mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over tokens of the mean over each token's frames; 0 without tokens."""
        runs = np.cumsum(np.diff(self.path, prepend=-1) != 0)[self.spoken]
        _, inverse, counts = np.unique(runs, return_inverse=True, return_counts=True)
        sums = np.bincount(inverse, weights=values[self.spoken])
        return mean(sums / counts)


def mean(values: np.ndarray) -> np.ndarray:
    """Mean, 0 of nothing."""
    return values.sum() / np.float32(max(len(values), 1))


def _cross_entropy(exit_: ExitArrays) -> np.ndarray:
    if exit_.previous_log_probs is None:
        return mean(-exit_.finite[:, exit_.blank_index])
    return mean(-(np.exp(exit_.previous_log_probs) * exit_.finite).sum(axis=-1))


def _cosine(exit_: ExitArrays) -> np.ndarray:
    one, two = exit_.hidden, exit_.previous_hidden
    norms = np.maximum(np.linalg.norm(one, axis=-1), 1e-8) * np.maximum(np.linalg.norm(two, axis=-1), 1e-8)
    return mean((one * two).sum(axis=-1) / norms)


# Each as the function of the same name in `eeasr_modules.models.signals`.
NUMPY_SIGNALS: dict[str, Callable[[ExitArrays], np.ndarray]] = {
    "entropy": lambda e: mean(e.entropy),
    "entropy_nonblank": lambda e: mean(e.entropy[e.spoken]),
    "max_entropy": lambda e: e.entropy.max(initial=0.0),
    "entropy_token": lambda e: e.token_mean(e.entropy),
    "confidence": lambda e: mean(e.top_probs[:, 0]),
    "margin": lambda e: mean(e.top_probs[:, 0] - e.top_probs[:, 1]),
    "blank_rate": lambda e: mean((~e.spoken).astype(np.float32)),
    "path_log_prob": lambda e: mean(e.finite.max(axis=-1)),
    "cross_entropy": _cross_entropy,
    "cosine": _cosine,
}
