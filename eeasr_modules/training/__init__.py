"""Configuration, the one Brain, and the test pass that writes exit tables."""

from eeasr_modules.compat import ensure_torchaudio

ensure_torchaudio()
