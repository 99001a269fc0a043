"""Encoders walked layer by layer, exit heads, losses, signals and decoding (torch; SpeechBrain lazily)."""

from eeasr_modules.compat import ensure_torchaudio

ensure_torchaudio()

from eeasr_modules.models.multi_exit import ExitOutput, MultiExit  # noqa: E402
from eeasr_modules.models.walk import Walk, WalkState  # noqa: E402

__all__ = ["ExitOutput", "MultiExit", "Walk", "WalkState"]
