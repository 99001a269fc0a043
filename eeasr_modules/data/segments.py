"""A stretch of a recording as one text: the path and, behind `#t=`, where it begins and ends in seconds.

As in W3C's media fragments (`talk.sph#t=12.5,17.25`; `talk.sph#t=12.5` goes on to the end). Manifests hold it in
their `wav` column, and everything that reads audio by such a path reads that stretch alone.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

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
