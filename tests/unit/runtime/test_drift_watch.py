"""The drift watch while transcribing: the scores of calibration, an alarm and what follows, who cannot be watched."""

import json
import logging
import pickle
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.cli import main
from eeasr_modules.exits import read_policies, write_policies
from eeasr_modules.exits.tuning import watches
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.runtime.sources import Source


@pytest.fixture(scope="module")
def watched_folder(model_folder, table, tmp_path_factory):
    """The model, with the drift scores of its calibration table beside its policies."""
    folder = tmp_path_factory.mktemp("watched") / "model"
    shutil.copytree(model_folder, folder)
    entries = read_policies(folder / "policy.json")
    watched = [replace(one, drift=watches.drift_reference(table, one.policy)) for one in entries]
    write_policies(folder / "policy.json", watched)
    return folder


def strange(wavs, n):
    """Silence: blank everywhere in any model that was trained, something else here, but always the same."""
    return [np.zeros(len(wavs[0]), dtype=np.float32) for _ in range(n)]


def test_references_survive_the_file_and_old_files_have_none(watched_folder, model_folder, table):
    written = read_policies(watched_folder / "policy.json")[0]
    assert written.drift.signal == "blank_rate"
    np.testing.assert_allclose(
        written.drift.scores, watches.drift_scores(table, written.policy, signal="blank_rate"), atol=1e-6
    )
    content = json.loads((model_folder / "policy.json").read_text())
    for entry in content["policies"]:
        entry.pop("drift", None)
    old = watched_folder.parent / "old.json"
    old.write_text(json.dumps(content))
    assert all(one.drift is None for one in read_policies(old))


def test_live_scores_are_those_of_the_table(watched_folder, wavs, table):
    asr = EarlyExitASR.from_pretrained(watched_folder, seed=11)
    found = asr.transcribe([wav.numpy() for wav in wavs])
    layers = list(asr.source.exit_layers)
    live = [watches.drift_score(layers.index(one.exit_layer), one.blank_rates[0]) for one in found]
    np.testing.assert_allclose(live, watches.drift_scores(table, asr.policy, signal="blank_rate"), atol=1e-6)
    assert all(one.drift is None for one in found)


def test_an_alarm_is_told_once_and_decisions_stay(watched_folder, wavs, caplog):
    asr = EarlyExitASR.from_pretrained(watched_folder, on_drift="warn", drift_alpha=0.5)
    with caplog.at_level(logging.WARNING):
        first = asr.transcribe(strange(wavs, 1))[0]
        asr.transcribe(strange(wavs, 300))
        last = asr.transcribe(strange(wavs, 1))[0]
    assert asr.drift.alarm and last.drift and not first.drift
    assert sum("drift" in record.message for record in caplog.records) == 1
    assert (last.policy, last.exit_layer, last.text) == (first.policy, first.exit_layer, first.text)


def test_full_depth_after_the_alarm(watched_folder, wavs):
    asr = EarlyExitASR.from_pretrained(watched_folder, policy="entropy", on_drift="full_depth", drift_alpha=0.5)
    heard = asr.transcribe(strange(wavs, 200))  # recognised in one go: decided before the alarm
    assert asr.drift.alarm and all(one.policy == heard[0].policy != "static(5)" for one in heard)
    after = asr.transcribe([wav.numpy() for wav in wavs])
    assert all(one.exit_layer == 5 and one.policy == "static(5)" and one.drift for one in after)
    full = EarlyExitASR.from_pretrained(watched_folder, policy="static(5)").transcribe([wav.numpy() for wav in wavs])
    assert [one.text for one in after] == [one.text for one in full]


def test_policies_without_scores_cannot_be_watched(watched_folder):
    for choice in ({"policy": "entropy(0.123)"}, {"policy": "static(5)"}):
        with pytest.raises(ValueError, match="on_drift needs what calibration saw under"):
            EarlyExitASR.from_pretrained(watched_folder, on_drift="warn", **choice)
    with pytest.raises(ValueError, match="on_drift must be one of off, warn, full_depth, got 'stop'"):
        EarlyExitASR.from_pretrained(watched_folder, on_drift="stop")


def test_a_pickled_watch_goes_on(watched_folder, wavs):
    asr = EarlyExitASR.from_pretrained(watched_folder, on_drift="warn")
    asr.transcribe(strange(wavs, 3))
    again = pickle.loads(pickle.dumps(asr))
    again.transcribe(strange(wavs, 2))
    assert (asr.drift.watch.n_seen, again.drift.watch.n_seen) == (3, 5)


def test_threads_load_the_model_once_and_agree(watched_folder, wavs, monkeypatch):
    loaded, load = [], Source.load
    monkeypatch.setattr(Source, "load", lambda self, device: loaded.append(1) or load(self, device))
    asr = EarlyExitASR.from_pretrained(watched_folder, on_drift="warn")
    given = [[wav.numpy() for wav in wavs[k % 3 :]] for k in range(6)]  # each batch is padded to another length
    found = [None] * len(given)

    def transcribe(k):
        for _ in range(3):
            found[k] = [one.text for one in asr.transcribe(given[k])]

    threads = [threading.Thread(target=transcribe, args=(k,)) for k in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1
    assert asr.drift.watch.n_seen == 3 * sum(map(len, given))
    assert found == [[one.text for one in asr.transcribe(wavs)] for wavs in given]


def test_the_command_line_watches(watched_folder, audio_folder, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    main(["transcribe", str(watched_folder), str(audio_folder), "-o", str(out), "--on-drift", "full_depth", "--quiet"])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines and all(
        line["drift"] is False and len(line["blank_rates"]) == 1 for line in lines if not line["error"]
    )
    argv = ["transcribe", str(watched_folder), str(audio_folder), "--policy", "entropy(0.123)", "--on-drift", "warn"]
    assert main(argv) == 2 and "on_drift needs what calibration saw" in capsys.readouterr().err
