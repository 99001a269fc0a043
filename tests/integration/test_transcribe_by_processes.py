"""`torchrun -m eeasr_modules.cli transcribe`: several processes, one output, nothing lost or doubled."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from eeasr_modules.runtime.files.shards import part_paths

pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def clips(root, tmp_path_factory):
    """Forty clips of the embedded corpus and two files that are none."""
    folder = tmp_path_factory.mktemp("clips")
    for path in sorted((root / "recipes/Spoken/corpus/audio/test").glob("*.opus"))[:40]:
        shutil.copy(path, folder)
    (folder / "broken.wav").write_text("no audio")
    (folder / "empty.flac").write_bytes(b"")
    return folder


def command(root, clips, output, *, processes):
    start = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_port=0"]
    start += ["--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0"]
    alone = [sys.executable]
    what = ["-m", "eeasr_modules.cli", "transcribe", str(root / "eeasr_modules/shipped/base"), str(clips)]
    return [*(start if processes > 1 else alone), *what, "-o", str(output), "--device", "cpu", "--quiet"]


def run(*arguments, root, **options):
    return subprocess.run(
        command(root, *arguments, **options), cwd=root, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def alone(root, clips, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "out.jsonl"
    done = run(clips, output, root=root, processes=1)
    assert done.returncode == 1, done.stderr  # two files are broken
    return output


def same(one, other):
    first, second = ([json.loads(line) for line in path.read_text().splitlines()] for path in (one, other))
    assert [line["audio"] for line in first] == [line["audio"] for line in second]
    for a, b in zip(first, second, strict=True):
        assert (a["text"], a["exit_layer"], bool(a["error"])) == (b["text"], b["exit_layer"], bool(b["error"]))


def test_two_processes_write_what_one_writes_and_say_that_some_failed(root, clips, alone, tmp_path):
    output = tmp_path / "out.jsonl"
    done = run(clips, output, root=root, processes=2)
    assert done.returncode != 0
    (tally,) = [line for line in done.stderr.splitlines() if line.startswith("eeasr: between(")]  # the first's alone
    assert tally.endswith("; 2 could not be transcribed") and "42 recordings" not in tally, tally
    same(output, alone)
    assert part_paths(output) == []


@pytest.mark.parametrize("then", [1, 3])
def test_killed_and_started_again_with_another_number_nothing_is_lost_or_doubled(then, root, clips, alone, tmp_path):
    output = tmp_path / "out.jsonl"
    process = subprocess.Popen(
        command(root, clips, output, processes=2),
        cwd=root,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    begun = time.monotonic()
    while process.poll() is None and not any(path.stat().st_size for path in part_paths(output)):
        assert time.monotonic() - begun < 120
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(clips, output, root=root, processes=then)
    same(output, alone)
    assert part_paths(output) == []


def test_printing_by_several_processes_is_refused(root, clips):
    start = command(root, clips, "x.jsonl", processes=2)
    without = start[: start.index("-o")] + start[start.index("-o") + 2 :]
    done = subprocess.run(without, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "several processes need an output" in done.stderr
