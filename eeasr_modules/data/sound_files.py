"""Sound files opened and read in blocks, from beginning to end.

Everything libsndfile knows is read (wav, flac, ogg, opus, mp3, NIST sph, ...); what it does not know (m4a, aac, webm,
wma) through the package `av`, where that is installed. Files called `.raw` have no header and are taken as 16 kHz, 16
bit, mono, as in AN4, which was published in both byte orders.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from eeasr_modules.data.audio_files import RAW_SAMPLE_RATE, file_name
from eeasr_modules.data.waveform import check_rate

AV_SUFFIXES = (".m4a", ".aac", ".mp4", ".webm", ".wma", ".mka", ".mkv", ".mov", ".amr", ".3gp")
_VALUES = 1 << 20  # of all channels, in a block


class _Forward(soundfile.SoundFile):
    """A file that is read on and on: after each block `SoundFile.read` seeks to where it is, if it may, and behind
    that an MP3 decodes to something else (differences of 0.17 were seen)."""

    def seekable(self) -> bool:
        return False


def open_sound(path: Path, stretch: tuple[float, float] | None) -> tuple[int, Iterator[np.ndarray]]:
    """Sample rate (Hz), and blocks of a file.

    Arguments
    ---------
    path : Path
        The file.
    stretch : (float, float) or None
        Seconds where to begin and end, which may be infinite. MP3 is read from its beginning all the same: its parts
        do not start where they are asked to.

    Returns
    -------
    rate : int
    blocks : iterator of np.ndarray of shape (samples, channels)
        float32, that follow each other; a ValueError while they are read when the file cannot be read to its end.

    Raises
    ------
    FileNotFoundError
        Without the file.
    ValueError
        When it is no audio, or its sample rate is none that speech is kept at.
    """
    _check_file(path)
    if path.suffix.lower() == ".raw":
        rate, blocks = RAW_SAMPLE_RATE, iter([_raw_samples(path)[:, None]])
    else:
        try:
            file = _Forward(file_name(path))
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as err:
            if path.suffix.lower() not in AV_SUFFIXES:
                raise ValueError(f"'{path}' is not audio that can be read: {_reason(err)}") from err
            rate, blocks = _opened_by_av(path)
        else:
            check_rate(file.samplerate, name=f"'{path}'")
            return file.samplerate, _sound_blocks(file, path, stretch)
    check_rate(rate, name=f"'{path}'")
    return rate, blocks if stretch is None else _cut(blocks, *_samples_of(stretch, rate))


def _samples_of(stretch: tuple[float, float], rate: int) -> tuple[int, int]:
    return round(stretch[0] * rate), sys.maxsize if math.isinf(stretch[1]) else round(stretch[1] * rate)


def _check_file(path: Path) -> None:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise FileNotFoundError(f"expected audio at '{path}', found {what}")
    if not path.stat().st_size:
        raise ValueError(f"'{path}' is empty: 0 bytes")
    try:
        path.open("rb").close()  # libsndfile says "System error" and not which
    except OSError as err:
        raise ValueError(f"'{path}' cannot be opened: {err.strerror}") from err


def _sound_blocks(file: _Forward, path: Path, stretch: tuple[float, float] | None) -> Iterator[np.ndarray]:
    blocks = _read_on(file, path, 0 if stretch is None else round(stretch[0] * file.samplerate))
    if stretch is None:
        return blocks
    begin, end = _samples_of(stretch, file.samplerate)
    return _cut(blocks, *((begin, end) if file.format == "MP3" else (0, end - begin)))


def _read_on(file: _Forward, path: Path, begin: int) -> Iterator[np.ndarray]:
    # also without a stretch, as `soundfile.read` does: the first MP3 frame decodes the same to the last bit
    start = 0 if file.format == "MP3" else min(begin, file.frames)
    with file:
        try:
            file.seek(start)
            while len(block := file.read(max(1, _VALUES // file.channels), dtype="float32", always_2d=True)):
                yield block
        except (soundfile.LibsndfileError, RuntimeError) as err:
            raise ValueError(f"'{path}' cannot be read to its end: {_reason(err)}") from err


def _cut(blocks: Iterable[np.ndarray], begin: int, end: int) -> Iterator[np.ndarray]:
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


def _raw_samples(path: Path) -> np.ndarray:
    """Of the two byte orders, the one under which neighbours differ less: in the wrong one speech is loud noise."""
    content = path.read_bytes()
    if len(content) % 2:
        raise ValueError(f"'{path}' holds {len(content)} bytes, expected 16-bit samples")
    orders = [np.frombuffer(content, order) for order in (">i2", "<i2")]
    return min(orders, key=_roughness).astype(np.float32) / 32768


def _roughness(samples: np.ndarray) -> float:
    """Mean absolute difference of neighbouring samples."""
    return float(np.abs(np.diff(samples.astype(np.int32))).mean()) if len(samples) > 1 else 0.0


def _opened_by_av(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """As `open_sound`, through FFmpeg."""
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
