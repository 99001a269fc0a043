"""One channel of many: their mean, but one of them where they cancel in it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

CANCELLED = 0.01  # share of the channels' mean energy that is left in their mean: 20 dB below them
SAID = "out of phase: the channels cancel in their mean, channel {} was taken alone"


def channel_to_take(blocks: Iterable[np.ndarray]) -> int | None:
    """The loudest channel of a recording whose channels cancel in their mean, from 0; None where the mean is taken.

    A microphone cable with its wires crossed makes a stereo recording whose mean is silence.

    Arguments
    ---------
    blocks : iterable of np.ndarray of shape (samples, channels)
        The whole recording.

    Example
    -------
    >>> tone = np.sin(np.arange(100.0))
    >>> channel_to_take([np.stack([tone, -tone], axis=1)]), channel_to_take([np.stack([tone, tone], axis=1)])
    (0, None)
    """
    energies, of_mean = 0.0, 0.0
    for block in blocks:
        energies = energies + np.square(block, dtype=np.float64).sum(axis=0)
        of_mean += float(np.square(block.mean(axis=1), dtype=np.float64).sum())
    mean_energy = float(np.mean(energies))
    return int(np.argmax(energies)) if of_mean < CANCELLED * mean_energy else None


def mono(block: np.ndarray, channel: int | None) -> np.ndarray:
    """Samples (samples,) of a block (samples, channels): of one channel, or the mean where that is None."""
    if block.shape[1] == 1:
        return block[:, 0]
    return block.mean(axis=1) if channel is None else block[:, channel]
