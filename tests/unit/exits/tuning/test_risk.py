import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tables.files import read_exit_traces
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.replay import choice_point, replay
from eeasr_modules.exits.tuning.risk import control_risk, risk_outcome
from eeasr_modules.exits.tuning.risk_losses import (
    P_VALUES,
    RiskTarget,
    excess_errors,
    parse_risk,
    reference_errors,
    scaled_losses,
)
from eeasr_modules.exits.tuning.risk_terms import smallest_eps


def speech(n_speakers, *, seed, harm=0.25, n_each=(8, 30), first_speaker=0):
    """A table of made-up speech: leaving at the inner exit adds an error with a chance that falls with the signal.

    An utterance with entropy h, uniform on 0 to 1, has one error more at the inner exit with probability harm * h
    times its speaker's habit (0 to 2, mean 1), and one less with probability 0.02: the excess of leaving at h <= t
    is known.
    """
    rng = np.random.default_rng(seed)
    size = rng.integers(*n_each, n_speakers)
    habit = np.repeat(rng.beta(1, 1, n_speakers) * 2, size)
    n = int(size.sum())
    entropy, words = rng.uniform(size=n).round(3), rng.integers(5, 25, n)
    more = rng.random(n) < harm * entropy * habit
    less = rng.random(n) < 0.02
    errors = np.stack([1 + more - less, np.ones(n)], axis=1).astype(int)
    return ExitTable(
        utt_ids=np.array([f"u{seed}-{i}" for i in range(n)]),
        speakers=np.repeat([f"s{first_speaker + i}" for i in range(n_speakers)], size),
        exit_layers=np.array([4, 8]),
        hypotheses=np.full((n, 2), "w", dtype=object),
        n_ref_words=words,
        n_sub=errors,
        n_del=0 * errors,
        n_ins=0 * errors,
        n_ref_chars=words * 5,
        n_char_errors=errors,
        duration_s=np.ones(n),
        n_frames=np.full(n, 50),
        cost_layers=np.ones((n, 1)) * np.array([4.0, 8.0]),
        signals={"entropy": np.stack([entropy, 0 * entropy], axis=1)},
        metadata={"set_name": f"made-up-{seed}", "n_layers": 8},
    )


def true_excess(threshold, *, harm=0.25):
    """WER points above the last exit of `entropy(threshold)` on `speech`, for ever more of it."""
    t = float(np.clip(threshold, 0, 1))
    return 100 * (harm * t**2 / 2 - 0.02 * t) / 14.5  # words: 5 to 24


def most_violations(n_draws, delta):
    """Violations that a promise of delta stays within with probability 0.99."""
    return binom.ppf(0.99, n_draws, delta)


def violations(target, *, n_speakers, n_draws, **arguments):
    """How many certificates on fresh speech are false, and how many there are at all."""
    false = given = 0
    for seed in range(n_draws):
        table = speech(n_speakers, seed=seed)
        controlled = control_risk(table, parse_policy("entropy"), target=target, n_thresholds=60, **arguments)
        given += controlled.certified
        false += controlled.certified and true_excess(controlled.policy.threshold) > target.eps
    return false, given


@pytest.mark.parametrize("method", P_VALUES)
def test_promises_are_kept_on_fresh_speakers(method):
    n_draws, target = 60, RiskTarget(0.3, delta=0.2, p_value=method, clip=2.0)
    false, given = violations(target, n_speakers=40, n_draws=n_draws)
    assert false <= most_violations(n_draws, target.delta)
    assert given >= 0.9 * n_draws  # or the test would show nothing


@pytest.mark.slow
@pytest.mark.parametrize("n_speakers", [10, 30, 150])
@pytest.mark.parametrize("method", P_VALUES)
def test_promises_are_kept_over_500_draws(method, n_speakers):
    n_draws, target = 500, RiskTarget(0.3, delta=0.1, p_value=method)
    false, given = violations(target, n_speakers=n_speakers, n_draws=n_draws)
    assert false <= most_violations(n_draws, target.delta)
    assert given > 0.5 * n_draws or n_speakers == 10


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("method", P_VALUES)
@pytest.mark.parametrize("split", ["clean", "other"])
def test_promises_are_kept_over_500_speaker_splits_of_real_traces(shared_data, split, method):
    table = read_exit_traces(shared_data / "exit-traces", split)
    policy, target = parse_policy("between(8, 12, entropy)"), RiskTarget(0.5, p_value=method)
    speakers, rng, false, whole = np.unique(table.speakers), np.random.default_rng(0), 0, {}
    for _ in range(500):
        half = table.select(np.isin(table.speakers, rng.permutation(speakers)[: len(speakers) // 2]))
        chosen = control_risk(half, policy, target=target, n_thresholds=40).policy
        if chosen not in whole:
            whole[chosen] = risk_outcome(chosen, table, target=target).violated
        false += whole[chosen]
    assert false <= most_violations(500, target.delta)


@pytest.mark.slow
def test_few_labelled_utterances_of_a_new_domain_certify_with_what_another_taught():
    source, target = speech(60, seed=1000, harm=0.15), RiskTarget(1.0, blocks="utterances")
    false, saved = 0, []
    for seed in range(300):
        table = speech(60, seed=seed, n_each=(5, 6)).select(np.arange(0, 300, 6))  # 50 utterances, 50 speakers
        controlled = control_risk(table, parse_policy("entropy"), target=target, source_table=source, n_thresholds=60)
        false += controlled.certified and true_excess(controlled.policy.threshold) > target.eps
        saved.append(controlled.dev_saved)
    assert false <= most_violations(300, target.delta)
    assert np.mean(saved) > 0.15


def test_betting_saves_more_than_the_bounds_that_fix_a_range_on_both_sides():
    saved = {}
    for method in ("betting", "hoeffding_bentkus", "empirical_bernstein"):
        target = RiskTarget(0.4, p_value=method)
        tables = [speech(25, seed=seed) for seed in range(12)]
        found = [control_risk(table, parse_policy("entropy"), target=target, n_thresholds=60) for table in tables]
        saved[method] = np.mean([one.dev_saved for one in found])
    assert saved["betting"] > 1.2 * saved["hoeffding_bentkus"]
    assert saved["betting"] > 1.2 * saved["empirical_bernstein"]


def test_the_certificate_says_what_it_rests_on():
    table = speech(30, seed=0)
    controlled = control_risk(table, parse_policy("entropy"), target=RiskTarget(0.5))
    assert controlled.certified
    assert controlled.p_value <= 0.1
    cost, wer = choice_point(controlled.policy, table)
    assert (controlled.dev_cost, controlled.dev_wer) == (cost, wer)
    assert controlled.dev_excess == pytest.approx(wer - table.wer_per_exit[-1])
    assert controlled.dev_saved == pytest.approx(1 - cost / 8)
    assert (controlled.n_blocks, controlled.clip) == (30, 2.0)
    assert "with probability 0.9 over the draw of 30 speakers, taken to be exchangeable" in controlled.reason
    assert "0.5 WER points above the last exit over the speakers that lose at most 2 points" in controlled.reason
    share = 1 - 0.05 ** (1 / 30)  # what 30 speakers can rule out at half of delta: fewer than 59 cannot 5 %
    assert (
        controlled.tail == pytest.approx(share)
        and f"at most {100 * share:.3g} % of speakers lose more" in controlled.reason
    )
    everyone = 0.5 + share * (100 - 2)
    assert controlled.bound_on_all == pytest.approx(everyone)
    assert f"over all speakers at most {everyone:.3g} points, if none loses over 100 points" in controlled.reason
    assert "exchangeable" in controlled.assumptions[0]
    assert "clip of 2 points was chosen" in controlled.assumptions[1]
    errors = 0.02 * controlled.block_words  # what 2 points are in a mean speaker's words
    assert (
        f"more than {errors:.3g} errors more in one of {controlled.block_words:.3g} words" in controlled.assumptions[1]
    )
    plain = json.loads(json.dumps(controlled.as_dict()))
    assert plain["policy"] == str(controlled.policy)
    assert plain["target"]["eps"] == 0.5
    assert plain["calibrated_on"]["set_name"] == "made-up-0"


def test_everything_costlier_than_the_choice_is_certified_too():
    table, target = speech(30, seed=2), RiskTarget(0.5)
    controlled = control_risk(table, parse_policy("entropy"), target=target)
    assert controlled.n_tested == controlled.n_certified + 1
    assert controlled.grid.policies[controlled.n_certified - 1] == controlled.policy
    assert (np.diff(controlled.grid.cost) <= 1e-9).all()


@pytest.mark.parametrize("method", P_VALUES)
def test_too_few_blocks_are_not_feasible_and_the_smallest_eps_is_said(method):
    table, target = speech(6, seed=0), RiskTarget(0.5, p_value=method, clip=4.0)
    controlled = control_risk(table, parse_policy("entropy"), target=target)
    assert not controlled.certified
    assert str(controlled.policy) == "static(8)"
    assert controlled.dev_excess == 0
    assert controlled.smallest_eps > 0.5
    assert f"{controlled.smallest_eps:.2f} points" in controlled.reason
    assert (replay(controlled.policy, table) == 1).all()


@pytest.mark.parametrize("method", P_VALUES)
@pytest.mark.parametrize("n_blocks", [20, 100])
def test_the_smallest_eps_is_where_certificates_begin(method, n_blocks):
    words, target = np.full(n_blocks, 200), RiskTarget(1.0, p_value=method, clip=4.0)
    least = smallest_eps(words, target=target)
    if method in ("hoeffding_bentkus", "exact"):
        assert least == pytest.approx(4 * (1 - 0.05 ** (1 / n_blocks)), rel=0.02)
    flawless = speech(n_blocks, seed=0)
    _, first = np.unique(flawless.speakers, return_index=True)  # an utterance each: blocks of equal words
    ones = np.ones_like(flawless.n_sub)
    flawless = replace(flawless, n_sub=ones, n_ref_words=np.full(len(ones), 10)).select(first)
    for eps, certified in ((least * 0.9, False), (least * 1.1, True)):
        found = control_risk(flawless, parse_policy("entropy"), target=RiskTarget(eps, p_value=method, clip=4.0))
        assert found.certified == certified


def test_nothing_can_be_promised_with_a_single_block():
    assert np.isnan(smallest_eps(np.array([100]), target=RiskTarget(1.0)))


def test_the_mean_loss_is_at_the_limit_just_where_the_pooled_excess_is_eps():
    excess, words = np.array([[3.0], [0.0], [1.0]]), np.array([100, 250, 50])
    eps = 100 * excess.sum() / words.sum()
    losses = scaled_losses(excess, words, eps=eps, clip=90.0, block_words=words.mean())
    assert losses.mean() == pytest.approx(eps / 90.0)


def test_other_references_than_the_last_exit():
    table = speech(30, seed=0)
    at_4 = risk_outcome(parse_policy("static(4)"), table, target=RiskTarget(0.5, reference=4))
    assert (at_4.excess, at_4.violated) == (0.0, False)
    controlled = control_risk(table, parse_policy("entropy"), target=RiskTarget(0.5, reference=4))
    assert "above layer 4" in controlled.reason
    with pytest.raises(ValueError, match=r"layer of an exit \(4, 8\), got 5"):
        control_risk(table, parse_policy("entropy"), target=RiskTarget(0.5, reference=5))
    assert reference_errors(table, "last").tolist() == table.errors[:, -1].tolist()


def test_the_same_seed_gives_the_same_certificate():
    table, target = speech(30, seed=0), RiskTarget(0.5, p_value="exact")
    found = [control_risk(table, parse_policy("entropy"), target=target, seed=3).as_dict() for _ in range(2)]
    assert found[0] == found[1]


def test_excess_errors_are_those_of_the_replayed_exits():
    table = speech(10, seed=0)
    policies = [parse_policy("static(4)"), parse_policy("static(8)")]
    found = excess_errors(table, policies, reference_errors(table, "last"))
    assert found[:, 0].tolist() == (table.errors[:, 0] - table.errors[:, 1]).tolist()
    assert not found[:, 1].any()


def test_windows_are_learned_on_a_source_only():
    table, source = speech(30, seed=0), speech(30, seed=1, first_speaker=100)
    with pytest.raises(ValueError, match="source_table"):
        control_risk(table, parse_policy("between(entropy)"), target=RiskTarget(0.5))
    controlled = control_risk(table, parse_policy("between(entropy)"), target=RiskTarget(0.5), source_table=source)
    assert controlled.calibrated_on["source"] == "made-up-1"


def test_a_policy_to_be_fitted_is_refused_without_a_source():
    with pytest.raises(ValueError, match="fitted on the data that it is to be tested on"):
        control_risk(speech(30, seed=0), parse_policy("gain"), target=RiskTarget(0.5))


def test_blocks_of_unknown_speakers_are_refused():
    table = replace(speech(30, seed=0), speakers=np.array([""] * speech(30, seed=0).n_utterances))
    with pytest.raises(ValueError, match="blocks of utterances"):
        control_risk(table, parse_policy("entropy"), target=RiskTarget(0.5))
    by_utterance = control_risk(table, parse_policy("entropy"), target=RiskTarget(1.0, blocks="utterances"))
    assert by_utterance.n_blocks == table.n_utterances


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"eps": 0.0}, "eps must be above 0"),
        ({"eps": float("nan")}, "eps must be above 0"),
        ({"eps": 1.0, "delta": 1.0}, "delta must be between"),
        ({"eps": 1.0, "blocks": "chapters"}, "speakers, utterances"),
        ({"eps": 1.0, "p_value": "t"}, "betting"),
        ({"eps": 1.0, "clip": 0.5}, "clip must exceed eps"),
        ({"eps": 1.0, "tail": 1.0}, "tail must be between"),
    ],
)
def test_targets_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        RiskTarget(**arguments)


@pytest.mark.parametrize("text", ["0.5", "a,b", "0.5,0.1,0.3", "0.5,0.1,3,4", "0,0.1"])
def test_a_command_line_target_is_two_or_three_numbers(text):
    assert parse_risk("0.5,0.1") == RiskTarget(0.5, 0.1)
    assert parse_risk("0.5,0.1,100") == RiskTarget(0.5, 0.1, clip=100)
    with pytest.raises(ValueError, match=r"risk must be|eps must be|clip must exceed"):
        parse_risk(text)
