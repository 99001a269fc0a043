"""Audio files: found by stem, looked at for duration and faults, opened and read in blocks; stretches of recordings.

Everything libsndfile knows is read (wav, flac, ogg, opus, mp3, NIST sph, ...); what it does not know (m4a, aac, webm,
wma) through the package `av`, where that is installed. Files called `.raw` have no header and are taken as 16 kHz, 16
bit, mono, as in AN4, which was published in both byte orders.

A stretch is one text, as in W3C's media fragments: `talk.sph#t=12.5,17.25` in seconds; without an end it goes on to the
recording's. Manifests hold it in their `wav` column, and everything that reads audio reads that stretch alone.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

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


AUDIO_SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".sph", ".raw")
APPLE_DOUBLE = "._"  # macOS keeps a file's attributes beside it under such a name
RAW_SAMPLE_RATE = 16000  # headerless `.raw`: 16 bit, mono
OVERSHOOT_S = 0.5  # a segment may end so far behind its file's end: rounded, and as Kaldi has it
SILENT_S = 3.0  # what is done sooner shows no progress
_PIECE = 32  # files that a thread looks at in one go: handing them out one by one cost as much as reading headers


@dataclass(frozen=True)
class Look:
    """What looking at one file gave: its duration, or what is `wrong` ("missing" or "corrupt") and why."""

    duration_s: float = 0.0
    wrong: str | None = None
    why: str = ""


def find_audio(folder: Path | str, suffixes: Iterable[str] = AUDIO_SUFFIXES) -> dict[str, Path]:
    """Audio files under `folder` by their path without suffix, relative to it.

    Where a stem exists with several suffixes, the one that stands first in `suffixes` is taken.
    """
    from tqdm import tqdm

    folder, rank = Path(folder), {suffix: index for index, suffix in enumerate(suffixes)}
    found: dict[str, Path] = {}
    walk = os.walk(folder, followlinks=True)
    for parent, _, names in tqdm(walk, desc=f"{folder.name}, files", unit="folder", dynamic_ncols=True, delay=SILENT_S):
        for name in names:
            file = Path(parent, name)
            if file.suffix.lower() not in rank or name.startswith(APPLE_DOUBLE):
                continue
            key = file.relative_to(folder).with_suffix("").as_posix()
            known = found.get(key)
            if known is None or rank[file.suffix.lower()] < rank[known.suffix.lower()]:
                found[key] = file
    return found


def look_at_audio(
    paths: Sequence[Path | None],
    *,
    decode: bool,
    title: str,
    known: Sequence[float | None] | None = None,
    segments: Sequence[tuple[float, float] | None] | None = None,
) -> Iterator[Look]:
    """A look at each file, in order; a few pieces at a time over all cores, so memory stays flat.

    `paths`: None where no file was found. `decode`: read to the end, to find files cut short. `known`: durations that
    the corpus publishes; such a file is not opened. `segments`: stretches in seconds; of such a file the header alone
    is read.
    """
    from tqdm import tqdm

    nothing = [None] * len(paths)
    remaining = zip(paths, known or nothing, segments or nothing, strict=True)
    # Threads are enough: libsndfile decodes, and a disk is waited for, outside Python's lock.
    n_threads = min(8, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(max_workers=n_threads) as pool,
        tqdm(total=len(paths), desc=title, unit="utt", dynamic_ncols=True) as bar,
    ):
        under_way: deque = deque()
        while True:
            while len(under_way) < 2 * n_threads and (piece := list(islice(remaining, _PIECE))):
                under_way.append(pool.submit(lambda files: [_look(*one, decode) for one in files], piece))
            if not under_way:
                return
            for look in under_way.popleft().result():
                bar.update()
                yield look


def _look(path: Path | None, duration_s: float | None, segment: tuple[float, float] | None, decode: bool) -> Look:
    if path is None or not path.is_file():
        return Look(wrong="missing", why=f"no file {path or 'of that name'}")
    if duration_s is not None:
        return Look(duration_s) if path.stat().st_size else Look(wrong="corrupt", why=f"{path} is empty")
    try:
        if segment is not None:
            return _look_at_segment(path, segment)
        return Look(audio_duration_s(path, decode=decode))
    except Exception as error:  # whatever it is, it is this file's alone
        return Look(wrong="corrupt", why=fault(error, name=str(path)))


def _look_at_segment(path: Path, segment: tuple[float, float]) -> Look:
    start, end = segment
    whole = _header_duration_s(path, path.stat().st_mtime_ns)
    # of a file that is shorter the text would be more than what is heard
    if not 0 <= start < min(end, whole) or (math.isfinite(end) and end > whole + OVERSHOOT_S):
        return Look(wrong="corrupt", why=f"{path} lasts {whole:.2f} s, a segment from {start} to {end} s is not in it")
    return Look(min(end, whole) - start)


@lru_cache(maxsize=4096)
def _header_duration_s(path: Path, _changed_at: int) -> float:
    return audio_duration_s(path)


def file_name(path: Path | str) -> str | bytes:
    """The path as soundfile takes it: a name that is no UTF-8 as the bytes that it has."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return str(path)


def audio_duration_s(path: Path | str, *, decode: bool = False) -> float:
    """Seconds of audio in a file; ValueError when it is unreadable, empty, of a sample rate that is none of speech, or
    (with `decode`) cut short.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() == ".raw":
        n_bytes = path.stat().st_size
        if n_bytes == 0 or n_bytes % 2:
            raise ValueError(f"{path} holds {n_bytes} bytes, expected 16-bit samples")
        return n_bytes / 2 / RAW_SAMPLE_RATE
    try:
        with soundfile.SoundFile(file_name(path)) as file:
            declared, rate = file.frames, file.samplerate
            check_rate(rate, name=str(path))
            decoded = _n_decoded(file) if decode else declared
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"{path} is not readable audio: {error}") from error
    if decoded == 0:
        raise ValueError(f"{path} holds no samples")
    # Of MP3 some 200 samples fewer come than libsndfile declares; a file cut short misses far more.
    if declared - decoded > rate // 10:
        raise ValueError(f"{path} is cut short: {decoded} of {declared} samples could be read")
    return decoded / rate


def _n_decoded(file) -> int:
    """Samples that reading to the end gives (`SoundFile.blocks` gives as many as the header declares)."""
    n_decoded, buffer = 0, np.empty((max(1, (1 << 20) // file.channels), file.channels), dtype=np.float32)
    while n_read := len(file.read(out=buffer)):
        n_decoded += n_read
    return n_decoded


AV_SUFFIXES = (".m4a", ".aac", ".mp4", ".webm", ".wma", ".mka", ".mkv", ".mov", ".amr", ".3gp")
_VALUES = 1 << 20  # of all channels, in a block


class _Forward(soundfile.SoundFile):
    """A file that is read on and on: after each block `SoundFile.read` seeks to where it is, if it may, and behind
    that an MP3 decodes to something else (differences of 0.17 were seen).
    """

    def seekable(self) -> bool:
        return False


def open_sound(path: Path, stretch: tuple[float, float] | None) -> tuple[int, Iterator[np.ndarray]]:
    """Sample rate (Hz), and blocks of a file.

    FileNotFoundError without the file; ValueError when it is no audio, or its sample rate is none that speech is kept
    at. `stretch`: seconds where to begin and end, which may be infinite. MP3 is read from its beginning all the same:
    its parts do not start where they are asked to.

    Returns
    -------
    rate : int
    blocks : iterator of np.ndarray of shape (samples, channels)
        float32, that follow each other; a ValueError while they are read when the file cannot be read to its end.
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
