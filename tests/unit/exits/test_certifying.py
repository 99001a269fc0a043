"""A promise from one dev table: what is certified holds on the half that certifies; the last exit otherwise."""

import numpy as np
import pytest

from eeasr_modules.exits import parse_policy, replay
from eeasr_modules.exits.certifying import certify
from eeasr_modules.exits.risk_losses import RiskTarget
from eeasr_modules.exits.table import ExitTable


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


def test_a_promise_that_cannot_be_tested_takes_the_last_exit_and_says_why():
    found = certify(make_table(3, 2), parse_policy("entropy"), target=RiskTarget(0.1, 0.05))
    assert str(found.policy) == "static(2)" and found.rule.startswith("exit_risk 0.1, 0.05: not certified, ")


def test_a_policy_with_a_threshold_is_refused():
    with pytest.raises(ValueError, match=r"exit_risk chooses a threshold, but entropy\(0.1\) has one"):
        certify(make_table(), parse_policy("entropy(0.1)"), target=RiskTarget(1.0, 0.1))
