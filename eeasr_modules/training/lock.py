"""One process at a time works in a run folder."""

import fcntl
import os
import socket
from pathlib import Path

FILE = ".lock"
_held: dict[Path, object] = {}  # open files: the lock lasts as long as the process


def hold(folder: str | Path) -> None:
    """Keep the folder, which is made if needed, for this process as long as it lives; a dead one keeps nothing.

    Raises
    ------
    ValueError
        If another process holds it, saying which.
    """
    folder = Path(folder).resolve()
    if folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / FILE).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who = file.read().strip() or "another process"
        file.close()
        raise ValueError(
            f"'{folder}' is in use by {who}: wait until it has ended, or give this run a folder of its own with "
            "--output_folder"
        ) from None
    except OSError:  # a file system without locks: better unlocked than not at all
        file.close()
        return
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[folder] = file


def release_all() -> None:
    """Give back every folder that this process holds."""
    while _held:
        _, file = _held.popitem()
        file.seek(0)
        file.truncate()
        file.close()
