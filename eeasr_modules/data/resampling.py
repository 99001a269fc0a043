"""Other sample rates: windowed sinc, of whole waveforms and of blocks that follow each other.

Rates whose ratio is simple go through torchaudio, whose kernel holds every phase at full width. Of 44101 Hz that kernel
has 16,000 phases and 3 GB. Such rates are resampled by the same filter at the same exact ratio, kept as a sparse matrix
from one period of samples to the next: a few dozen weights per sample that comes out, 2 MB at 44101 Hz, at most 40.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch

from eeasr_modules import compat

BLOCK_SAMPLES = 60 * 48000  # resampled at a time: shorter recordings in one go
_FILTER_WIDTH, _ROLLOFF = 6, 0.99  # torchaudio's defaults
_SIMPLE = (1000, 500)  # samples out and in of a period, up to which torchaudio's kernel is small
_ROWS = 4096  # of the sparse matrix made at a time


def resample(wav: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """The signal at another sample rate (Hz): windowed sinc; unchanged at equal rates.

    Arguments
    ---------
    wav : torch.Tensor of shape (samples,)
        float32.
    from_rate, to_rate : int
        Hz.

    Returns
    -------
    torch.Tensor of shape (ceil(samples x to_rate / from_rate),)
    """
    if from_rate == to_rate:
        return wav
    step, new = _period(from_rate, to_rate)
    if new <= _SIMPLE[0] and step <= _SIMPLE[1]:
        return _kernel(int(from_rate), int(to_rate))(wav)
    return torch.from_numpy(_by_periods(wav.numpy(), step, new))


def resampled(blocks: Iterable[torch.Tensor], from_rate: int, to_rate: int) -> Iterator[torch.Tensor]:
    """Blocks at another rate, equal to resampling the whole: each is resampled with its neighbours' ends around it.

    Arguments
    ---------
    blocks : iterable of torch.Tensor of shape (samples,)
        That follow each other, of any lengths.
    from_rate, to_rate : int
        Hz.
    """
    if from_rate == to_rate:
        yield from blocks
        return
    step, new = _period(from_rate, to_rate)
    reach = _reach(step, new) + 1
    context = step * math.ceil(reach / step)
    # the same blocks whatever comes in, so that a file and an array come out alike
    n = step * math.ceil(max(context, BLOCK_SAMPLES) / step)
    before, waiting = torch.zeros(0), torch.zeros(0)
    for block in blocks:
        waiting = torch.cat([waiting, block])
        while len(waiting) >= n + reach:
            heard = resample(torch.cat([before, waiting[: n + reach]]), from_rate, to_rate)
            skip = len(before) // step * new
            yield heard[skip : skip + n // step * new]
            before, waiting = waiting[n - context : n].clone(), waiting[n:]
    if len(waiting):
        yield resample(torch.cat([before, waiting]), from_rate, to_rate)[len(before) // step * new :]


def _period(from_rate: int, to_rate: int) -> tuple[int, int]:
    """Samples in, and samples out, after which the filter's phases come again."""
    common = math.gcd(int(from_rate), int(to_rate))
    return int(from_rate) // common, int(to_rate) // common


def _reach(step: int, new: int) -> int:
    """Samples that the filter reads on either side."""
    return math.ceil(_FILTER_WIDTH * step / (min(step, new) * _ROLLOFF))


@lru_cache(maxsize=16)
def _kernel(from_rate: int, to_rate: int) -> torch.nn.Module:
    compat.ensure_torchaudio()
    from torchaudio.transforms import Resample

    return Resample(from_rate, to_rate, lowpass_filter_width=_FILTER_WIDTH, rolloff=_ROLLOFF)


@lru_cache(maxsize=2)  # up to 40 MB each
def _matrix(step: int, new: int):
    """Sparse matrix (new, step + 2 x reach): from a period's samples, and those around it, to the period's output."""
    from scipy.sparse import csr_array

    reach, scale = _reach(step, new), min(step, new) * _ROLLOFF / step  # scale: of the cut-off to the rate read
    offsets = np.arange(-reach, reach + 1)
    weights = np.empty((new, len(offsets)), dtype=np.float32)
    columns = np.empty((new, len(offsets)), dtype=np.int32)
    for first in range(0, new, _ROWS):
        part = slice(first, min(first + _ROWS, new))
        whole, rest = np.divmod(np.arange(part.start, part.stop) * step, new)  # an output lies at whole + rest / new
        times = np.clip((offsets[None] - (rest / new)[:, None]) * scale, -_FILTER_WIDTH, _FILTER_WIDTH)
        weights[part] = np.sinc(times) * np.cos(times * (np.pi / 2 / _FILTER_WIDTH)) ** 2 * scale
        columns[part] = whole[:, None] + (offsets + reach)[None]
    begins = np.arange(new + 1, dtype=np.int32) * len(offsets)
    return csr_array((weights.ravel(), columns.ravel(), begins), shape=(new, step + 2 * reach))


def _by_periods(wav: np.ndarray, step: int, new: int) -> np.ndarray:
    """A waveform resampled by the sparse matrix, all periods side by side."""
    reach, n_periods = _reach(step, new), -(-len(wav) // step)
    padded = np.zeros(n_periods * step + 2 * reach, dtype=np.float32)
    padded[reach : reach + len(wav)] = wav
    size = padded.itemsize
    # (step + 2 x reach, periods), contiguous: the product runs along periods
    periods = np.ascontiguousarray(
        np.lib.stride_tricks.as_strided(padded, (step + 2 * reach, n_periods), (size, size * step))
    )
    return (_matrix(step, new) @ periods).T.reshape(-1)[: -(-len(wav) * new // step)].copy()
