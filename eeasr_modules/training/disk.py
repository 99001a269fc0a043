"""Telling a disk that cannot be written from a mistake in the program."""

import errno
import os
from pathlib import Path

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
CODES += (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY)
# torch and safetensors say it in words of their own
TORCH = ("PytorchStreamWriter failed", "inline_container", "unexpected pos", "file write failed", "cannot be opened")
SAFETENSORS = ("IoError", "I/O error")


def why_not_written(error: BaseException, *, folder: str | os.PathLike | None = None) -> str | None:
    """Why something could not be written, in a few words; None where `error` says something else.

    Arguments
    ---------
    error : BaseException
        As it was caught.
    folder : path or None
        Where is written: an error that names a file elsewhere, such as audio that may not be read, is none of these.

    Example
    -------
    >>> why_not_written(OSError(errno.ENOSPC, "No space left on device", "save/model.ckpt"))
    'No space left on device: save/model.ckpt'
    >>> why_not_written(ValueError("dim must be int"))
    """
    if isinstance(error, OSError) and error.errno in CODES:
        if folder is not None and isinstance(error.filename, str) and not _lies_in(error.filename, folder):
            return None
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or os.strerror(error.errno)}{place}"
    said = " ".join(str(error).split())
    from_torch = isinstance(error, RuntimeError) and any(sign in said for sign in TORCH)
    if from_torch or (type(error).__name__ == "SafetensorError" and any(sign in said for sign in SAFETENSORS)):
        return said
    return None


def _lies_in(file: str, folder: str | os.PathLike) -> bool:
    return Path(file).resolve().is_relative_to(Path(folder).resolve())


def sync(folder: str | os.PathLike) -> None:
    """Have the files of a folder on disk, not in memory: a disk that filled up says so here and not later."""
    for entry in os.scandir(folder):
        if entry.is_file():
            handle = os.open(entry.path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
