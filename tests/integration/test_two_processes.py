"""Two processes on CPU: one prepares, both train, one tests and reports."""

import os
import subprocess
import sys

import pytest
from tiny_run import tiny_argv


@pytest.mark.slow
def test_two_processes_train_and_one_of_them_reports(root, tone_corpus, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "train.py"]
    command += [*tiny_argv(tone_corpus, tmp_path / "run"), "--distributed_backend", "gloo"]
    command += ["--find_unused_parameters"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "report" / "summary.json").is_file()
    assert done.stdout.count("Report:") == 1
