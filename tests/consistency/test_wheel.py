"""What `pip install` of the built wheel puts into an environment."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that no build folder is left in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    left_out = shutil.ignore_patterns(".*", "results", "runs", "data", "build", "dist", "*.egg-info", "__pycache__")
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy2(path, copy)
        elif path.name in ("recipes", "tests", "hparams", "constraints", "docs", "benchmarks"):
            shutil.copytree(path, copy / path.name, ignore=left_out)
    # Not ignoring "data" here: it is a room of the package.
    shutil.copytree(ROOT / "eeasr_modules", copy / "eeasr_modules", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "-w", str(folder), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("eeasr-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_it_holds_the_whole_package_and_nothing_else(wheel):
    info = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert len(info) == 1
    inside = {name for name in wheel.namelist() if name.split("/")[0] not in info}
    ours = [path for path in (ROOT / "eeasr_modules").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert inside == {path.relative_to(ROOT).as_posix() for path in ours}


def test_it_brings_the_licence_the_command_and_no_pin_of_torch(wheel):
    read = {name.split("/", 1)[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert any(name.endswith("LICENSE") for name in read)
    assert "eeasr = eeasr_modules.cli:main" in wheel.read(read["entry_points.txt"]).decode()
    metadata = wheel.read(read["METADATA"]).decode()
    assert "Requires-Python: >=3.11" in metadata
    assert "Requires-Dist: torch>=2.7.1\n" in metadata and "torch==" not in metadata
