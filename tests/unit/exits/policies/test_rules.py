from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits.policies.combine import check_against, open_leaf, with_threshold
from eeasr_modules.exits.policies.protocol import KINDS
from eeasr_modules.exits.policies.rules import Patience, Threshold
from eeasr_modules.exits.policies.text import POLICIES, parse_policy
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.replay import choice_point, exit_costs, mean_cost, policy_costs, replay
from eeasr_modules.exits.tuning.replay import decide as decided_and_emitted

TEXTS = [
    "static(4)",
    "random(0.3)",
    "entropy(0.4)",
    "confidence(0.6)",
    "margin(0.7)",
    "similarity(0.8)",
    "nbest(0.7)",
    "sequence_log_prob(0.6)",
    "token_entropy(0.3)",
    "patience(1, 0.3)",
    "patience(2, 0.6)",
    "patience_ce(2, 0.5)",
    "patience_words(2, 0.5)",
    "patience_bce(1, 0.4)",
    "patience(2, 0.6, first)",
    "patience(2, 0.6, pairs)",
    "patience(3, 0.7, pairs, first)",
    "patience_words(2, 0.7, pairs)",
    "patience_ce(2, 0.5, pairs)",
    "patience_bce(2, 0.6, pairs, first)",
    "between(4, 8, patience(1, 0.5, pairs, first))",
    "max_entropy(0.3)",
    "entropy_per_token(0.0125, 32)",
    "most_confident",
    "between(2, 6, most_confident)",
    "any(entropy(0.2), patience(2, 0.7))",
    "all(entropy(0.6), patience(1, 0.7))",
    "between(4, 6, entropy(0.3))",
    "between(4, 8, any(patience(2, 0.7), all(patience_ce(1, 0.6), margin(0.3))))",
    "any(patience(2, 0.8), between(4, 8, patience(3, 0.9)), random(0.1))",
]


CHANGES = {
    "patience": "char_change",
    "patience_words": "word_change",
    "patience_ce": "cross_entropy",
    "patience_bce": "binary_cross_entropy",
}


def decide(text, signals, k, layers):
    """Whether one utterance would stop at exit k, written without states: from all its signals up to k."""
    name, _, rest = text.partition("(")
    arguments = split_arguments(rest[:-1])
    if name == "static":
        return layers[k] >= int(arguments[0])
    if name == "random":
        return signals["uniform"][k] < float(arguments[0])
    if name in ("entropy", "token_entropy", "max_entropy"):
        return signals[name][k] <= float(arguments[0])
    if name in ("confidence", "margin", "similarity", "nbest", "sequence_log_prob"):
        signal = {"similarity": "cosine", "nbest": "nbest_posterior"}.get(name, name)
        return signals[signal][k] >= float(arguments[0])
    if name == "entropy_per_token":
        return signals["entropy"][k] <= float(arguments[0]) * int(arguments[1])
    if name == "most_confident":
        return False
    if name in CHANGES and "pairs" in arguments:
        return joined_runs(CHANGES[name], signals, int(arguments[0]), float(arguments[1]))[k] is not None
    if name in CHANGES:
        n, change = int(arguments[0]), signals[CHANGES[name]]
        return k + 1 >= n and all(change[j] <= float(arguments[1]) for j in range(k - n + 1, k + 1))
    if name == "between":
        inside = layers[k] >= int(arguments[0]) and decide(arguments[2], signals, k, layers)
        return inside or layers[k] >= int(arguments[1])
    parts = [decide(part, signals, k, layers) for part in arguments]
    return any(parts) if name == "any" else all(parts)


def joined_runs(change, signals, p, threshold):
    """The queue itself: the members of the run where it is complete, None elsewhere, exit by exit."""
    run, complete = [], []
    for k in range(len(signals["entropy"])):
        names = {j: change if k - j == 1 else f"{change}_{k - j}" for j in run}
        if all(signals[name][k] <= threshold for name in names.values()):
            run = [*run, k]
        else:
            run = [*run[1:], k]
        complete.append(run if len(run) == p + 1 else None)
        run = run[-p:]  # who was not let go meets the next exit with the newest p
    return complete


def speaks(text, signals, k, layers):
    """The exit whose transcript one utterance emits that was stopped at exit k."""
    name, _, rest = text.partition("(")
    arguments = split_arguments(rest[:-1])
    if name == "most_confident":
        return max(range(k + 1), key=lambda j: signals["confidence"][j])
    if name == "between":
        return speaks(arguments[2], signals, k, layers)
    if name in CHANGES and "first" in arguments and decide(text, signals, k, layers):
        return max(0, k - int(arguments[0]))
    return k


def split_arguments(text):
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def plain_loop(text, table):
    """Exit of each utterance by itself."""
    lags = [f"{name}_{lag}" for name in ("char_change", "word_change") for lag in range(2, table.n_exits)]
    names = (*table.signals, "uniform", *lags)
    chosen, emitted = [], []
    for i in range(table.n_utterances):
        signals = {name: table.signal(name)[i] for name in names}
        stops = [k for k in range(table.n_exits) if decide(text, signals, k, table.exit_layers)]
        chosen.append(min([*stops, table.n_exits - 1]))
        emitted.append(speaks(text, signals, chosen[-1], table.exit_layers))
    return chosen, emitted


@pytest.mark.parametrize("text", TEXTS)
def test_replay_equals_a_plain_loop_over_utterances(make_table, text):
    for seed in range(3):
        table = make_table(seed, n=60, layers=(2, 4, 6, 8, 12))
        chosen = decided_and_emitted(parse_policy(text), table)
        assert (chosen.decided.tolist(), chosen.emitted.tolist()) == plain_loop(text, table)
        assert replay(parse_policy(text), table).tolist() == chosen.decided.tolist()


@pytest.mark.parametrize("text", TEXTS)
def test_an_utterance_stops_where_it_would_alone_and_in_any_order(make_table, text):
    table, policy = make_table(3, n=40), parse_policy(text)
    whole = replay(policy, table)
    order = np.random.default_rng(1).permutation(40)
    assert replay(policy, table.select(order)).tolist() == whole[order].tolist()
    assert replay(policy, table.select(np.array([7]))).tolist() == [whole[7]]


def test_every_named_policy_has_a_case_here():
    # fitted ones decide by models, whose cases are in test_live.py and beside each model's own tests
    assert {text.partition("(")[0] for text in TEXTS} == set(POLICIES) - set(KINDS)


def test_random_stops_at_its_rate_and_zero_and_one_are_sure(make_table):
    table = make_table(n=2000)
    assert (replay(parse_policy("random(0)"), table) == 3).all()
    assert (replay(parse_policy("random(1)"), table) == 0).all()
    share = (replay(parse_policy("random(0.25)"), table) == 0).mean()
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)


def test_a_single_exit_takes_everybody_under_every_policy(make_table):
    table = make_table(layers=(4,), n=5)
    for text in ("entropy(0.1)", "patience(3, 0)", "static(4)", "random(0.5)"):
        assert replay(parse_policy(text), table).tolist() == [0] * 5


def test_float32_signals_meet_the_threshold_in_float64():
    threshold = 0.1  # float32(0.1) is a little above 0.1
    stop, _ = Threshold("entropy", threshold).step({"entropy": np.float32([0.1])}, np.zeros((1, 0)))
    assert not stop[0]


def test_state_of_patience_is_a_row_per_utterance():
    policy = Patience("patience", 2, 0.1)
    state = policy.start(3)
    assert state.shape == (3, 1)
    stop, state = policy.step({"char_change": np.array([0.0, 0.5, 0.1])}, state)
    assert stop.tolist() == [False] * 3
    stop, state = policy.step({"char_change": np.array([0.0, 0.0, 0.2])}, state)
    assert stop.tolist() == [True, False, False]
    stop, _ = policy.step({"char_change": np.array([0.0, 0.0])}, state[~stop])
    assert stop.tolist() == [True, False]


# the exits' texts, p, threshold, and the exits decided and emitted, from 1, with pairs and first; by hand
QUEUES = {
    # all agree: the run of three is complete at exit 3, and exit 1 speaks
    "agreeing at once": (["abcd"] * 6, 2, 0.0, 3, 1),
    # run [1, 2]; 3 is too far: [2, 3]; 4 is far from 3: [3, 4]; 5 joins 4 but is far from 3: [4, 5]; 6 joins
    "an exit too far in the middle": (["abcd", "abcd", "wxyz", "abcd", "abcd", "abcd", "q"], 2, 0.0, 6, 4),
    # run [1]; 2 is too far: [2]; 3 joins: [2, 3]; 4 joins: complete
    "the first too far": (["a", "abcd", "abcd", "abcd", "x"], 2, 0.0, 4, 2),
    # each is near the one before (a quarter) and far from the one before that (half): neighbours would stop
    "creeping away": (["abcd", "abcx", "abyx", "azyx", "qzyx"], 2, 0.25, 5, 5),
    "never stopping": (["a", "b", "c", "d"], 1, 0.5, 4, 4),
    "p larger than the exits": (["abcd"] * 4, 7, 1.0, 4, 4),
    # nobody is asked whether to stop at the last exit, but a run that it completes speaks by its first member
    "complete at the last exit": (["x", "abcd", "abcd", "abcd"], 2, 0.0, 4, 2),
}


@pytest.mark.parametrize("case", QUEUES)
def test_the_queue_of_pairs_by_hand(case):
    texts, p, threshold, decided, emitted = QUEUES[case]
    table = ExitTable.from_hypotheses(
        [texts], ["abcd"], utt_ids=["u"], exit_layers=range(1, len(texts) + 1), duration_s=[1.0], n_frames=[50]
    )
    first = decided_and_emitted(parse_policy(f"patience({p}, {threshold}, pairs, first)"), table)
    last = decided_and_emitted(parse_policy(f"patience({p}, {threshold}, pairs)"), table)
    assert (first.decided[0] + 1, first.emitted[0] + 1) == (decided, emitted)
    assert (last.decided[0] + 1, last.emitted[0] + 1) == (decided, decided)
    if case == "creeping away":
        assert replay(parse_policy(f"patience({p}, {threshold})"), table)[0] + 1 == 3


def test_what_was_decided_is_paid_and_what_was_emitted_is_wrong(make_table):
    table, rows = make_table(2, n=40), np.arange(40)
    for text in ("patience(1, 0.6, first)", "most_confident", "patience(2, 1, pairs, first)"):
        policy = parse_policy(text)
        chosen = decided_and_emitted(policy, table)
        assert (chosen.emitted < chosen.decided).any()
        depth, wer = choice_point(policy, table)
        assert depth == pytest.approx(np.average(table.exit_layers[chosen.decided], weights=table.duration_s))
        assert wer == pytest.approx(100 * table.errors[rows, chosen.emitted].sum() / table.n_ref_words.sum())
    full = policy_costs(parse_policy("most_confident"), table, cost="cost_macs")[:, -1]
    assert full == pytest.approx(table.cost_macs[:, -1] + table.head_macs.sum(axis=1))


def test_layers_without_an_exit_are_refused():
    for text, layer in (
        ("static(5)", 5),
        ("between(5, 8, entropy(1))", 5),
        ("any(entropy(1), static(3))", 3),
    ):
        with pytest.raises(ValueError, match=rf"names layer {layer}, but the exits are after layers \[2, 4, 8\]"):
            check_against(parse_policy(text), [2, 4, 8])
    check_against(parse_policy("between(2, 8, any(static(4), entropy))"), [2, 4, 8])


def test_replay_refuses_open_policies_and_missing_signals(make_table):
    table = make_table()
    for text in ("entropy", "static", "between(entropy(1))", "any(entropy(1), patience(2))"):
        with pytest.raises(ValueError, match="is open and cannot be replayed"):
            replay(parse_policy(text), table)
    bare = make_table()
    bare.signals.pop("margin")
    with pytest.raises(ValueError, match=r"no signal 'margin'; it has: .*char_change"):
        replay(parse_policy("margin(0.1)"), bare)
    with pytest.raises(ValueError, match="names layer 3"):
        replay(parse_policy("static(3)"), table)


def test_the_open_threshold_is_found_and_filled_in():
    policy = parse_policy("between(2, 8, any(entropy(0.2), patience(2)))")
    assert str(open_leaf(policy)) == "patience(2)"
    assert str(with_threshold(policy, 0.25)) == "between(2, 8, any(entropy(0.2), patience(2, 0.25)))"
    assert open_leaf(parse_policy("between(entropy(0.1))")) is None
    with pytest.raises(ValueError, match=r"at most one threshold .* leaves 2 open"):
        open_leaf(parse_policy("any(entropy, patience(2))"))


def test_heads_are_charged_for_exits_that_are_read_and_for_the_one_that_speaks(make_table):
    table = make_table(n=3)
    head, reach = table.head_macs[:, 0], table.cost_macs
    expected = {
        "static(6)": [1, 1, 1, 1],
        "random(0.5)": [1, 1, 1, 1],
        "similarity(0.5)": [1, 1, 1, 1],
        "entropy(0.5)": [1, 2, 3, 4],
        "patience(2, 0)": [1, 2, 3, 4],
        "between(4, 6, entropy(0.5))": [1, 1, 2, 2],
        "between(4, 6, patience(1, 0))": [1, 2, 3, 3],
    }
    for text, n_heads in expected.items():
        costs = policy_costs(parse_policy(text), table, cost="cost_macs")
        assert costs == pytest.approx(reach + head[:, None] * np.array(n_heads)), text
        assert (policy_costs(parse_policy(text), table) == table.cost_layers).all()


def test_an_attention_decoder_is_charged_where_it_spells(make_table):
    table = make_table(n=3)
    decoder = np.arange(12.0).reshape(3, 4)
    with_decoder = replace(table, decoder_macs=decoder)
    for text, charged in {
        "entropy(0.5)": decoder,  # at the exit that is taken
        "token_entropy(0.5)": np.cumsum(decoder, axis=1),  # and at those before it, to decide
        "between(4, 6, sequence_log_prob(0.5))": np.array([[0, 1, 3, 4], [4, 5, 11, 12], [8, 9, 19, 20]]),
    }.items():
        costs = [policy_costs(parse_policy(text), one, cost="cost_macs") for one in (table, with_decoder)]
        assert costs[1] - costs[0] == pytest.approx(charged), text
    assert exit_costs(with_decoder, "cost_macs") == pytest.approx(exit_costs(table, "cost_macs") + decoder)


def test_costs_are_weighted_by_duration_and_unknown_ones_refused(make_table):
    table = make_table(n=4)
    cost, wer = choice_point(parse_policy("static(6)"), table)
    assert cost == pytest.approx(6.0)
    assert wer == pytest.approx(table.wer_per_exit[2])
    chosen = np.array([0, 3, 1, 2])
    depth = mean_cost(table.cost_layers[np.arange(4), chosen], table.duration_s)
    assert depth == pytest.approx(np.average(table.exit_layers[chosen], weights=table.duration_s))
    with pytest.raises(ValueError, match="cost must be one of cost_layers, cost_macs, got 'time'"):
        exit_costs(table, "time")
    with pytest.raises(ValueError, match="does not know MACs"):
        exit_costs(make_table(macs=False), "cost_macs")
