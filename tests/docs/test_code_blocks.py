"""Every Python block of the documentation runs, page by page, in a folder that has what a checkout has, offline."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from eeasr_modules.exits import POLICIES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if "```python" in path.read_text())
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n+)?^```python\n(.*?)^```", re.S | re.M)


def blocks(path):
    """(source, runs or not) of every Python block."""
    return [(source, not note) for note, source in BLOCK.findall(path.read_text(encoding="utf-8"))]


@pytest.fixture
def offline(monkeypatch):
    """No other machine can be found."""

    def refuse(host, *arguments, **options):
        raise OSError(f"a page asked for {host}: pages run without a network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: refuse(address))


@pytest.fixture
def own_policies():
    """What a page registers is forgotten after it."""
    known = dict(POLICIES)
    yield
    POLICIES.clear()
    POLICIES.update(known)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
@pytest.mark.usefixtures("offline", "own_policies")
def test_every_python_block_runs(path, tmp_path, monkeypatch):
    for name in ("eeasr_modules", "recipes", "hparams"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "eeasr_modules/shipped/base/tables/an4_test.parquet", tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for number, (source, runs) in enumerate(blocks(path), start=1):
        if runs:
            exec(compile(source, f"{path.name}, block {number}", "exec"), namespace)


def test_blocks_that_do_not_run_are_few_and_say_why():
    skipped = {path.name: n for path in PAGES if (n := sum(not runs for _, runs in blocks(path)))}
    assert sum(skipped.values()) <= 4, skipped


def test_the_page_on_transformers_imports_in_a_fresh_process():
    source = blocks(ROOT / "docs/transformers.md")[0][0]
    imports = "\n".join(line for line in source.splitlines() if line.startswith(("import ", "from ")))
    done = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
