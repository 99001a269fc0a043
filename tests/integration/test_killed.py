"""A run killed at any point of preparation, training, testing and reporting ends as an uninterrupted one does."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_run import tiny_argv

import train
from eeasr_modules.exits.tables.files import read_table
from eeasr_modules.models.multi_exit import MultiExit

pytestmark = pytest.mark.slow
# where the run is when this file, or one that matches, appears
POINTS = {
    "preparing": "manifests/*.csv*",
    "writing the first checkpoint": "save/*/CKPT.yaml",
    "first checkpoint": "save/CKPT*",
    "weights saved": "model/model.safetensors*",
    "first table": "tables/*",
    "second table": "transcripts/*/*",
    "calibrated": "model/policy.json*",
    "reporting": "report/*",
}


@pytest.fixture(scope="module")
def whole(tone_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train.main(tiny_argv(tone_corpus, folder)) == 0
    return folder


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_started_again_it_ends_the_same(point, whole, tone_corpus, root, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "train.py", *tiny_argv(tone_corpus, folder)]
    process = subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    begun = time.monotonic()
    while process.poll() is None and not any(folder.glob(POINTS[point])):
        assert time.monotonic() - begun < 120
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert train.main(tiny_argv(tone_corpus, folder)) == 0
    weights, same = (MultiExit.load(one / "model").state_dict() for one in (folder, whole))
    assert all(value.equal(same[name]) for name, value in weights.items())
    for path in (whole / "tables").iterdir():
        one, two = read_table(path), read_table(folder / "tables" / path.name)
        assert (one.hypotheses == two.hypotheses).all() and (one.signal("entropy") == two.signal("entropy")).all()
    summaries = [json.loads((one / "report" / "summary.json").read_text())["sets"] for one in (folder, whole)]
    assert summaries[0].keys() == summaries[1].keys()
    for name, one in summaries[0].items():
        assert one["wer_per_exit"] == summaries[1][name]["wer_per_exit"]
    assert not list(folder.rglob("*.tmp"))
