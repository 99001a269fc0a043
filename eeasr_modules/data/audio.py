"""Audio of any kind as mono float32 at one rate, rounded to 16 bits: whole, in pieces, or from arrays.

Training, the test pass and the runtime read by this module alone, so a model gets the same of a file in all three.
Channels are averaged, or one is taken where they cancel. Rates whose ratio is simple are resampled as torchaudio does;
of others, whose kernel would take gigabytes (44101 Hz: 16,000 phases), the same filter is kept as a sparse matrix.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from eeasr_modules.data.audio_files import check_length, check_rate, open_sound, rounded, split_segment

CANCELLED = 0.01  # share of the channels' mean energy that is left in their mean: 20 dB below them
SAID = "out of phase: the channels cancel in their mean, channel {} was taken alone"


def channel_to_take(blocks: Iterable[np.ndarray]) -> int | None:
    """The loudest channel of a recording whose channels cancel in their mean, from 0; None where the mean is taken.

    A microphone cable with its wires crossed makes a stereo recording whose mean is silence.

    `blocks` (samples, channels): the whole recording.

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


BLOCK_SAMPLES = 60 * 48000  # resampled at a time: shorter recordings in one go
_FILTER_WIDTH, _ROLLOFF = 6, 0.99  # torchaudio's defaults
_SIMPLE = (1000, 500)  # samples out and in of a period, up to which torchaudio's kernel is small
_ROWS = 4096  # of the sparse matrix made at a time


def resample(wav: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """The signal at another sample rate (Hz): windowed sinc; unchanged at equal rates.

    `wav` (samples,). Returns torch.Tensor of shape (ceil(samples x to_rate / from_rate),). `from_rate`, `to_rate`: Hz.
    """
    if from_rate == to_rate:
        return wav
    step, new = _period(from_rate, to_rate)
    if new <= _SIMPLE[0] and step <= _SIMPLE[1]:
        return _by_kernel(wav, step, new)
    return torch.from_numpy(_by_periods(wav.numpy(), step, new))


def resampled(blocks: Iterable[torch.Tensor], from_rate: int, to_rate: int) -> Iterator[torch.Tensor]:
    """Blocks at another rate, equal to resampling the whole: each is resampled with its neighbours' ends around it.

    `blocks` (samples,): that follow each other, of any lengths. `from_rate` and `to_rate`: Hz.
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
def _kernel(step: int, new: int) -> torch.Tensor:
    """Torchaudio's windowed sinc in float32, (new, 1, step + 2 x reach): importing it takes as long as a sentence."""
    reach, cut_off = _reach(step, new), min(step, new) * _ROLLOFF
    times = torch.arange(0, -new, -1)[:, None, None] / new
    times = times + torch.arange(-reach, reach + step, dtype=torch.float64)[None, None] / step
    times = (times * cut_off).clamp_(-_FILTER_WIDTH, _FILTER_WIDTH)
    window = torch.cos(times * math.pi / _FILTER_WIDTH / 2) ** 2
    times *= math.pi
    kernel = torch.where(times == 0, torch.tensor(1.0).to(times), times.sin() / times)
    kernel *= window * (cut_off / step)
    return kernel.float()


def _by_kernel(wav: torch.Tensor, step: int, new: int) -> torch.Tensor:
    """A waveform resampled by the kernel, as torchaudio does."""
    reach = _reach(step, new)
    padded = torch.nn.functional.pad(wav[None, None], (reach, reach + step))
    made = torch.nn.functional.conv1d(padded, _kernel(step, new), stride=step)
    return made[0].T.reshape(-1)[: math.ceil(new * len(wav) / step)]


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


logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
CLIPPED_FROM = 0.999  # of full scale
CLIPPED_SHARE = 0.001


class AudioReader:
    """One recording, read from beginning to end, once.

    `path`: the file, or a stretch of it as manifests name it (`talk.sph#t=12.5,17.25`, in seconds). `sample_rate`: Hz
    of what comes out.

    Attributes
    ----------
    n_samples : int
        That came out so far.
    warnings : tuple of str
        What was odd about it, known after the last block.
    """

    def __init__(self, path: str | Path, sample_rate: int):
        self.path, self.sample_rate = path, sample_rate
        self.n_samples = 0
        self._n_read, self._n_clipped = 0, 0
        self._channel: int | None = None  # taken alone, where the channels cancel in their mean

    def blocks(self) -> Iterator[torch.Tensor]:
        """Waveforms (samples,) that follow each other; together the same as the whole.

        FileNotFoundError without the file; ValueError when it cannot be read, has a rate outside 4 to 384 kHz, no
        samples, or some that are not finite.
        """
        rate, channels = open_sound(*split_segment(self.path))
        first = next(channels, None)
        if first is not None:
            channels = chain([first], channels)
            if first.shape[1] > 1:  # read twice: whether channels cancel is known at the end
                self._channel = channel_to_take(open_sound(*split_segment(self.path))[1])
        for block in resampled(self._mono(channels), rate, self.sample_rate):
            self.n_samples += len(block)
            yield torch.from_numpy(rounded(block.numpy()))
        if not self._n_read:
            raise ValueError(f"'{self.path}' holds no samples")

    def _mono(self, channels: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        for block in channels:  # (samples, channels)
            if not np.isfinite(block).all():
                raise ValueError(f"'{self.path}' holds samples that are not finite")
            self._n_read += len(block)
            self._n_clipped += int((np.abs(block) >= CLIPPED_FROM).any(axis=1).sum())
            yield torch.from_numpy(np.ascontiguousarray(mono(block, self._channel)))

    def blocks_of_speech(self) -> Iterator[torch.Tensor]:
        """As `blocks`; a ValueError behind the last one when together they are too short for one frame."""
        yield from self.blocks()
        check_length(self.n_samples, self.sample_rate, name=f"'{self.path}'")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd, in sentences."""
        return tuple(filter(None, (clipping(self._n_clipped / max(1, self._n_read)), self.out_of_phase)))

    @property
    def out_of_phase(self) -> str:
        """That one channel was taken alone; "" where it is their mean."""
        return "" if self._channel is None else SAID.format(self._channel + 1)


def read_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> torch.Tensor:
    """A whole recording, or a stretch of it, as mono float32 of shape (samples,), full scale 1.

    FileNotFoundError, ValueError see `AudioReader.blocks`. `path`: the file, perhaps with a stretch as
    `data.audio_files` writes it. `sample_rate`: Hz of what comes out.
    """
    reader = AudioReader(path, sample_rate)
    return _warned(_joined(reader.blocks()), reader)


def _warned(wav: torch.Tensor, reader: AudioReader) -> torch.Tensor:
    """The waveform; what is odd about the channels is logged, for nobody asks the reader."""
    if reader.out_of_phase:
        logger.warning("'%s' is %s", reader.path, reader.out_of_phase)
    return wav


def _joined(blocks: Iterable[torch.Tensor]) -> torch.Tensor:
    found = list(blocks)
    return found[0] if len(found) == 1 else torch.cat(found)


def clipping(share: float) -> str:
    """The warning about a share of samples at full scale or above; "" where it is small.

    Example
    -------
    >>> clipping(0.025), clipping(0.0)
    ('clipped: 2.5 % of the samples are at full scale', '')
    """
    return f"clipped: {100 * share:.1f} % of the samples are at full scale" if share >= CLIPPED_SHARE else ""


def as_waveform(samples: np.ndarray | torch.Tensor, *, from_rate: int, sample_rate: int) -> torch.Tensor:
    """An array as a mono waveform (samples,) in float32, as a file with these samples would be read.

    ValueError when the shape is another, when samples are not finite, or too few for a frame. `samples` (samples,) or
    (samples, channels): floats of full scale 1, or integers of their type's full scale; `from_rate`: Hz of the array;
    `sample_rate`: Hz of what comes out.

    Example
    -------
    >>> as_waveform(np.full((1600, 2), 16384, dtype=np.int16), from_rate=16000, sample_rate=16000)[:2]
    tensor([0.5000, 0.5000])
    """
    array = samples.detach().cpu().numpy() if isinstance(samples, torch.Tensor) else np.asarray(samples)
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] > max(32, array.shape[0])):
        raise ValueError(f"audio arrays must be of shape (samples,) or (samples, channels), got {array.shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"audio arrays must hold numbers, got {array.dtype}")
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        middle = 0 if array.dtype.kind == "i" else (info.max + 1) / 2
        array = (array - float(middle)) / ((info.max + 1) / (1 if array.dtype.kind == "i" else 2))
    samples = array if array.ndim == 1 else _mono_array(array)
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if not len(samples):
        raise ValueError("the audio array holds no samples")
    if not np.isfinite(samples).all():
        raise ValueError("the audio array holds samples that are not finite")
    if from_rate != sample_rate:
        check_rate(from_rate, name="the audio array")
    blocks = resampled([torch.from_numpy(samples)], from_rate, sample_rate)
    wav = _joined(torch.from_numpy(rounded(block.numpy())) for block in blocks)
    check_length(len(wav), sample_rate, name="the audio array")
    return wav


def _mono_array(array: np.ndarray) -> np.ndarray:
    channel = channel_to_take([array]) if array.shape[1] > 1 else None
    if channel is not None:
        logger.warning("the audio array is %s", SAID.format(channel + 1))
    return mono(array, channel)
