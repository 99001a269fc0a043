"""What must hold for every table, policy and threshold, tried on tables that hypothesis thinks up."""

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from eeasr_modules.exits.measure.bounds import oracle_a, oracle_b, oracle_c, static_line  # noqa: E402
from eeasr_modules.exits.policies.combine import with_threshold  # noqa: E402
from eeasr_modules.exits.policies.protocol import KINDS, Fitted, exits_back, lagged, reach_of  # noqa: E402  # noqa: E402
from eeasr_modules.exits.policies.rules import PATIENCE_SIGNALS, THRESHOLD_SIGNALS  # noqa: E402
from eeasr_modules.exits.policies.text import POLICIES, parse_policy  # noqa: E402
from eeasr_modules.exits.tables.table import ExitTable  # noqa: E402
from eeasr_modules.exits.tuning.calibration import policy_curve  # noqa: E402
from eeasr_modules.exits.tuning.replay import (  # noqa: E402  # noqa: E402
    choice_point,
    decide,
    exit_costs,
    fit_model,
    needed_signals,
    replay,
    scores_of,
)

FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
LAGGED = {lagged(name, lag) for name in ("cross_entropy", "binary_cross_entropy") for lag in (2, 3)}
SIGNALS = sorted({signal for signal, _ in THRESHOLD_SIGNALS.values()} | set(PATIENCE_SIGNALS.values()) | LAGGED)
WORDS = ("go", "left", "right", "stop", "ghmnow", "a")
# every name that a policy's text may begin with, filled in; fitted ones need a fit and have cases of their own
NUMBERS = st.sampled_from([-0.5, 0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5])


def patience_text(name, k, number, layer):
    """One of the four ways, by the layer that was drawn."""
    return f"{name}({k}, {number}{', pairs' if layer % 2 else ''}{', first' if layer % 3 else ''})"


LEAVES = {
    "static": lambda layer, number, k: f"static({layer})",
    "random": lambda layer, number, k: f"random({min(1.0, abs(number))})",
    **{name: lambda layer, number, k, name=name: f"{name}({number})" for name in THRESHOLD_SIGNALS},
    **{name: lambda layer, number, k, name=name: patience_text(name, k, number, layer) for name in PATIENCE_SIGNALS},
    "entropy_per_token": lambda layer, number, k: f"entropy_per_token({number}, {k})",
    "most_confident": lambda layer, number, k: "most_confident",
}
COMBINED = {"any", "all", "between"}


@st.composite
def tables(draw, most=12):
    """Small tables; signals on a coarse grid, so that ties are common."""
    layers = sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=5)))
    n = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    said = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(n)]
    heard = [[" ".join(rng.choice(WORDS, rng.integers(0, 6))) for _ in layers] for _ in range(n)]
    grid = rng.integers(0, 9, (len(SIGNALS), n, len(layers))) / 8.0
    own = {name: values for name, values in zip(SIGNALS, grid) if name not in ("char_change", "word_change")}
    return ExitTable.from_hypotheses(
        heard,
        said,
        utt_ids=[f"u{i}" for i in range(n)],
        speakers=[f"s{i % 3}" for i in range(n)],
        exit_layers=layers,
        duration_s=rng.uniform(0.5, 9.0, n).round(2),
        n_frames=[50] * n,
        signals=own,
        metadata={"seed": int(rng.integers(0, 99))},
    )


@st.composite
def policies(draw, table, depth=2):
    """A policy with nothing open, of any name in the table of names."""
    name = draw(st.sampled_from(sorted(set(POLICIES) - set(KINDS) - (COMBINED if depth == 0 else set()))))
    layers = table.exit_layers.tolist()
    if name in ("any", "all"):
        parts = [str(draw(policies(table, depth=depth - 1))) for _ in range(draw(st.integers(2, 3)))]
        return parse_policy(f"{name}({', '.join(parts)})")
    if name == "between":
        floor, ceiling = sorted(draw(st.tuples(st.sampled_from(layers), st.sampled_from(layers))))
        return parse_policy(f"between({floor}, {ceiling}, {draw(policies(table, depth=depth - 1))})")
    text = LEAVES[name](draw(st.sampled_from(layers)), draw(NUMBERS), draw(st.integers(1, 3)))
    return parse_policy(text)


def lines_of(table):
    common = {"n_ref_words": table.n_ref_words, "weights": table.duration_s}
    return static_line(table.errors, table.cost_layers, **common), oracle_c(table.errors, table.cost_layers, **common)


def live(policy, table, order, batch):
    """Exits as a decoder would take them: batches in some order, one exit at a time, who stopped is dropped."""
    signals = needed_signals(policy, table)
    last = table.n_exits - 1
    taken = np.full(table.n_utterances, last)
    speaks = taken.copy()
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        state = policy.start(len(rows))
        for k in range(table.n_exits if reach_of(policy) else last):
            stop, state = policy.step({name: values[rows, k] for name, values in signals.items()}, state)
            stop = stop | (k == last)
            taken[rows[stop]] = k
            speaks[rows[stop]] = k - exits_back(policy, state[stop], k)
            rows, state = rows[~stop], state[~stop]
    return taken, speaks


def test_every_policy_by_name_is_tried():
    assert set(LEAVES) | COMBINED | set(KINDS) == set(POLICIES)


@FAST
@given(st.data())
def test_nothing_that_emits_one_exit_is_under_the_frontier(data):
    table = data.draw(tables())
    cost, wer = choice_point(data.draw(policies(table)), table)
    assert wer >= lines_of(table)[1].at(cost) - 1e-7


@FAST
@given(tables(), st.integers(0, 2**32 - 1))
def test_no_choice_at_all_is_under_the_frontier(table, seed):
    chosen = np.random.default_rng(seed).integers(0, table.n_exits, (20, table.n_utterances))
    rows = np.arange(table.n_utterances)
    frontier = lines_of(table)[1]
    for one in chosen:
        cost = table.cost_layers[rows, one].sum() / table.duration_s.sum()
        wer = 100 * table.errors[rows, one].sum() / table.n_ref_words.sum()
        assert wer >= frontier.at(cost) - 1e-7


@FAST
@given(tables(most=30))
def test_both_lines_fall_and_are_convex_and_the_frontier_lies_below(table):
    static, frontier = lines_of(table)
    for line in (static, frontier):
        assert (np.diff(line.cost) > 0).all() and (np.diff(line.wer) < 0).all()
        slopes = np.diff(line.wer) / np.diff(line.cost)
        assert (np.diff(slopes) >= -1e-6 * np.abs(slopes[:-1])).all()
    at = np.linspace(table.exit_layers[0], table.exit_layers[-1], 7)
    assert (frontier.at(at) <= static.at(at) + 1e-9).all()


@FAST
@given(tables(most=30))
def test_oracle_a_has_at_most_the_errors_of_b_and_b_of_the_last_exit(table):
    errors, rows = table.errors, np.arange(table.n_utterances)
    a, b = oracle_a(errors), oracle_b(errors, table.cost_layers)
    assert (errors[rows, a] <= errors[rows, b]).all() and (errors[rows, b] <= errors[:, -1]).all()
    assert errors[rows, a].sum() == errors.min(axis=1).sum()
    assert lines_of(table)[1].wer[-1] == pytest.approx(100 * errors.min(axis=1).sum() / table.n_ref_words.sum())
    assert (exit_costs(table)[rows, b] <= exit_costs(table)[:, -1]).all()


@FAST
@given(st.data(), st.sampled_from([1, 3, 32]), st.randoms(use_true_random=False))
def test_live_and_replay_choose_the_same_exits_in_any_batch_and_order(data, batch, random):
    table = data.draw(tables())
    policy = data.draw(policies(table))
    order = list(range(table.n_utterances))
    random.shuffle(order)
    chosen, found = decide(policy, table), live(policy, table, np.array(order), batch)
    assert [one.tolist() for one in found] == [chosen.decided.tolist(), chosen.emitted.tolist()]


WORD_FORMS = [name for name, kind in KINDS.items() if kind.class_name == "WordGainModel"]  # trees: slow to fit
KIND_CASES = [pytest.param(name, marks=pytest.mark.slow if name in WORD_FORMS else ()) for name in sorted(KINDS)]


@pytest.mark.parametrize("name", KIND_CASES)
def test_fitted_policies_too(name):
    pytest.importorskip("wordfreq")
    model, table = fit_model(name, [fitted_table(0)]), fitted_table(1)
    thresholds = np.quantile(scores_of(model, table)[:, :-1], [0.0, 0.2, 0.5, 0.8, 1.0])
    for threshold, batch in zip(thresholds, (1, 7, 32, 40, 3)):
        policy = Fitted(name, float(threshold), model)
        order = np.random.default_rng(batch).permutation(table.n_utterances)
        assert live(policy, table, order, batch)[0].tolist() == replay(policy, table).tolist()


def fitted_table(seed):
    rng = np.random.default_rng(seed)
    n, layers = 40, [2, 4, 6]
    said = [" ".join(rng.choice(["go", "left", "right", "stop", "now"], rng.integers(3, 7))) for _ in range(n)]
    heard = [[" ".join(w if rng.random() < p else "ghm" for w in one.split()) for p in (0.5, 0.8, 0.9)] for one in said]
    return ExitTable.from_hypotheses(
        heard,
        said,
        utt_ids=[f"u{i}" for i in range(n)],
        speakers=[f"s{i % 8}" for i in range(n)],
        exit_layers=layers,
        duration_s=rng.uniform(1, 5, n),
        n_frames=[50] * n,
        signals={"entropy": rng.uniform(0, 1, (n, 3))},
    )


@FAST
@given(st.data())
def test_the_outermost_thresholds_give_the_first_and_the_last_exit(data):
    table = data.draw(tables())
    name = data.draw(st.sampled_from(["random", *THRESHOLD_SIGNALS, *PATIENCE_SIGNALS]))
    policy = parse_policy(f"{name}(1)" if name in PATIENCE_SIGNALS else name)
    curve = policy_curve(policy, table)
    assert curve.cost.max() == pytest.approx(table.exit_layers[-1])
    assert curve.cost.min() == pytest.approx(table.exit_layers[0])
    never, always = (0.0, 1.0) if name == "random" else (-1e9, 1e9)
    if name in THRESHOLD_SIGNALS and not THRESHOLD_SIGNALS[name][1]:
        never, always = always, never
    assert (replay(with_threshold(policy, always), table) == 0).all()
    assert (replay(with_threshold(policy, never), table) == table.n_exits - 1).all()


@FAST
@given(st.data())
def test_every_point_of_a_curve_is_what_replay_gives(data):
    table = data.draw(tables())
    text = data.draw(
        st.sampled_from(
            [
                "entropy",
                "margin",
                "patience(2)",
                "between(confidence)",
                "random",
                "static",
                "patience(2, first)",
                "patience(2, pairs)",
                "between(patience_bce(2, pairs, first))",
                "between(most_confident)",
                "between(any(patience(1, first), most_confident))",
            ]
        )
    )
    curve = policy_curve(parse_policy(text), table, n_thresholds=6)
    for i in range(0, len(curve.policies), max(1, len(curve.policies) // 5)):
        assert choice_point(curve.policies[i], table) == pytest.approx((curve.cost[i], curve.wer[i]))
