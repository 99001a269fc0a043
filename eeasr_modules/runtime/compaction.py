"""When utterances that left are taken out of the batch: always, or where the next layers repay the copy.

A rule is asked after each exit at which somebody left. Until it says yes, those who left stay in the tensors
and layers run for them in vain, though nothing of theirs is read again. On a CPU taking
them out nearly always pays; where a small batch costs as much as a large one, it need not.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from eeasr_modules.models.walk import Encoder, WalkState

SHAPES = ((1, 50), (1, 200), (2, 400), (4, 200), (8, 50), (8, 200), (16, 100))


class Compaction(Protocol):
    """The rule."""

    def pays(self, before: tuple[int, int], after: tuple[int, int], *, n_layers: int) -> bool:
        """Whether a batch of `after` (utterances, frames) in place of `before` repays the copy within `n_layers`."""


@dataclass(frozen=True)
class Always:
    """Who leaves is taken out at once: no layer runs for anybody who left."""

    def pays(self, before: tuple[int, int], after: tuple[int, int], *, n_layers: int) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class WhenItPays:
    """Compares measured times.

    Arguments
    ---------
    layer_s : tuple of float
        Seconds of one layer: constant, per frame of the batch, per squared frame of an utterance.
    copy_s : tuple of float
        Seconds of taking utterances out: constant, per frame that stays.

    Example
    -------
    >>> rule = WhenItPays(layer_s=(1e-3, 1e-5, 0.0), copy_s=(5e-4, 1e-7))
    >>> rule.pays((8, 100), (4, 100), n_layers=1), rule.pays((8, 100), (8, 99), n_layers=1)
    (True, False)
    """

    layer_s: tuple[float, float, float]
    copy_s: tuple[float, float]

    def layer_time_s(self, n_utterances: int, n_frames: int) -> float:
        """Seconds of one layer on a batch padded to `n_frames`."""
        return float(np.dot(self.layer_s, _layer_terms(n_utterances, n_frames)))

    def pays(self, before: tuple[int, int], after: tuple[int, int], *, n_layers: int) -> bool:
        """Whether the layers up to the next exit save more than the copy costs."""
        saved = n_layers * (self.layer_time_s(*before) - self.layer_time_s(*after))
        return saved > self.copy_s[0] + self.copy_s[1] * after[0] * after[1]


def _layer_terms(n_utterances: int, n_frames: int) -> tuple[float, float, float]:
    return 1.0, float(n_utterances * n_frames), float(n_utterances * n_frames**2)


@torch.inference_mode()
def measure_compaction(
    encoder: Encoder, *, shapes: Sequence[tuple[int, int]] = SHAPES, n_repeats: int = 3
) -> WhenItPays:
    """A rule fitted to this encoder on this machine: medians of a few layers and copies on noise.

    Arguments
    ---------
    encoder : Encoder
        In eval mode, on its device.
    shapes : sequence of (int, int)
        Utterances and frames to measure; at least three.
    n_repeats : int
        Timed runs of each, after one that is not.

    Returns
    -------
    WhenItPays
        Coefficients are non-negative least squares of the relative error.
    """
    from scipy.optimize import nnls

    parameter = next(encoder.parameters())
    layer_times, copy_times = [], []
    for n_utterances, n_frames in shapes:
        hidden = torch.randn(n_utterances, n_frames, encoder.dim, device=parameter.device, dtype=parameter.dtype)
        counts = torch.full((n_utterances,), n_frames, device=parameter.device)
        state = encoder.refresh(WalkState(hidden, counts))
        kept = torch.ones(n_utterances, dtype=torch.bool, device=parameter.device)

        def layer(state=state):
            encoder.run_layer(1, state)

        def copy(state=state, kept=kept, n_frames=n_frames):
            encoder.refresh(WalkState(state.hidden[kept][:, :n_frames], state.n_frames[kept], state.extra))

        layer_times.append(_median_s(layer, parameter.device, n_repeats))
        copy_times.append(_median_s(copy, parameter.device, n_repeats))
    layer_terms = np.array([_layer_terms(*shape) for shape in shapes])
    copy_terms = np.array([(1.0, float(b * t)) for b, t in shapes])
    # divided by the measured time, so that small batches count as much as large ones
    layer_s, _ = nnls(layer_terms / np.array(layer_times)[:, None], np.ones(len(shapes)))
    copy_s, _ = nnls(copy_terms / np.array(copy_times)[:, None], np.ones(len(shapes)))
    return WhenItPays(tuple(layer_s.tolist()), tuple(copy_s.tolist()))


def _median_s(run, device: torch.device, n_repeats: int) -> float:
    times = []
    for _ in range(n_repeats + 1):
        _wait_for(device)
        start = time.perf_counter()
        run()
        _wait_for(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
