"""What `pip install` of the built wheel puts into an environment."""

import json
import os
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


@pytest.fixture(scope="module")
def alone(wheel, tmp_path_factory):
    """Runs Python with the wheel's package, away from the checkout: arguments -> what was printed."""
    folder = tmp_path_factory.mktemp("alone")
    wheel.extractall(folder / "site")
    environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}

    def run(*arguments, status=0):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == status, done.stderr
        return done.stdout

    where = run("-c", "import eeasr_modules; print(eeasr_modules.__file__)").strip()
    assert where == str(folder / "site" / "eeasr_modules" / "__init__.py")
    run.folder, run.package = folder, folder / "site" / "eeasr_modules"
    return run


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


def test_alone_it_transcribes_with_the_shipped_model(alone):
    model, clips = alone.package / "shipped" / "base", alone.package / "demo" / "examples"
    cli = ("-m", "eeasr_modules.cli", "transcribe", model, clips, "-o", alone.folder / "out.jsonl", "--quiet")
    alone(*cli)
    lines = [json.loads(line) for line in (alone.folder / "out.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(line["text"] and line["exit_layer"] <= 8 for line in lines)


def test_alone_it_reports_on_the_shipped_tables(alone):
    tables, out = alone.package / "shipped" / "base" / "tables", alone.folder / "report"
    table, dev = tables / "digits_test.parquet", tables / "mixed_dev.parquet"
    said = alone("-m", "eeasr_modules.cli", "analyze", table, "--dev", dev, "--policies", "entropy", "--out", out)
    assert (out / "report.html").is_file() and (out / "summary.json").is_file()
    assert "digits_test" in said


def test_alone_it_knows_its_commands_and_brings_the_demos_examples(alone):
    assert "demo" in alone("-m", "eeasr_modules.cli", "--help")
    code = "from eeasr_modules.demo.app import EXAMPLES; print(*EXAMPLES)"
    for name in alone("-c", code).split():
        assert (alone.package / "demo" / "examples" / name).is_file()
