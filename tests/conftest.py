"""Fixtures of all tests; what a test cannot have here, it skips with the reason."""

# ruff: noqa: E402 (two things come before the imports, on purpose)
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported; other work runs beside tests

from eeasr_modules.compat import ensure_torchaudio

ensure_torchaudio()

from pathlib import Path

import hypothesis
import pytest
import torch
from tones import make_tone_corpus

torch.set_num_threads(1)
# the same examples in every run, however busy the machine is
hypothesis.settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]
NO_DATA = "no real data: set EEASR_SHARED_DATA to its folder (default ../shared/data)"


def _shared_data():
    """Folder of real data outside the repository, or None."""
    folder = Path(os.environ.get("EEASR_SHARED_DATA") or ROOT / ".." / "shared" / "data").resolve()
    return folder if folder.is_dir() else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Skip, with the reason, what needs real data or a GPU where there is none."""
    _tell_lazy_modules_apart()
    lacks = {}
    if _shared_data() is None:
        lacks["shared_data"] = pytest.mark.skip(reason=NO_DATA)
    if not torch.cuda.is_available():
        lacks["gpu"] = pytest.mark.skip(reason="no GPU that torch can use")
    for item in items:
        for name, skip in lacks.items():
            if item.get_closest_marker(name):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def root():
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real data (for tests marked `shared_data`)."""
    folder = _shared_data()
    if folder is None:
        pytest.skip(NO_DATA)
    return folder


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory):
    """A folder shaped like AN4 with synthetic audio: 12 training and 3 test speakers. Shared: read only."""
    return make_tone_corpus(tmp_path_factory.mktemp("tones") / "an4")


def _tell_lazy_modules_apart():
    """Let hypothesis look for `__file__` in every module without waking SpeechBrain's lazy ones.

    A lazy module answers any attribute by importing its target, which for k2 is an ImportError that ends the session.
    """
    for module in list(sys.modules.values()):
        lazy = "speechbrain.utils.importutils" in {kind.__module__ for kind in type(module).__mro__}
        if lazy and "__file__" not in vars(module):
            vars(module)["__file__"] = None
