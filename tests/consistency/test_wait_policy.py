"""Whoever loads torch has told OpenMP's threads to sleep while they wait, unless the user's environment decided."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "train.py", *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "recipes").glob("*/*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
MODULES = ["eeasr_modules.training.publish.release", "eeasr_modules.training.run"]
UNTIL_TORCH = """
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch", os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""  # what it is when torch is loaded, which then is not: that would take seconds


def at_torch(code, *, policy=None):
    """What OMP_WAIT_POLICY is in a fresh process when torch is first asked for; None where it is not asked for."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if policy is None else {"OMP_WAIT_POLICY": policy})
    command = [sys.executable, "-c", UNTIL_TORCH + code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120)
    said = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("torch ")]
    return said[0] if said else None


def started(program):
    folder = str((ROOT / program).parent)
    ready = f"sys.path.insert(0, {folder!r}); sys.argv = [{program!r}, '--help']"
    return f"{ready}; runpy.run_path({program!r}, run_name='__main__')"


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_let_waiting_threads_sleep(program):
    assert at_torch(started(program)) in ("PASSIVE", None)


def test_programs_that_load_torch_are_among_them():
    assert at_torch(started("train.py")) == at_torch(started("recipes/Pretrain/pretrain.py")) == "PASSIVE"
    assert at_torch(started("benchmarks/decoding.py")) == at_torch(started("benchmarks/words.py")) == "PASSIVE"


@pytest.mark.parametrize("module", MODULES)
def test_so_do_modules_that_are_programs(module):
    assert at_torch(f"import {module}") == "PASSIVE"


EEASR = "from eeasr_modules.cli import main; main(['transcribe', 'eeasr_modules/shipped/base', 'README.md', '-o', '-'])"


def test_so_does_the_command_line():
    assert at_torch(EEASR) == "PASSIVE"


@pytest.mark.parametrize("code", [EEASR, started("train.py"), started("benchmarks/decoding.py")])
def test_the_users_environment_decides(code):
    assert at_torch(code, policy="ACTIVE") == "ACTIVE"


def test_so_do_these_tests():
    assert os.environ["OMP_WAIT_POLICY"]
