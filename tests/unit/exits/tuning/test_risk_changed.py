"""A promise without labels: what is counted, what follows for the WER, that no label is read, and that it is kept."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from eeasr_modules.exits import parse_policy
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.risk import certify, control_risk, risk_outcome
from eeasr_modules.exits.tuning.risk_losses import RiskTarget, against_last, parse_risk, target_of

SHARE, WORDS, CHANGED = 0.3, 20, 6  # utterances whose first exit differs, in so many of so many words


def table_of(hypotheses, references, **more):
    n, n_exits = len(hypotheses), len(hypotheses[0])
    return ExitTable.from_hypotheses(
        hypotheses,
        references,
        utt_ids=[f"u{i}" for i in range(n)],
        exit_layers=list(range(1, n_exits + 1)),
        duration_s=np.full(n, 4.0),
        n_frames=np.full(n, 100),
        **more,
    )


def recordings(n_speakers=40, per_speaker=10, *, seed=0, label=None):
    """Above an entropy of 0.7 the first exit changes 6 of 20 words."""
    rng, n = np.random.default_rng(seed), n_speakers * per_speaker
    entropy = np.column_stack([rng.uniform(0, 1, n), np.zeros(n)])
    last = " ".join("ABCDEFGHIJKLMNOPQRST")
    texts = [[last if one < 1 - SHARE else last[: -2 * CHANGED] + " X" * CHANGED, last] for one in entropy[:, 0]]
    speakers = [f"s{i % n_speakers}" for i in range(n)]
    references = [last if label is None else label] * n
    return table_of(texts, references, speakers=speakers, signals={"entropy": entropy}, metadata={"n_layers": 2})


@pytest.mark.parametrize("seed", range(20))
def test_wer_rises_by_at_most_what_is_changed_per_reference_word(seed):
    rng = np.random.default_rng(seed)

    def text():
        return " ".join(rng.choice(list("abcd"), size=rng.integers(0, 9)))

    table = table_of([[text() for _ in range(3)] for _ in range(30)], [f"a {text()}" for _ in range(30)])
    changed = against_last(table)
    exits = rng.integers(0, 3, size=30)
    errors, edits = (one.errors[np.arange(30), exits] for one in (table, changed))
    assert (errors - table.errors[:, -1] <= edits).all() and edits.sum() > 0
    rise = (errors.sum() - table.errors[:, -1].sum()) / table.n_ref_words.sum()
    per_last_word = edits.sum() / changed.n_ref_words.sum()
    assert rise <= per_last_word * changed.n_ref_words.sum() / table.n_ref_words.sum() + 1e-12
    assert (changed.errors[:, -1] == 0).all()


def test_no_label_is_read_and_signals_of_words_stay():
    target, policy = RiskTarget(2.0, loss="changed"), parse_policy("entropy")
    found = [control_risk(recordings(label=label), policy, target=target) for label in (None, "what was said here")]
    assert found[0].certified and found[0].dev_saved > 0.3
    assert found[0].policy == found[1].policy and found[0].p_value == found[1].p_value
    lists = np.empty((2, 2), dtype=object)
    for place in np.ndindex(2, 2):
        lists[place] = np.zeros(20)
    assert "word_entropy" in against_last(replace(recordings(2, 1), word_lists={"word_entropy": lists})).word_lists


def test_the_promise_is_kept_over_draws_of_speakers_up_to_chance():
    target, n_draws, violated = RiskTarget(2.0, delta=0.2, loss="changed", clip=30.0), 60, 0
    for seed in range(n_draws):
        policy = control_risk(recordings(seed=seed), parse_policy("entropy"), target=target, n_thresholds=60).policy
        threshold = getattr(policy, "threshold", 0.0)
        violated += 100 * CHANGED / WORDS * max(0.0, min(threshold, 1.0) - (1 - SHARE)) > 2.0
    assert violated <= binom.ppf(0.999, n_draws, target.delta)


def test_what_leaves_too_much_changed_is_refused_and_an_outcome_says_per_cent():
    target = RiskTarget(2.0, loss="changed")
    table = recordings(label="what was said")
    everyone = risk_outcome(parse_policy("static(1)"), table, target=target)
    share = (table.signals["entropy"][:, 0] >= 1 - SHARE).mean()
    assert everyone.excess == pytest.approx(100 * share * CHANGED / WORDS) and everyone.violated
    assert everyone.wer == pytest.approx(table.wer_per_exit[0])  # by the labels, where there are any
    few = certify(recordings(3, 4), parse_policy("entropy"), target=replace(target, eps=0.1))
    assert str(few.policy) == "static(2)" and "0.1 % of the last exit's words changed" in few.rule


def test_the_certificate_says_what_was_read():
    found = certify(recordings(), parse_policy("entropy"), target=target_of({"changed": 2, "delta": 0.1})).promise
    assert found["certified"] and found["loss"] == "changed"
    assert "at most 2 % of the last exit's words changed" in found["statement"]
    assert any("no label was read" in one for one in found["assumptions"])


def test_both_forms_name_the_same_target():
    assert target_of({"excess": 0.5, "delta": 0.1}) == target_of([0.5, 0.1]) == parse_risk("excess=0.5,delta=0.1")
    assert parse_risk("changed=2,delta=0.2,clip=9") == RiskTarget(2, 0.2, clip=9, loss="changed")
    assert target_of({"changed": 2}) == RiskTarget(2, 0.1, loss="changed")


@pytest.mark.parametrize("given", [{}, {"changed": 2, "excess": 1}, {"changed": 2, "alpha": 0.1}, {"changed": "a"}])
def test_other_names_are_refused(given):
    with pytest.raises(
        ValueError, match=r"must be one of excess .* and changed .*, such as \{changed: 2, delta: 0.1\}"
    ):
        target_of(given)


def test_disagreement_with_an_inner_exit_is_not_offered():
    with pytest.raises(ValueError, match="loss must be excess, or changed with the last exit as reference"):
        RiskTarget(2.0, loss="changed", reference=4)
