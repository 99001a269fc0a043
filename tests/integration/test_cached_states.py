"""Heads trained on states kept on disk, from audio to report, beside heads trained with the encoder running."""

import json
import re

import pytest
from tiny_run import tiny_argv

import train


def losses(folder):
    """Training losses after each epoch."""
    log = (folder / "train_log.txt").read_text(encoding="utf-8")
    return [float(value) for value in re.findall(r"train loss: ([\d.e+-]+)", log)]


@pytest.fixture(scope="module")
def start(tone_corpus, tmp_path_factory):
    """A trained model to freeze."""
    folder = tmp_path_factory.mktemp("start")
    assert train.main(tiny_argv(tone_corpus, folder, n_epochs=1)) == 0
    return folder / "model"


def test_heads_learn_the_same_and_the_second_sitting_computes_no_states(start, tone_corpus, tmp_path, capfd):
    frozen = {"init_from": start, "freeze_encoder": True, "speeds": "[100]", "n_epochs": 2, "time_masks": 0}
    frozen |= {"freq_masks": 0}
    for name, cached in (("running", False), ("cached", True)):
        assert train.main(tiny_argv(tone_corpus, tmp_path / name, cache_states=cached, **frozen)) == 0
    running, cached = losses(tmp_path / "running"), losses(tmp_path / "cached")
    assert len(cached) == 2 and cached == pytest.approx(running, rel=0.02)  # bfloat16 rounds the states
    summaries = [
        json.loads((tmp_path / name / "report" / "summary.json").read_text()) for name in ("running", "cached")
    ]
    assert summaries[0]["sets"].keys() == summaries[1]["sets"].keys()
    states = tmp_path / "cached" / "states" / "states.bin"
    before = states.stat().st_mtime_ns
    capfd.readouterr()
    again = tiny_argv(tone_corpus, tmp_path / "cached", cache_states=True, **{**frozen, "n_epochs": 3})
    assert train.main(again) == 0
    assert states.stat().st_mtime_ns == before and len(losses(tmp_path / "cached")) == 3
