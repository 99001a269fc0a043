"""`words: fused` in a run: what is fitted, kept and certified on which speakers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sentences import sentence_table, unsettled_table

from eeasr_modules.exits import read_policies, replay
from eeasr_modules.exits.measure.fusion import fuse, read_fusion
from eeasr_modules.exits.tables.table import speaker_folds
from eeasr_modules.training import run as training_run


def calibrated(folder, dev, monkeypatch, **config):
    keys = {
        "exit_budget": 0.75,
        "exit_excess": None,
        "exit_risk": None,
        "exit_policy": "entropy",
        "compare_policies": "random",
    }
    keys |= {"words": "fused", "values": {}, "exit_layers": [2, 4, 6, 8], **config}
    monkeypatch.setattr(training_run, "model_digest", lambda _: "m")
    run = SimpleNamespace(config=SimpleNamespace(**keys), folder=folder)
    return training_run.calibrate(run, replace(dev, metadata={**dev.metadata, "model_digest": "m"}))


@pytest.fixture(scope="module")
def dev():
    return unsettled_table(0, 400, n_speakers=80)


def test_without_a_promise_all_of_dev_fits_and_thresholds_are_those_of_the_exits_words(tmp_path, dev, monkeypatch):
    found, fusion = calibrated(tmp_path, dev, monkeypatch)
    assert fusion.fitted_on["n_utterances"] == 400 and (tmp_path / "model" / "fusion.json").is_file()
    alone, none = calibrated(tmp_path / "alone", dev, monkeypatch, words="exit")
    assert none is None and [str(one.policy) for one in found] == [str(one.policy) for one in alone]


def test_an_excess_takes_the_place_of_the_budget(tmp_path, dev, monkeypatch):
    found, _ = calibrated(tmp_path, dev, monkeypatch, words="exit", exit_excess=3.0)
    assert [one.rule for one in found] == ["exit_excess 3"] * 2
    assert all(one.dev_wer <= dev.wer_per_exit[-1] + 3.0 for one in found)
    assert [one.rule for one in read_policies(tmp_path / "model" / "policy.json")] == ["exit_excess 3"] * 2


def test_the_promise_is_of_fused_words_of_speakers_that_fitted_nothing(tmp_path, dev, monkeypatch):
    found, fusion = calibrated(tmp_path, dev, monkeypatch, exit_risk=[6.0, 0.2])
    promise, half = found[0].promise, speaker_folds(dev, 2)
    other = dev.select(half == 1)
    assert fusion.fitted_on["n_utterances"] == (half == 0).sum() and promise["n_blocks"] == len(set(other.speakers))
    assert promise["certified"] and promise["words"] == "fused"
    kept = read_fusion(tmp_path / "model", digest=promise["fusion"])
    heard = other.with_hypotheses(fuse(other, kept).tolist()).errors
    chosen = replay(found[0].policy, other)
    assert (chosen < 3).mean() > 0
    excess = heard[np.arange(len(chosen)), chosen].sum() - other.errors[:, -1].sum()
    assert promise["dev_excess"] == pytest.approx(100 * excess / other.n_ref_words.sum())
    assert read_policies(tmp_path / "model" / "policy.json")[0].promise == promise


def test_where_fusion_wins_nothing_words_and_promise_are_those_of_the_exits(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    found, fusion = calibrated(tmp_path, sentence_table(0, n=200), monkeypatch, exit_risk=[6.0, 0.2])
    assert fusion is None and "words" not in found[0].promise
    assert not (tmp_path / "model" / "fusion.json").exists() and "win nothing for sure" in caplog.text
