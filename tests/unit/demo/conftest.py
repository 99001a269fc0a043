"""The small talkative model of `tests/talkative.py`, its recordings and their exit table."""

from talkative import audio_folder, dev, model, model_folder, table, wavs

__all__ = ["audio_folder", "dev", "model", "model_folder", "table", "wavs"]
