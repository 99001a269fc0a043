"""Audio of any kind as mono float32 at one rate, rounded to 16 bits: whole, in pieces, or from arrays.

Training, the test pass and the runtime read by this module alone: a model hears the same of a file in all three.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from eeasr_modules.data.channels import SAID, channel_to_take, mono
from eeasr_modules.data.resampling import resampled
from eeasr_modules.data.segments import split_segment
from eeasr_modules.data.sound_files import open_sound
from eeasr_modules.data.waveform import check_length, check_rate, rounded

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
CLIPPED_FROM = 0.999  # of full scale
CLIPPED_SHARE = 0.001


class AudioReader:
    """One recording, read from beginning to end, once.

    Arguments
    ---------
    path : str or Path
        The file, or a stretch of it as manifests name it (`talk.sph#t=12.5,17.25`, in seconds).
    sample_rate : int
        Hz of what comes out.

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

        Raises
        ------
        FileNotFoundError
            Without the file.
        ValueError
            When it cannot be read, has a rate outside 4 to 384 kHz, no samples, or some that are not finite.
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
        share = self._n_clipped / max(1, self._n_read)
        clipped = f"clipped: {100 * share:.1f} % of the samples are at full scale"
        return tuple(filter(None, (clipped if share >= CLIPPED_SHARE else "", self.out_of_phase)))

    @property
    def out_of_phase(self) -> str:
        """That one channel was taken alone; "" where it is their mean."""
        return "" if self._channel is None else SAID.format(self._channel + 1)


def read_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> torch.Tensor:
    """A whole recording, or a stretch of it, as mono float32 of shape (samples,), full scale 1.

    Arguments
    ---------
    path : str or Path
        The file, perhaps with a stretch as `data.segments` writes it.
    sample_rate : int
        Hz of what comes out.

    Raises
    ------
    FileNotFoundError, ValueError
        See `AudioReader.blocks`.
    """
    reader = AudioReader(path, sample_rate)
    return _warned(_joined(reader.blocks()), reader)


def read_speech(path: str | Path, sample_rate: int) -> torch.Tensor:
    """As `read_audio`, of a recording that is to be recognised: a ValueError also when it is too short for one frame.

    Arguments
    ---------
    path : str or Path
        The file.
    sample_rate : int
        Hz of what comes out.
    """
    reader = AudioReader(path, sample_rate)
    return _warned(_joined(reader.blocks_of_speech()), reader)


def _warned(wav: torch.Tensor, reader: AudioReader) -> torch.Tensor:
    """The waveform; what is odd about the channels is logged, for nobody asks the reader."""
    if reader.out_of_phase:
        logger.warning("'%s' is %s", reader.path, reader.out_of_phase)
    return wav


def _joined(blocks: Iterable[torch.Tensor]) -> torch.Tensor:
    found = list(blocks)
    return found[0] if len(found) == 1 else torch.cat(found)


def as_waveform(samples: np.ndarray | torch.Tensor, *, from_rate: int, sample_rate: int) -> torch.Tensor:
    """An array as a mono waveform (samples,) in float32, as a file with these samples would be read.

    Arguments
    ---------
    samples : array of shape (samples,) or (samples, channels)
        Floats of full scale 1, or integers of their type's full scale.
    from_rate : int
        Hz of the array.
    sample_rate : int
        Hz of what comes out.

    Raises
    ------
    ValueError
        When the shape is another, when samples are not finite, or too few for a frame.

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
