"""What holds for every waveform, without torch: sample rate, 16 bits, a least length, and stretches of recordings.

A stretch is one text, as in W3C's media fragments: `talk.sph#t=12.5,17.25` in seconds; without an end it goes on to the
recording's. Manifests hold it in their `wav` column, and everything that reads audio reads that stretch alone.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

LOWEST_RATE, HIGHEST_RATE = 4000, 384000  # Hz; beyond them a header is broken, or its file no speech
LEAST_S = 0.025  # one window of features, and what the convolutions of wav2vec 2.0 need for a frame
_STEPS = 32768.0  # of 16 bits, up to full scale


def check_rate(rate: int, *, name: str) -> None:
    """ValueError unless a recording's sample rate (Hz) is one that speech is kept at.

    Example
    -------
    >>> check_rate(2_000_000_000, name="'a.wav'")
    Traceback (most recent call last):
    ...
    ValueError: the sample rate of 'a.wav' must be 4000 to 384000 Hz, got 2000000000
    """
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(f"the sample rate of {name} must be {LOWEST_RATE} to {HIGHEST_RATE} Hz, got {rate}")


def check_length(n_samples: int, sample_rate: int, *, name: str) -> None:
    """ValueError when `n_samples` at `sample_rate` Hz are too few for one frame."""
    least = round(LEAST_S * sample_rate)
    if n_samples < least:
        raise ValueError(f"{name} holds {n_samples} samples at {sample_rate} Hz, one frame needs {least}")


def rounded(samples: np.ndarray) -> np.ndarray:
    """Samples of full scale 1 on the grid of 16 bits, where most recordings lie already; louder ones are not clipped.

    Training keeps decoded audio in 16 bits, and what a model hears must not depend on who read it: so everybody rounds.

    Example
    -------
    >>> rounded(np.float32([0.25, 0.25 + 1e-5, 1.25]))
    array([0.25, 0.25, 1.25], dtype=float32)
    """
    return np.round(samples * np.float32(_STEPS)) / np.float32(_STEPS)


def fault(err: Exception, *, name: str) -> str:
    """One sentence on why a recording cannot be used.

    Example
    -------
    >>> fault(MemoryError(), name="'a.wav'"), fault(RuntimeError("bad\\nluck"), name="'a.wav'")
    ("'a.wav' needs more memory than there is", "'a.wav' cannot be used (RuntimeError: bad luck)")
    """
    said = " ".join(str(err).split())
    if isinstance(err, MemoryError) or "allocate memory" in said or "out of memory" in said:
        return f"{name} needs more memory than there is"
    return said if said and isinstance(err, ValueError | OSError) else f"{name} cannot be used ({_kind(err)})"


def _kind(err: Exception) -> str:
    said = " ".join(str(err).split())
    return type(err).__name__ + (f": {said}" if said else "")


_SEGMENT = re.compile(r"(?P<path>.+)#t=(?P<start>\d+(?:\.\d+)?)(?:,(?P<end>\d+(?:\.\d+)?))?", re.DOTALL)


def with_segment(path: Path | str, segment: tuple[float, float] | None) -> str:
    """The path with a stretch of it; ValueError unless 0 <= start < end; an infinite end is that of the file.

    Example
    -------
    >>> with_segment("talk.sph", (12.5, 17.25)), with_segment("talk.sph", (12.5, math.inf))
    ('talk.sph#t=12.5,17.25', 'talk.sph#t=12.5')
    """
    if segment is None:
        return str(path)
    start, end = segment
    if not 0 <= start < end:
        raise ValueError(f"a segment of '{path}' must begin at 0 s or later and before it ends, got {start} to {end} s")
    return f"{path}#t={_seconds(start)}" + ("" if math.isinf(end) else f",{_seconds(end)}")


def split_segment(path: Path | str) -> tuple[Path, tuple[float, float] | None]:
    """The file and the stretch of it (start and end in seconds), None where the path names no stretch.

    Example
    -------
    >>> split_segment("talk.sph#t=12.5,17.25")[1], split_segment("talk.sph")[1]
    ((12.5, 17.25), None)
    """
    found = _SEGMENT.fullmatch(str(path))
    if found is None or Path(path).is_file():  # a file may be called so
        return Path(path), None
    return Path(found["path"]), (float(found["start"]), float(found["end"] or math.inf))


def _seconds(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")
