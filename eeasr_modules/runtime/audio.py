"""Audio of any kind as mono float32 at one rate: whole, in pieces that fit in memory, or from arrays.

Everything libsndfile knows is read (wav, flac, ogg, opus, mp3, NIST sph, ...); what it does not know (m4a, aac, webm,
wma) through the package `av`, where that is installed. Files are read from beginning to end, never by seeking: the
segments of an MP3 do not start where they are asked to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch

from eeasr_modules import compat
from eeasr_modules.data.segments import split_segment

LEAST_S = 0.025  # one window of features, and what the convolutions of wav2vec 2.0 need for a frame
CLIPPED_FROM = 0.999  # of full scale
CLIPPED_SHARE = 0.001
BLOCK_S = 60.0
AV_SUFFIXES = (".m4a", ".aac", ".mp4", ".webm", ".wma", ".mka", ".mkv", ".mov", ".amr", ".3gp")
_FILTER_WIDTH, _ROLLOFF = 6, 0.99  # torchaudio's defaults, on which the context below depends


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
        self.path, self.sample_rate = Path(path), sample_rate
        self._file, self._stretch = split_segment(path)
        self.n_samples = 0
        self._n_read, self._n_clipped = 0, 0

    def blocks(self) -> Iterator[torch.Tensor]:
        """Waveforms (samples,) that follow each other; together the same as the whole.

        Raises
        ------
        FileNotFoundError
            Without the file.
        ValueError
            When it cannot be read, holds no samples, samples that are not finite, or too few for a frame.
        """
        rate, channels = _opened(self._file)
        if self._stretch is not None:
            channels = _stretch_of(channels, *(round(time * rate) for time in self._stretch))
        for block in _resampled(self._mono(channels), rate, self.sample_rate):
            self.n_samples += len(block)
            yield block
        if not self._n_read:
            raise ValueError(f"'{self.path}' holds no samples")
        check_length(self.n_samples, self.sample_rate, name=f"'{self.path}'")

    def _mono(self, channels: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        for block in channels:  # (samples, channels)
            if not np.isfinite(block).all():
                raise ValueError(f"'{self.path}' holds samples that are not finite")
            self._n_read += len(block)
            self._n_clipped += int((np.abs(block) >= CLIPPED_FROM).any(axis=1).sum())
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
            yield torch.from_numpy(np.ascontiguousarray(mono))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd, in sentences."""
        share = self._n_clipped / max(1, self._n_read)
        if share < CLIPPED_SHARE:
            return ()
        return (f"clipped: {100 * share:.1f} % of the samples are at full scale",)


def read_audio(path: str | Path, sample_rate: int) -> torch.Tensor:
    """A whole recording, of shape (samples,).

    Arguments
    ---------
    path : str or Path
        The file.
    sample_rate : int
        Hz of what comes out.

    Raises
    ------
    FileNotFoundError, ValueError
        See `AudioReader.blocks`.
    """
    return torch.cat(list(AudioReader(path, sample_rate).blocks()))


def as_waveform(samples: np.ndarray | torch.Tensor, *, from_rate: int, sample_rate: int) -> torch.Tensor:
    """An array as a mono waveform (samples,) in float32.

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
    mono = array if array.ndim == 1 else array.mean(axis=1)
    mono = np.ascontiguousarray(mono, dtype=np.float32)
    if not len(mono):
        raise ValueError("the audio array holds no samples")
    if not np.isfinite(mono).all():
        raise ValueError("the audio array holds samples that are not finite")
    wav = resample(torch.from_numpy(mono), from_rate, sample_rate)
    check_length(len(wav), sample_rate, name="the audio array")
    return wav


def check_length(n_samples: int, sample_rate: int, *, name: str) -> None:
    """ValueError when `n_samples` at `sample_rate` Hz are too few for one frame."""
    least = round(LEAST_S * sample_rate)
    if n_samples < least:
        raise ValueError(f"{name} holds {n_samples} samples at {sample_rate} Hz, one frame needs {least}")


def resample(wav: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """The signal at another sample rate (Hz): windowed sinc; unchanged at equal rates."""
    return wav if from_rate == to_rate else _resampler(int(from_rate), int(to_rate))(wav)


@lru_cache(maxsize=16)
def _resampler(from_rate: int, to_rate: int) -> torch.nn.Module:
    compat.ensure_torchaudio()
    from torchaudio.transforms import Resample

    return Resample(from_rate, to_rate, lowpass_filter_width=_FILTER_WIDTH, rolloff=_ROLLOFF)


def _resampled(blocks: Iterable[torch.Tensor], from_rate: int, to_rate: int) -> Iterator[torch.Tensor]:
    """Blocks at another rate, equal to resampling the whole: each is resampled with its neighbours' ends around it."""
    if from_rate == to_rate:
        yield from blocks
        return
    common = math.gcd(from_rate, to_rate)
    step, new = from_rate // common, to_rate // common  # `step` samples become `new`
    reach = math.ceil(_FILTER_WIDTH * step / (min(step, new) * _ROLLOFF)) + step
    context = step * math.ceil(reach / step)
    before, waiting = torch.zeros(0), torch.zeros(0)
    for block in blocks:
        waiting = torch.cat([waiting, block])
        n = (len(waiting) - context) // step * step
        if n < max(context, BLOCK_S * from_rate / 2):
            continue
        heard = resample(torch.cat([before, waiting[: n + context]]), from_rate, to_rate)
        skip = len(before) // step * new
        yield heard[skip : skip + n // step * new]
        before, waiting = waiting[n - context : n], waiting[n:]
    if len(waiting):
        heard = resample(torch.cat([before, waiting]), from_rate, to_rate)
        yield heard[len(before) // step * new :]


class _Forward(soundfile.SoundFile):
    """A file that is read on and on: after each block `SoundFile.read` seeks to where it is, if it may, and behind
    that an MP3 decodes to something else (differences of 0.17 were seen)."""

    def seekable(self) -> bool:
        return False


def _opened(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """Sample rate, and blocks (samples, channels) of a file."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise FileNotFoundError(f"expected audio at '{path}', found {what}")
    if not path.stat().st_size:
        raise ValueError(f"'{path}' is empty: 0 bytes")
    try:
        path.open("rb").close()  # libsndfile says "System error" and not which
    except OSError as err:
        raise ValueError(f"'{path}' cannot be opened: {err.strerror}") from err
    if path.suffix.lower() == ".raw":
        raise ValueError(f"'{path}' has no header that says its rate: convert it to wav")
    try:
        file = _Forward(str(path))
        file.seek(0)  # as `soundfile.read` does: the first MP3 frame decodes the same to the last bit
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as err:
        if path.suffix.lower() in AV_SUFFIXES:
            return _opened_by_av(path)
        raise ValueError(f"'{path}' is not audio that can be read: {_reason(err)}") from err
    return file.samplerate, _sound_blocks(file, path)


def _sound_blocks(file: _Forward, path: Path) -> Iterator[np.ndarray]:
    with file:
        while True:
            try:
                block = file.read(int(BLOCK_S * file.samplerate), dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError) as err:
                raise ValueError(f"'{path}' cannot be read to its end: {_reason(err)}") from err
            if not len(block):
                return
            yield block


def _stretch_of(blocks: Iterable[np.ndarray], begin: int, end: int) -> Iterator[np.ndarray]:
    """The samples from `begin` to before `end`, of blocks (samples, channels) that follow each other."""
    at = 0
    for block in blocks:
        kept = block[max(0, begin - at) : max(0, end - at)]
        at += len(block)
        if len(kept):
            yield kept
        if at >= end:
            return


def _reason(err: Exception) -> str:
    return str(getattr(err, "error_string", err)).strip().rstrip(".")


def _opened_by_av(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """As `_opened`, through FFmpeg."""
    try:
        import av
    except ImportError as err:
        raise ValueError(
            f"'{path}': {path.suffix} files need the package av (pip install av), or convert the file to wav"
        ) from err
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as err:
        raise ValueError(f"'{path}' is not audio that can be read: {err}") from err
    if not container.streams.audio:
        container.close()
        raise ValueError(f"'{path}' holds no audio stream")
    return int(container.streams.audio[0].rate), _av_blocks(container, path)


def _av_blocks(container, path: Path) -> Iterator[np.ndarray]:
    import av

    floats = av.AudioResampler(format="fltp")
    with container:
        try:
            for frame in container.decode(audio=0):
                for same in floats.resample(frame):
                    yield same.to_ndarray().T
        except (av.FFmpegError, ValueError) as err:
            raise ValueError(f"'{path}' cannot be read to its end: {err}") from err
