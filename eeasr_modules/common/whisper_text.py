"""Whisper's normaliser of English, that of the Open ASR Leaderboard; transformers has it, but for its spelling map."""

import functools
import importlib.util
import json
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

VARIABLE = "EEASR_WHISPER_SPELLING"


def spelling_file() -> Path | None:
    """Whisper's map of British to American spelling; None where there is none.

    It is `normalizer.json` in a Whisper checkpoint and `english.json` in the package openai-whisper. The variable
    `EEASR_WHISPER_SPELLING` may name one; else those of installed packages and downloaded checkpoints are looked for.

    Raises
    ------
    FileNotFoundError
        When the variable names no file.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise FileNotFoundError(f"{VARIABLE} must name Whisper's normalizer.json or english.json, got '{named}'")
        return Path(named)
    found = []
    for package, inside in (("whisper", "normalizers/english.json"), ("whisper_normalizer", "english.json")):
        if (spec := importlib.util.find_spec(package)) is not None and spec.origin:
            found.append(Path(spec.origin).parent / inside)
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    found += sorted(Path(hub).expanduser().glob("models--*whisper*/snapshots/*/normalizer.json"))
    return next((path for path in found if path.is_file()), None)


@functools.cache
def _normaliser(path: Path | None):
    try:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    except ImportError as err:
        raise ValueError(f"the normaliser whisper is that of transformers, which cannot be imported ({err})") from err
    if path is None:
        logger.warning(
            "Whisper's spelling map is not here, so that British spelling counts as an error: let %s name the "
            "normalizer.json of a Whisper checkpoint",
            VARIABLE,
        )
    return EnglishTextNormalizer({} if path is None else json.loads(path.read_text(encoding="utf-8")))


def normalise_whisper(text: str) -> str:
    """Lower case without punctuation and brackets; numbers in digits, contractions written out.

    Example
    -------
    >>> normalise_whisper("Mr. Brown won't pay twenty-one dollars!")
    'mister brown will not pay $21'
    """
    return " ".join(_normaliser(spelling_file())(text).split())
