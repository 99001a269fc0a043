"""What has to be done before torch is imported: waiting threads that sleep, and a torchaudio that can be imported.

The published torchaudio wheel for Linux is a CUDA build. Beside a CPU build of torch its shared library does
not load and `import torchaudio` raises; SpeechBrain imports torchaudio at its top, and transformers does as
soon as it finds the package installed, so both fail with it. Everything this project needs of torchaudio is
plain Python, so a stand-in for the compiled part is enough. Where torchaudio works, it is used as it is.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

__all__ = ["ensure_torchaudio", "wait_passively"]

_EXTENSION = "torchaudio._extension"


def wait_passively() -> None:
    """Let OpenMP's waiting threads sleep in this process and its children, unless the environment says otherwise.

    By default they spin, and two processes that share cores then stand still.
    OpenMP reads OMP_WAIT_POLICY once, when it is loaded: call this before the first import of torch, scipy or
    scikit-learn.

    Example
    -------
    >>> wait_passively()
    >>> "OMP_WAIT_POLICY" in os.environ
    True
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def ensure_torchaudio() -> ModuleType:
    """Torchaudio, imported; with a stand-in for its compiled extension only where that cannot load.

    It loads torch, so `wait_passively` comes first.

    Call it before the first import of speechbrain or transformers. Calling it again costs nothing and changes
    nothing. Under the stand-in the transforms, resampling, filters and Kaldi features work; what needs
    compiled code (`forced_align`, `rnnt_loss`, the CUDA decoder) raises RuntimeError when it is called.

    Returns
    -------
    ModuleType
        The module `torchaudio`.

    Raises
    ------
    ModuleNotFoundError
        When torchaudio, or something it needs besides its compiled part, is not installed.

    Example
    -------
    >>> ensure_torchaudio().__name__
    'torchaudio'
    >>> ensure_torchaudio() is ensure_torchaudio()
    True
    """
    wait_passively()
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError, ImportError) as error:
        # Not installed, or torch is not: no stand-in can mend that. (RuntimeError is what torchaudio raises
        # when torch was built for another minor version of CUDA.)
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("torchaudio."):
            raise
        cause = error
    _forget_torchaudio()
    sys.modules[_EXTENSION] = _extension_stand_in()
    try:
        return importlib.import_module("torchaudio")
    except Exception as error:
        _forget_torchaudio()
        raise cause from error


def _forget_torchaudio() -> None:
    """Drop the half-imported modules, which would otherwise be found instead of imported again."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]


def _extension_stand_in() -> ModuleType:
    """What `torchaudio._extension` says of itself in an installation without compiled code."""
    module = ModuleType(_EXTENSION, "Stand-in: the compiled extension of torchaudio could not be loaded.")
    module.__path__ = []  # a package, so that `import torchaudio._extension.utils` fails cleanly
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module._check_cuda_version = lambda: None
    module.fail_if_no_align = _refuse
    return module


def _refuse(function):
    """Decorator: the function exists, and says on being called what it lacks."""

    def refused(*args, **kwargs):
        raise RuntimeError(
            f"torchaudio.functional.{function.__name__} needs torchaudio's compiled extension, "
            "which cannot be loaded beside this build of torch; install the torchaudio that belongs to it"
        )

    refused.__name__ = function.__name__
    refused.__doc__ = function.__doc__
    return refused
