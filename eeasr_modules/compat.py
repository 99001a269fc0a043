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
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
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


def ensure_torchaudio() -> None:
    """Let torchaudio be imported from here on; with a stand-in for its compiled extension only where that cannot load.

    Nothing is imported yet. Call it before the first import of speechbrain or transformers; calling it again changes
    nothing. Under the stand-in the transforms, resampling, filters and Kaldi features work; what needs
    compiled code (`forced_align`, `rnnt_loss`, the CUDA decoder) raises RuntimeError when it is called.

    Example
    -------
    >>> ensure_torchaudio()
    >>> import torchaudio
    """
    wait_passively()
    if "torchaudio" not in sys.modules and not any(isinstance(one, _AtFirstImport) for one in sys.meta_path):
        sys.meta_path.insert(0, _AtFirstImport())


class _AtFirstImport(MetaPathFinder, Loader):
    """Finds torchaudio where it is, and mends it while it is loaded, once."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchaudio":
            return None
        found = PathFinder.find_spec(name, path)
        if found is None:
            return None
        spec = ModuleSpec(name, self, origin=found.origin, is_package=True)
        spec.submodule_search_locations = found.submodule_search_locations
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        sys.meta_path.remove(self)
        module = _mended_torchaudio()
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def _mended_torchaudio() -> ModuleType:
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
