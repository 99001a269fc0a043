"""Transcribing live: decisions per utterance while the model runs, audio of any kind, results as dataclasses."""

from eeasr_modules.compat import ensure_torchaudio

ensure_torchaudio()

from eeasr_modules.runtime.engine import Engine  # noqa: E402
from eeasr_modules.runtime.leaving import Recognised  # noqa: E402
from eeasr_modules.runtime.recogniser import EarlyExitASR  # noqa: E402
from eeasr_modules.runtime.transcript import Transcript  # noqa: E402
from eeasr_modules.runtime.words import Word  # noqa: E402

__all__ = ["EarlyExitASR", "Engine", "Recognised", "Transcript", "Word"]
