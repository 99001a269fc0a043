"""`ensure_torchaudio` with a torchaudio that works, one with a broken compiled part, one broken for good."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _package(folder, *, extension, body=""):
    """A small package named torchaudio in `folder`, shaped like the real one."""
    (folder / "torchaudio" / "_extension").mkdir(parents=True)
    (folder / "torchaudio" / "__init__.py").write_text(f"from . import _extension\n{body}\n")
    (folder / "torchaudio" / "_extension" / "__init__.py").write_text(extension + "\n")


def _run(code, *, first_on_path=None):
    """Run `code` in a fresh interpreter, with `first_on_path` before everything installed."""
    path = os.pathsep.join(str(p) for p in (first_on_path, ROOT) if p is not None)
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT)


ENSURE = "from eeasr_modules.compat import ensure_torchaudio\nensure_torchaudio()\n"


def test_importing_compat_imports_neither_torch_nor_torchaudio():
    done = _run("import eeasr_modules.compat, sys; print({'torch', 'torchaudio'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


def test_a_working_torchaudio_is_left_alone(tmp_path):
    _package(tmp_path, extension="MARK = 'compiled'")
    done = _run(
        ENSURE + "import torchaudio, sys\nensure_torchaudio()\n"
        "loader = type(torchaudio.__spec__.loader).__name__\n"
        "print(torchaudio._extension.MARK, torchaudio is sys.modules['torchaudio'], loader)",
        first_on_path=tmp_path,
    )
    assert done.stdout.split() == ["compiled", "True", "SourceFileLoader"], done.stderr


@pytest.mark.parametrize(
    "failure",
    [
        "OSError('Could not load this library')",
        "RuntimeError('compiled with CUDA version 13.0')",
        "ImportError('Failed to load libtorchaudio')",
        "ModuleNotFoundError('no lib', name='torchaudio.lib')",
    ],
)
def test_an_extension_that_cannot_load_is_replaced(tmp_path, failure):
    _package(tmp_path, extension=f"raise {failure}", body="ALIGN = _extension.fail_if_no_align")
    code = (
        ENSURE
        + "import torchaudio as first\nensure_torchaudio()\nimport torchaudio\n"
        + "print(first._extension._IS_TORCHAUDIO_EXT_AVAILABLE, torchaudio is first)\n"
        + "def forced_align(): pass\n"
        + "try:\n    first.ALIGN(forced_align)()\n"
        + "except RuntimeError as error:\n    print(error)\n"
    )
    done = _run(code, first_on_path=tmp_path)
    assert done.stdout.startswith("False True\n"), done.stderr
    assert "forced_align needs torchaudio's compiled extension" in done.stdout


def test_a_torchaudio_broken_elsewhere_raises_its_own_first_error_and_leaves_no_stand_in(tmp_path):
    _package(tmp_path, extension="raise OSError('first')", body="raise OSError('second')")
    code = (
        ENSURE
        + "import sys\ntry:\n    import torchaudio\n"
        + "except OSError as error:\n    print(error, [m for m in sys.modules if m[:10] == 'torchaudio'])\n"
    )
    assert _run(code, first_on_path=tmp_path).stdout.strip() == "first []"


def test_a_missing_torch_is_reported_as_it_is(tmp_path):
    _package(tmp_path, extension="raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    done = _run(ENSURE + "import torchaudio", first_on_path=tmp_path)
    assert done.returncode != 0
    assert done.stderr.strip().endswith("No module named 'torch'")


def test_speechbrain_and_transformers_import_after_it():
    code = ENSURE + "import speechbrain\nfrom transformers import Wav2Vec2Model\nprint('both')"
    done = _run(code)
    assert done.stdout.strip().endswith("both"), done.stderr
