"""Whether the recordings of a manifest are still those that something was made from."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.data.manifest import audio_path, read_description, read_manifest
from eeasr_modules.data.segments import split_segment


def recordings(manifests: Sequence[Path]) -> list[Path]:
    """Audio files of manifests, each once, in their order; of a stretch the whole file."""
    files: dict[Path, None] = {}
    for manifest in manifests:
        root = read_description(manifest)["data_folder"]
        files |= dict.fromkeys(Path(split_segment(audio_path(row.wav, root))[0]) for row in read_manifest(manifest))
    return list(files)


def audio_state(files: Sequence[Path]) -> str:
    """SHA-256 over size and time of change of each file: cheap, and another one wherever content may have changed."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat() if file.exists() else None
        digest.update(repr(status and (status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def audio_digest(files: Sequence[Path]) -> str:
    """SHA-256 over the files' contents: the same for copies of the same recordings."""
    digest = hashlib.sha256()
    for file in files:
        if not file.exists():
            digest.update(b"missing")
            continue
        with open(os.fspath(file), "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
