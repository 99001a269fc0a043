"""Transcribing live: decisions per utterance while the model runs, audio of any kind, results as dataclasses.

Names are imported when they are first asked for, so that `runtime.onnx.loop` works without torch.
"""

from importlib import import_module

_HOMES = {
    "Draft": "chunks",
    "EarlyExitASR": "recogniser",
    "Engine": "engine",
    "Recognised": "batch",
    "TranscribeBatch": "files.shards",
    "Transcript": "transcript",
    "Word": "transcript",
}

__all__ = ["Draft", "EarlyExitASR", "Engine", "Recognised", "TranscribeBatch", "Transcript", "Word"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from eeasr_modules.compat import ensure_torchaudio

    ensure_torchaudio()
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
