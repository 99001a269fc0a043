"""`benchmarks/regimes.py` from training to a table: one after the other and side by side, and what fails alone."""

import json
import subprocess
import sys

import pytest

TINY = ["n_layers=2", "exit_layers=[1, 2]", "dim=16", "n_heads=2", "ffn_dim=32", "kernel_size=7", "n_mels=20"]
TINY += ["batch_seconds=12", "average_checkpoints=1"]


def compared(root, tone_corpus, output, *more):
    command = [sys.executable, root / "benchmarks" / "regimes.py", "--data_folder", tone_corpus, "--output", output]
    command += ["--epochs", "1", "--set", *TINY, *more]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_side_by_side_gives_what_one_after_the_other_gives(root, tone_corpus, tmp_path):
    asked = ["--only", "joint; heads_only; shared projection"]
    one = compared(root, tone_corpus, tmp_path / "one", *asked)
    two = compared(root, tone_corpus, tmp_path / "two", *asked, "--jobs", "2")
    assert (one.returncode, two.returncode) == (0, 0), (one.stderr, two.stderr)
    found, expected = (json.loads((tmp_path / name / "regimes.json").read_text()) for name in ("two", "one"))
    assert list(found) == list(expected) == ["last_only", "joint", "heads_only", "shared projection"]
    for name, result in found.items():
        assert result["wer_per_exit"] == expected[name]["wer_per_exit"]
    assert "| shared projection |" in two.stdout and "heads_only is done" in two.stderr
    assert "Going into epoch 1" in (tmp_path / "two" / "joint.log").read_text()


@pytest.mark.slow
def test_what_fails_side_by_side_loses_nothing_of_the_others(root, tone_corpus, tmp_path):
    folder = tmp_path / "out" / "layerdrop"  # a run of another shape is there
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"exit_layers": [2]}')
    done = compared(root, tone_corpus, tmp_path / "out", "--only", "joint; layerdrop", "--jobs", "2")
    assert done.returncode == 2
    assert "regimes.py: error: layerdrop: " in done.stderr and "holds a run with exit_layers [2]" in done.stderr
    assert list(json.loads((tmp_path / "out" / "regimes.json").read_text())) == ["joint"]


def test_a_device_that_is_not_there_is_one_sentence(root, tone_corpus, tmp_path):
    done = compared(root, tone_corpus, tmp_path / "out", "device=cuda:99", "--only", "joint")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "regimes.py: error: joint: device must be one that torch can use here" in done.stderr
