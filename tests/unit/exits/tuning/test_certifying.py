"""A promise from one dev table: what is certified holds on the half that certifies; the last exit otherwise."""

import json
from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits import parse_policy, read_policies, replay, write_policies
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds
from eeasr_modules.exits.tuning.risk import certify, control_risk
from eeasr_modules.exits.tuning.risk_losses import RiskTarget
from eeasr_modules.exits.tuning.risk_terms import certificate_lines


def make_table(n_speakers=40, per_speaker=20, *, seed=0):
    """Utterances of 20 words; an inner exit is as good as the last one exactly where its entropy is low."""
    rng = np.random.default_rng(seed)
    n = n_speakers * per_speaker
    entropy = np.column_stack([rng.uniform(0, 1, n), np.zeros(n)])
    reference = " ".join("ABCDEFGHIJKLMNOPQRST")
    worse = " ".join("ABCDEFGHIJKLMNXXXXXX")
    hypotheses = np.array([[reference if low else worse, reference] for low in entropy[:, 0] < 0.4], dtype=object)
    return ExitTable.from_hypotheses(
        hypotheses,
        [reference] * n,
        utt_ids=[f"u{i}" for i in range(n)],
        speakers=[f"s{i % n_speakers}" for i in range(n)],
        exit_layers=[1, 2],
        duration_s=np.full(n, 4.0),
        n_frames=np.full(n, 100),
        signals={"entropy": entropy},
        metadata={"set_name": "dev", "n_layers": 2},
    )


@pytest.mark.parametrize("text", ["entropy", "between(entropy)"])
def test_a_promise_that_can_be_kept_saves_layers_and_is_kept(text):
    found = certify(make_table(), parse_policy(text), target=RiskTarget(2.0, 0.1))
    assert found.rule == "exit_risk 2, 0.1"
    fresh = make_table(seed=1)
    chosen = replay(found.policy, fresh)
    excess = fresh.errors[np.arange(len(chosen)), chosen].sum() - fresh.errors[:, -1].sum()
    assert 100 * excess / fresh.n_ref_words.sum() <= 2.0
    assert (chosen == 0).mean() > 0.25


@pytest.mark.parametrize("options", [{}, {"loss": "changed"}, {"per_exit": True}])
def test_what_is_certified_are_the_words_that_come_out(options):
    table, target, policy = make_table(), RiskTarget(2.0, 0.1, **options), parse_policy("entropy")
    right, worse = table.hypotheses[0, -1], "X" * 19 + " X"

    def certified(first, last):
        texts = np.array([[first, last]] * table.n_utterances, dtype=object)
        return certify(table.with_emitted(texts), policy, target=target)

    own, mended = certify(table, policy, target=target), certified(right, right)
    assert mended.promise["certified"] and mended.promise["statement"].endswith("against the last exit's own")
    assert mended.dev_cost == 1.0 < own.dev_cost < 2.0  # everybody leaves at the first exit
    spoilt_first, spoilt_last = certified(worse, right), certified(right, worse)
    assert spoilt_first.dev_cost > 1.99
    # the costliest is tested first, and full depth is no refuge for words that are not the last exit's
    assert not spoilt_last.promise["certified"]


def test_a_promise_that_cannot_be_tested_takes_the_last_exit_and_says_why():
    found = certify(make_table(3, 2), parse_policy("entropy"), target=RiskTarget(0.1, 0.05))
    assert str(found.policy) == "static(2)" and found.rule.startswith("exit_risk 0.1, 0.05: not certified, ")


def test_who_makes_the_windows_does_not_certify(monkeypatch):
    seen = {}

    def spy(dev_table, open_policy, *, source_table, **given):
        seen.update(certifying=set(dev_table.speakers), making=set(source_table.speakers))
        return control_risk(dev_table, open_policy, source_table=source_table, **given)

    monkeypatch.setattr("eeasr_modules.exits.tuning.risk.control_risk", spy)
    certify(make_table(), parse_policy("between(entropy)"), target=RiskTarget(2.0, 0.1))
    assert not seen["certifying"] & seen["making"]
    assert seen["certifying"] | seen["making"] == set(make_table().speakers)


@pytest.mark.parametrize("good_half", [0, 1])
def test_a_half_on_which_leaving_is_free_does_not_certify_for_the_other(good_half):
    """Speakers of one half lose nothing at the inner exit, the others a third of their words whatever the entropy."""
    table = make_table()
    harmed = speaker_folds(table, 2) != good_half
    errors = np.where(harmed[:, None] & (np.arange(2) == 0), 7, 0)
    table = replace(table, n_sub=errors, n_del=0 * errors, n_ins=0 * errors)
    found = certify(table, parse_policy("between(entropy)"), target=RiskTarget(2.0, 0.1))
    assert found.promise["certified"] == (good_half == 1)  # the second half is the one that certifies


def test_the_promise_goes_to_the_policy_file_and_comes_back_and_old_files_still_load(tmp_path):
    found = certify(make_table(), parse_policy("entropy"), target=RiskTarget(2.0, 0.1))
    path = tmp_path / "policy.json"
    write_policies(path, [found])
    kept = read_policies(path)[0].promise
    assert kept == found.promise and kept["certified"]
    assert (kept["eps"], kept["delta"], kept["clip"], kept["n_blocks"]) == (2.0, 0.1, 8.0, 40)
    assert "exchangeable" in kept["assumptions"][0] and "clip of 8 points" in kept["assumptions"][1]
    content = json.loads(path.read_text("utf-8"))
    del content["policies"][0]["promise"]
    path.write_text(json.dumps(content), "utf-8")
    assert read_policies(path)[0].promise is None


def test_lines_to_print_name_the_assumptions_or_the_speakers_needed():
    given = certify(make_table(), parse_policy("entropy"), target=RiskTarget(2.0, 0.1)).promise
    lines = certificate_lines(given, delta=0.1)
    assert lines[0] == given["statement"] and sum(line.startswith("assumed: ") for line in lines) == 4
    refused = certify(make_table(3, 2), parse_policy("entropy"), target=RiskTarget(0.1, 0.05)).promise
    lines = certificate_lines(refused, delta=0.05)
    assert "no certificate can be issued" in lines[0] and lines[2].startswith("| speakers needed |")


def test_a_policy_with_a_threshold_is_refused():
    with pytest.raises(ValueError, match=r"exit_risk chooses a threshold, but entropy\(0.1\) has one"):
        certify(make_table(), parse_policy("entropy(0.1)"), target=RiskTarget(1.0, 0.1))
