"""Lets transformers load this folder: the classes are those of the package eeasr."""

try:
    from eeasr_modules.runtime.transformers_model import EarlyExitConfig, EarlyExitForCTC, SpelledTokenizer
except ImportError as err:
    raise ImportError(
        f"this model leaves early by the package eeasr, which cannot be imported here ({err}): pip install eeasr"
    ) from err

__all__ = ["EarlyExitConfig", "EarlyExitForCTC", "SpelledTokenizer"]
