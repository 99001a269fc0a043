"""What may lie in the repository (no links, nothing large), and what `make env` says to a wrong Python."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LARGEST_MB = 10


@pytest.fixture(scope="module")
def tracked():
    """Files of the repository, tracked and about to be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    # Deleted files stay listed until the deletion is committed.
    return [ROOT / name for name in done.stdout.split("\0") if name and os.path.lexists(ROOT / name)]


def test_no_symbolic_links(tracked):
    assert [str(path) for path in tracked if path.is_symlink()] == []


def test_no_large_files(tracked):
    large = {path.name: path.stat().st_size for path in tracked if path.stat().st_size > LARGEST_MB * 2**20}
    assert large == {}


def test_no_package_file_is_ignored_by_git(tracked):
    # .gitignore names /data/ and /runs/: rooms of the package must not fall under such a line.
    on_disk = set((ROOT / "eeasr_modules").rglob("*.py")) | set((ROOT / "recipes").rglob("*.py"))
    assert sorted(map(str, on_disk - set(tracked))) == []


def test_the_cpu_constraint_is_the_one_line_that_make_env_reads():
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+\n", (ROOT / "constraints" / "cpu.txt").read_text())


@pytest.mark.parametrize("which", ["too old", "missing"])
def test_a_python_that_will_not_do_is_reported_in_one_sentence(tmp_path, which):
    python = tmp_path / "python"
    if which == "too old":
        python.write_text('#!/bin/sh\ncase "$2" in *print*) echo 3.9.18 ;; *) exit 1 ;; esac\n')
        python.chmod(0o755)
    venv = tmp_path / "venv"
    done = subprocess.run(["make", "env", f"PYTHON={python}", f"VENV={venv}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make:") and "***" not in line]
    assert len(said) == 1 and "Python 3.11 or later" in said[0], done.stderr
    assert "3.9.18" in said[0] or which == "missing"
    assert not venv.exists()


def test_ci_names_tests_that_are_there():
    named = set(re.findall(r"tests/[\w/]+\.py", (ROOT / ".ci" / "run").read_text(encoding="utf-8")))
    assert len(named) > 5 and not [path for path in sorted(named) if not (ROOT / path).is_file()]
