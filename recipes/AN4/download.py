"""Downloads that resume and are checked, and archives that are unpacked safely."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from eeasr_modules.common.files import file_digest

logger = logging.getLogger(__name__)

_BLOCK = 1 << 18
_TIMEOUT_S = 30


def download(url: str, folder: Path | str, *, sha256: str | None = None) -> Path:
    """File at `url`, in `folder`, complete and of the right checksum.

    FileNotFoundError when it cannot be fetched (no network, no such file, broken off), ValueError when its checksum
    is another one; the wrong file is removed.

    A file that is there already is checked and kept. A download that was broken off lies there as
    `<name>.part` and is continued where the server can do that.

    Arguments
    ---------
    url : str
        http, https or file.
    folder : Path
        Made when absent.
    sha256 : str, optional
        Of the content, in hexadecimal.
    """
    folder = Path(folder)
    target = folder / Path(urlsplit(url).path).name
    if target.is_file():
        _check_sha256(target, sha256, url)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _fetch(url, part)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise FileNotFoundError(
            f"could not download {url}: {reason}; run again to resume, or fetch it yourself and name its folder"
        ) from error
    _check_sha256(part, sha256, url)
    os.replace(part, target)
    return target


def unpack(archive: Path | str, folder: Path | str, *, creates: str) -> Path:
    """The folder `creates` at the top of a tar archive, under `folder`; kept when it is there already.

    ValueError when the archive is damaged, unsafe or holds no such folder.

    Unpacked aside and renamed, so what exists is whole. Members that would land outside are refused
    (Python's "data" filter).
    """
    archive, folder = Path(archive), Path(folder)
    target = folder / creates
    if target.exists():
        return target
    aside = folder / f".unpacking-{creates}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, desc=f"unpack {archive.name}", unit="file", dynamic_ncols=True):
                tar.extract(member, aside, filter="data")
        if not (aside / creates).is_dir():
            found = ", ".join(sorted(entry.name for entry in aside.iterdir())) or "nothing"
            raise ValueError(f"{archive} must hold the folder {creates}, found {found}")
        os.replace(aside / creates, target)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}; delete it and download it again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _fetch(url: str, part: Path) -> None:
    """Bring `part` to its full length; OSError when the connection ends before."""
    n_there = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url)
    if n_there:
        request.add_header("Range", f"bytes={n_there}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and n_there:  # asked for what lies behind the end: everything is there
            return
        raise
    with response:
        if getattr(response, "status", None) != 206:  # this server starts from the beginning
            n_there = 0
        n_left = response.headers.get("Content-Length")
        n_total = n_there + int(n_left) if n_left is not None else None
        with (
            part.open("ab" if n_there else "wb") as file,
            tqdm(total=n_total, initial=n_there, desc=part.stem, unit="B", unit_scale=True) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    n_there = part.stat().st_size
    if n_total is not None and n_there < n_total:
        raise OSError(f"the connection ended after {n_there} of {n_total} bytes")


def _check_sha256(path: Path, expected: str | None, url: str) -> None:
    if expected is None:
        return
    found = file_digest(path)
    if found != expected.lower():
        path.unlink()
        raise ValueError(f"{url} must have the sha256 {expected}, got {found}: removed, download it again")
