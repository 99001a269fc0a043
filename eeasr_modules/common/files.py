"""Files written aside and renamed, so that nobody reads half of one; digests of files, rounded numbers for them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path


def write_aside(path: str | Path, content: str | bytes | Callable[[Path], object], *, sync: bool = False) -> Path:
    """Write a file under `<name>.tmp` and rename it: at `path` lies what was there before, or the whole new content.

    Arguments
    ---------
    path : str or Path
        Its folder is made if needed.
    content : str, bytes or function
        Text, written as UTF-8 with its line ends as they are; bytes; or a writer, which is given the path to write to.
    sync : bool
        Rename only when the content is on the disk.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OSError
        When it cannot be written; whatever happens in writing, nothing stays behind.

    Example
    -------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write_aside(Path(folder.name, "a.txt"), "été").read_bytes()
    b'\\xc3\\xa9t\\xc3\\xa9'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    try:
        if callable(content):
            content(aside)
        else:
            aside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        if sync:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return path


def file_digest(*paths: str | Path | bytes) -> str:
    """SHA-256, in hexadecimal, of what files hold, one after the other; bytes stand for a file's content.

    Example
    -------
    >>> file_digest()[:12]
    'e3b0c44298fc'
    """
    digest = hashlib.sha256()
    for path in paths:
        with io.BytesIO(path) if isinstance(path, bytes) else open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def rounded(value: object) -> object:
    """A value for a JSON file, with the floats in it, however deep, to 4 decimals: more would be noise.

    Example
    -------
    >>> rounded({"wer": (12.345678, 3), "name": "a"})
    {'wer': [12.3457, 3], 'name': 'a'}
    """
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value
