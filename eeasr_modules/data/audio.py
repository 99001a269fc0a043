"""Reading audio: any format and rate in, mono float32 at one rate out."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch

from eeasr_modules import compat
from eeasr_modules.data.audio_files import RAW_SAMPLE_RATE
from eeasr_modules.data.segments import split_segment

SAMPLE_RATE = 16000


def read_audio(path: Path | str, sample_rate: int = SAMPLE_RATE, *, raw_byte_order: str = "auto") -> torch.Tensor:
    """Whole recording as mono float32 at `sample_rate`.

    Everything that libsndfile knows is read (wav, flac, ogg, opus, mp3, NIST sph, ...), channels are
    averaged. MP3 is always decoded whole: its segments do not start where they are asked to. Files called
    `.raw` have no header and are taken as 16 kHz, 16 bit, mono, as in AN4, which was published in both byte
    orders.

    Arguments
    ---------
    path : Path
        The recording, or a stretch of it as `data.segments` writes it.
    sample_rate : int
        In Hz.
    raw_byte_order : str
        For `.raw` only: "big", "little", or "auto", which takes the order under which neighbouring samples
        differ less (in speech the wrong order looks like loud noise).

    Returns
    -------
    torch.Tensor of shape (n_samples,)
        float32, full scale 1. FileNotFoundError without the file; ValueError when it is unreadable or empty.
    """
    path, segment = split_segment(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected audio at {path}, found no file")
    if path.suffix.lower() == ".raw":
        samples, rate = _read_raw(path, raw_byte_order), RAW_SAMPLE_RATE
        samples = samples[_samples_of(segment, rate)]
    else:
        try:
            channels, rate = _read_channels(path, segment)  # (n_samples, n_channels)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise ValueError(f"{path} is not readable audio: {error}") from error
        samples = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)
    if not len(samples):
        stretch = "" if segment is None else f" from {segment[0]} to {segment[1]} s"
        raise ValueError(f"{path} holds no samples{stretch}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} holds samples that are not finite")
    return resample(torch.from_numpy(np.ascontiguousarray(samples)), rate, sample_rate)


def _samples_of(segment: tuple[float, float] | None, rate: int) -> slice:
    return slice(None) if segment is None else slice(round(segment[0] * rate), round(segment[1] * rate))


def _read_channels(path: Path, segment: tuple[float, float] | None) -> tuple[np.ndarray, int]:
    if segment is None or path.suffix.lower() == ".mp3":
        channels, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
        return channels[_samples_of(segment, rate)], rate
    with soundfile.SoundFile(str(path)) as file:
        wanted = _samples_of(segment, file.samplerate)
        file.seek(min(wanted.start, file.frames))
        return file.read(wanted.stop - wanted.start, dtype="float32", always_2d=True), file.samplerate


def resample(wav: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """The signal at another sample rate (Hz): windowed sinc; unchanged at equal rates."""
    return wav if from_rate == to_rate else _resampler(int(from_rate), int(to_rate))(wav)


@lru_cache(maxsize=16)
def _resampler(from_rate: int, to_rate: int) -> torch.nn.Module:
    compat.ensure_torchaudio()
    from torchaudio.transforms import Resample

    return Resample(from_rate, to_rate)


def _read_raw(path: Path, byte_order: str) -> np.ndarray:
    content = path.read_bytes()
    if len(content) % 2:
        raise ValueError(f"{path} holds {len(content)} bytes, expected 16-bit samples")
    orders = {"big": ">i2", "little": "<i2"}
    if byte_order == "auto":
        byte_order = min(orders, key=lambda order: _roughness(np.frombuffer(content, orders[order])))
    if byte_order not in orders:
        raise ValueError(f"raw_byte_order must be auto, big or little, got {byte_order!r}")
    return np.frombuffer(content, orders[byte_order]).astype(np.float32) / 32768


def _roughness(samples: np.ndarray) -> float:
    """Mean absolute difference of neighbouring samples."""
    return float(np.abs(np.diff(samples.astype(np.int32))).mean()) if len(samples) > 1 else 0.0
