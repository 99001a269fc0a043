"""Two processes on CPU: one prepares, both train, one tests and reports."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny_run import tiny_argv

from eeasr_modules.exits.tables.files import read_table


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"regime": "alternating", "accumulate_batches": 2, "batch_seconds": 6.0, "self_condition": True}, []),
        ({"distill": "best", "distill_transcript_share": 0.5, "downsample": "convolution"}, []),
        ({"regime": "two_step", "layerdrop": 0.5}, ["--find_unused_parameters"]),
        ({"self_condition": True, "distill": "self", "confidence_weighted": True}, ["--precision", "bf16"]),
    ],
    ids=["alternating", "distilled", "two_step", "bf16"],
)
def test_under_every_regime_both_processes_have_the_same_weights(root, tone_corpus, tmp_path, changes, options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "train.py"]
    changes = {"brain": "same_weights.SameWeights", "shifts": "[]", "compare_policies": "random", **changes}
    command += [*tiny_argv(tone_corpus, tmp_path / "run", **changes), "--distributed_backend", "gloo", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root / "tests")}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("weights of 2 processes are the same") == 2  # epochs


@pytest.mark.slow
def test_two_processes_test_by_shares_and_their_table_is_that_of_one(root, tone_corpus, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = tiny_argv(tone_corpus, tmp_path / "alone")
    done = subprocess.run(
        [sys.executable, "train.py", *alone], cwd=root, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.copytree(tmp_path / "alone", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "tables")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "train.py"]
    command += [*tiny_argv(tone_corpus, tmp_path / "two"), "--distributed_backend", "gloo", "--test_only"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    names = sorted(path.name for path in (tmp_path / "alone" / "tables").iterdir())
    assert sorted(path.name for path in (tmp_path / "two" / "tables").iterdir()) == names  # no parts left
    for name in names:
        one, two = (read_table(tmp_path / run / "tables" / name) for run in ("alone", "two"))
        assert one.utt_ids.tolist() == two.utt_ids.tolist() and (one.hypotheses == two.hypotheses).all()
        assert (one.errors == two.errors).all() and "share" not in two.metadata
        for signal in one.signals:
            np.testing.assert_allclose(one.signal(signal), two.signal(signal), rtol=1e-4, atol=1e-5)
