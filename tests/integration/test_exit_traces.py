"""The public traces of a six-exit wav2vec2-base: known numbers must come out."""

import numpy as np
import pytest

from eeasr_modules.exits import (
    choice_point,
    import_transcripts,
    mean_cost,
    oracle_a,
    oracle_b,
    oracle_c,
    parse_policy,
    policy_curve,
    pooled_wer,
    static_line,
)

pytestmark = pytest.mark.shared_data

EXPECTED = {
    "clean": {
        "n": (2620, 40),
        "wer": [33.74, 17.38, 9.63, 5.78, 4.46, 4.35],
        "oracle_a": 3.67,
        "oracle_b": (7.65, 4.00),
        "static": [7.71, 5.78, 5.12, 4.46],
        "oracle_c": [4.39, 3.67, 3.67, 3.67],
        "overthought": 11.4,
    },
    "other": {
        "n": (2939, 33),
        "wer": [55.98, 36.70, 23.68, 15.86, 12.59, 12.24],
        "oracle_a": 11.30,
        "oracle_b": (8.78, 11.65),
        "static": [19.77, 15.86, 14.22, 12.59],
        "oracle_c": [14.96, 12.44, 11.30, 11.30],
        "overthought": 14.0,
    },
}


@pytest.fixture(scope="module", params=["clean", "other"])
def traces(request, shared_data):
    folder = shared_data / "exit-traces"
    if not folder.is_dir():
        pytest.skip(f"no exit-traces in {shared_data}")
    return import_transcripts(folder, request.param), EXPECTED[request.param]


def test_bounds_of_the_public_traces_are_the_known_ones(traces):
    table, expected = traces
    errors, costs, rows = table.errors, table.cost_layers, np.arange(table.n_utterances)
    known = {"n_ref_words": table.n_ref_words, "weights": table.duration_s}
    assert (table.n_utterances, len(set(table.speakers))) == expected["n"]
    assert table.wer_per_exit == pytest.approx(expected["wer"], abs=0.006)
    assert pooled_wer(errors[rows, oracle_a(errors)], table.n_ref_words) == pytest.approx(
        expected["oracle_a"], abs=0.006
    )
    b = rows, oracle_b(errors, costs)
    point = mean_cost(costs[b], table.duration_s), pooled_wer(errors[b], table.n_ref_words)
    assert point == pytest.approx(expected["oracle_b"], abs=0.006)
    budgets = np.array([7, 8, 9, 10])
    assert static_line(errors, costs, **known).at(budgets) == pytest.approx(expected["static"], abs=0.006)
    assert oracle_c(errors, costs, **known).at(budgets) == pytest.approx(expected["oracle_c"], abs=0.006)
    overthought = 100 * (errors[:, :-1] < errors[:, -1:]).any(axis=1).mean()
    assert overthought == pytest.approx(expected["overthought"], abs=0.06)


def test_no_threshold_of_any_signal_gets_below_the_frontier(traces):
    table, _ = traces
    frontier = oracle_c(table.errors, table.cost_layers, n_ref_words=table.n_ref_words, weights=table.duration_s)
    for text in ("entropy", "patience(1)", "patience(2)", "random", "between(entropy)"):
        curve = policy_curve(parse_policy(text), table, n_thresholds=50)
        assert (curve.wer >= frontier.at(curve.cost) - 1e-9).all(), text


def test_one_entropy_threshold_gives_the_known_wer_near_eight_layers(traces):
    table, expected = traces
    curve = policy_curve(parse_policy("entropy"), table, n_thresholds=1000)
    at_eight = np.interp(8.0, curve.cost[::-1], curve.wer[::-1])
    assert at_eight == pytest.approx({2620: 5.72, 2939: 16.02}[expected["n"][0]], abs=0.05)


def test_the_single_exit_model_shows_the_price_of_exits(traces, shared_data):
    table, _ = traces
    split = table.metadata["set_name"].removeprefix("test-")
    single = import_transcripts(shared_data / "exit-traces", split, model="nonee12")
    assert single.exit_layers.tolist() == [12]
    assert choice_point(parse_policy("static(12)"), single)[1] < table.wer_per_exit[-1]
