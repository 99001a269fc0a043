"""The watch on the risk while transcribing: audits count what the table says, words stay, an alarm and what follows."""

import json
import logging
import pickle
import shutil
from dataclasses import replace

import pytest

from eeasr_modules.cli import main
from eeasr_modules.exits import read_policies, write_policies
from eeasr_modules.exits.tuning.replay import decide
from eeasr_modules.exits.tuning.risk_losses import against_last
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.runtime.drift_watch import Audit


@pytest.fixture(scope="module")
def promising_folder(model_folder, tmp_path_factory):
    """The model, with a certificate of changed words beside its policies."""
    folder = tmp_path_factory.mktemp("promising") / "model"
    shutil.copytree(model_folder, folder)
    promise = {"certified": True, "loss": "changed", "eps": 1.5}
    entries = [replace(one, promise=promise) for one in read_policies(folder / "policy.json")]
    write_policies(folder / "policy.json", entries)
    return folder


def changed(table, policy):
    """Words that leaving changes, and those of the last exit, over a table's utterances."""
    compared = against_last(table)
    at = decide(policy, table).emitted
    return sum(compared.errors[i, at[i]] for i in range(table.n_utterances)), compared.n_ref_words.sum()


def test_audits_of_everybody_count_what_the_table_says_and_words_stay(promising_folder, wavs, table):
    heard = [wav.numpy() for wav in wavs]
    asr = EarlyExitASR.from_pretrained(promising_folder, seed=11, audit=Audit(1.0))
    found, plain = (
        asr.transcribe(heard),
        EarlyExitASR.from_pretrained(promising_folder, seed=11).transcribe(heard),
    )
    assert (asr.risk.watch.n_errors, asr.risk.watch.n_words) == changed(table, asr.policy) and asr.risk.watch.n_errors
    assert asr.risk.watch.limit == 1.5
    assert [one.text for one in found] == [one.text for one in plain]
    assert all(one.risk is not None for one in found) and all(one.risk is None for one in plain)


def test_about_the_share_is_audited_and_a_pickled_watch_goes_on(promising_folder, wavs):
    asr = EarlyExitASR.from_pretrained(promising_folder, audit=Audit(0.25, limit=50.0))
    asr.transcribe([wavs[0].numpy()[:4000]] * 200)
    assert 30 <= asr.risk.watch.n_seen <= 70  # 200 draws at 0.25, six standard deviations around 50
    again = pickle.loads(pickle.dumps(asr))
    again.transcribe([wavs[0].numpy()[:4000]] * 40)
    assert again.risk.watch.n_seen > asr.risk.watch.n_seen


def test_full_depth_after_too_many_changed_words(promising_folder, wavs, table, caplog):
    heard = [wav.numpy() for wav in wavs]
    errors, words = changed(table, EarlyExitASR.from_pretrained(promising_folder).policy)
    allowed = 100 * errors / words / 10  # a tenth of what leaving changes here
    asr = EarlyExitASR.from_pretrained(
        promising_folder, audit=Audit(1.0, limit=allowed, alpha=0.2, on_alarm="full_depth")
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            found = asr.transcribe(heard)
    assert asr.risk.alarm and all(one.exit_layer == 5 and one.policy == "static(5)" and one.risk for one in found)
    assert sum("risk: after" in record.message for record in caplog.records) == 1
    n_seen = asr.risk.watch.n_seen
    asr.transcribe(heard)
    assert asr.risk.watch.n_seen == n_seen  # who runs to the end needs no audit


def test_without_a_promise_the_limit_must_be_given(model_folder):
    with pytest.raises(ValueError, match="promises nothing of that under"):
        EarlyExitASR.from_pretrained(model_folder, audit=Audit(0.1))
    assert EarlyExitASR.from_pretrained(model_folder, audit=Audit(0.1, limit=2.0)).risk.watch.limit == 2.0
    for given in ({"share": 0}, {"share": 1.5}, {"on_alarm": "stop"}):
        with pytest.raises(ValueError, match="must be"):
            Audit(**given)


def test_the_command_line_audits(promising_folder, audio_folder, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    told = ["transcribe", str(promising_folder), str(audio_folder), "-o", str(out), "--quiet", "--on-risk", "warn"]
    main([*told, "--audit-share", "1", "--risk-limit", "90"])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines and all(line["risk"] is False for line in lines if not line["error"])
    assert main([*told, "--audit-share", "0"]) == 2 and "share must be above 0" in capsys.readouterr().err
