import json
from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits.measure.bounds import oracle_a, oracle_c, static_line
from eeasr_modules.exits.measure.exitbench import (
    BASELINES,
    KNOWN_SETS,
    Choices,
    bench_table,
    budget_layers,
    point_numbers,
    read_choices,
    score_markdown,
    score_table,
    set_digest,
    write_score,
)
from eeasr_modules.exits.policies.text import parse_policies, parse_policy
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds


def heard(n=60, seed=0, layers=(3, 6, 9, 12), **metadata):
    """A table of words that later exits hear better; twelve speakers."""
    rng = np.random.default_rng(seed)
    said = [" ".join(rng.choice(["go", "left", "right", "stop", "now"], rng.integers(3, 7))) for _ in range(n)]
    shares = np.linspace(0.5, 0.9, len(layers))
    texts = [[" ".join(w if rng.random() < p else "what" for w in one.split()) for p in shares] for one in said]
    return ExitTable.from_hypotheses(
        texts,
        said,
        utt_ids=[f"u{i}" for i in range(n)],
        speakers=[f"s{i % 12}" for i in range(n)],
        exit_layers=layers,
        duration_s=rng.uniform(1, 5, n),
        n_frames=[50] * n,
        signals={"entropy": rng.uniform(0, 1, (n, len(layers))).round(3)},
        metadata={"set_name": "mine", **metadata},
    )


@pytest.fixture
def table():
    return heard()


def choices_file(path, table, exit_index, *, hypotheses=None):
    rows = [f"{u}\t{table.exit_layers[k]}" for u, k in zip(table.utt_ids, exit_index)]
    header = "id\texit_layer"
    if hypotheses is not None:
        header, rows = f"{header}\thypothesis", [f"{row}\t{text}" for row, text in zip(rows, hypotheses)]
    path.write_text("\n".join([header, *reversed(rows)]))
    return path


def test_the_oracle_s_choices_score_as_the_oracle(table, tmp_path):
    best = oracle_a(table.errors)
    choices = read_choices(choices_file(tmp_path / "a.tsv", table, best), table)
    assert choices.exit_index.tolist() == best.tolist()
    score = score_table(table, choices=[choices])
    point = score["choices"][0]["points"][0]
    assert point["wer"] == pytest.approx(score["oracles"]["a"]["wer"])
    assert point["depth"] == pytest.approx(score["oracles"]["a"]["depth"])
    assert point["emits"] == "the exit's transcript" and 0.8 < point["gap_closed"] <= 1


def test_a_fixed_exit_lies_on_the_static_line(table):
    score = score_table(table, policies=parse_policies("static(12), static(6)"))
    last = score["policies"][0]["points"][0]
    assert last["depth"] == pytest.approx(12) and last["saved"] == pytest.approx(0)
    assert last["above_static"] == pytest.approx(0) and last["wer"] == pytest.approx(score["exits"][-1]["wer"])
    assert score["policies"][1]["points"][0]["above_static"] >= -1e-9


def test_fused_transcripts_are_counted_anew_and_may_cross_the_oracle(table, tmp_path):
    first = np.zeros(table.n_utterances, dtype=int)
    file = choices_file(tmp_path / "f.tsv", table, first, hypotheses=table.references)
    point = score_table(table, choices=[read_choices(file, table)])["choices"][0]["points"][0]
    assert point["wer"] == 0.0 and point["gap_closed"] is None and point["emits"] == "transcripts of its own"
    assert point["above_static"] == pytest.approx(-point["static"])


def test_emitted_errors_change_the_interval_but_not_the_static_line(table):
    chosen = np.full(table.n_utterances, 2)
    common = {"n_ref_words": table.n_ref_words, "weights": table.duration_s}
    lines = static_line(table.errors, table.cost_layers, **common), oracle_c(table.errors, table.cost_layers, **common)
    same = point_numbers(table, chosen, lines=lines, errors=table.errors[:, 2])
    assert point_numbers(table, chosen, lines=lines) == same
    assert same["above_static"] == pytest.approx(same["wer"] - same["static"])


def test_open_policies_are_cross_fitted_at_every_budget(table):
    score = score_table(table, policies=parse_policies("entropy"), budgets=[0.5, 9])
    points = score["policies"][0]["points"]
    assert [point["budget"] for point in points] == [6, 9] and "cross-fitted" in score["policies"][0]["protocol"]
    assert all(point["oracle_c"] - 1e-9 <= point["wer"] for point in points)
    assert [b["layers"] for b in score["budgets"]] == [6, 9]


def test_scores_do_not_depend_on_the_order_of_utterances(table):
    order = np.random.default_rng(1).permutation(table.n_utterances)
    policies = parse_policies("between(entropy)")
    one, other = score_table(table, policies=policies), score_table(table.select(order), policies=policies)
    assert one["set"]["digest"] == other["set"]["digest"]
    for a, b in zip(one["policies"][0]["points"], other["policies"][0]["points"]):
        assert a["wer"] == pytest.approx(b["wer"]) and a["depth"] == pytest.approx(b["depth"])
        assert a["above_static_interval"] == pytest.approx(b["above_static_interval"])


def test_folds_of_speakers_stay_as_they_are():
    # ExitBench's split is this rule; other numbers here would make old and new scores incomparable
    assert speaker_folds(heard(n=12)).tolist() == speaker_folds(heard(n=24))[:12].tolist()
    assert speaker_folds(heard(n=12)).tolist() == FOLDS


FOLDS = [8, 6, 5, 3, 2, 1, 1, 0, 0, 9, 4, 7]


def test_a_set_is_recognised_by_its_references_whatever_their_form(table, monkeypatch):
    louder = heard()
    shouted = np.array([text.upper() + "!" for text in louder.references], dtype=object)
    object.__setattr__(louder, "references", shouted)
    assert set_digest(louder) == set_digest(table)
    assert set_digest(table.select(np.arange(9))) != set_digest(table)
    assert set_digest(table.without_references()) is None
    assert bench_table(table) is table
    monkeypatch.setitem(KNOWN_SETS, set_digest(table), "a known set")
    known = {"name": "x", "kind": "policy", "wer_at": {8: 1.0}}
    single = {"name": "y", "kind": "single exit", "wer_at": {12: 2.5}}
    monkeypatch.setitem(BASELINES, "a known set", [known, single])
    weighted = bench_table(table)
    assert weighted.duration_s == pytest.approx([0.5 + len(text) / 15.5 for text in table.references])
    score = score_table(table)
    assert score["set"]["known_as"] == "a known set" and score["set"]["duration_is_approximate"]
    assert "| x (baseline) | - | 1.00 | - | - |" in score_markdown(score) and score["single_exit_wer"] == 2.5
    assert "trained with its last exit alone: 2.50" in score_markdown(score)


def test_the_score_is_written_without_transcripts(table, tmp_path):
    score = score_table(table, policies=parse_policies("entropy(0.4)"), choices=[Choices("z", np.zeros(60, dtype=int))])
    files = write_score(score, tmp_path / "out")
    text = files[0].read_text()
    stored = json.loads(text)
    assert stored["exits"][0]["wer"] == pytest.approx(score["exits"][0]["wer"], abs=1e-4)
    assert "what" not in text and "u17" not in text
    shown = files[1].read_text()
    assert "## entropy(0.4)" in shown and "not a set that ExitBench knows" in shown and "| static line |" in shown
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["score.json", "score.md"]


def test_a_table_with_one_exit_has_a_score():
    score = score_table(heard(layers=(12,)), budgets=[1.0])
    assert score["exits"][0]["layer"] == 12 and score["budgets"][0]["static"] == pytest.approx(score["exits"][0]["wer"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[:-1], "must decide every utterance, but 1 are missing, such as 'u0'"),
        (lambda rows: rows + ["u3\t6"], "line 62 of .* decides 'u3' again"),
        (lambda rows: rows[:-1] + ["u99\t6"], "line 61 of .*: the table has no utterance 'u99'"),
        (lambda rows: rows[:-1] + ["u0\t5"], r"exits after layers \[3, 6, 9, 12\], not after 5"),
        (lambda rows: ["id\tlayer"] + rows[1:], "exit_layer not there"),
    ],
)
def test_choices_that_do_not_fit_the_table_are_refused(table, tmp_path, change, sentence):
    file = choices_file(tmp_path / "c.tsv", table, np.zeros(60, dtype=int))
    file.write_text("\n".join(change(file.read_text().split("\n"))))
    with pytest.raises(ValueError, match=sentence):
        read_choices(file, table)


def test_what_cannot_be_scored_is_said(table):
    with pytest.raises(ValueError, match="a budget must lie between the first and the last exit, 3 and 12, got 13"):
        budget_layers(13, table)
    with pytest.raises(ValueError, match=r"margin\(0.3\) needs a signal that is not there"):
        score_table(table, policies=[parse_policy("margin(0.3)")])
    with pytest.raises(ValueError, match=r"^lexical needs a signal .*; lexical_text needs transcripts alone"):
        score_table(replace(table, signals={}), policies=[parse_policy("lexical")])
    fused = Choices("f", np.zeros(60, dtype=int), np.array(["x"] * 60, dtype=object))
    with pytest.raises(ValueError, match="no references to count errors against"):
        score_table(table.without_references(), choices=[fused])


@pytest.mark.shared_data
@pytest.mark.parametrize("split", ["clean", "other"])
def test_the_public_traces_are_a_known_set(shared_data, split):
    from eeasr_modules.exits.tables.files import import_transcripts

    table = import_transcripts(shared_data / "exit-traces", split)
    assert KNOWN_SETS[set_digest(table)] == f"LibriSpeech test-{split}"
    assert bench_table(table).duration_s == pytest.approx(table.duration_s)


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "limits"), [("clean", (6.47, 5.20, 4.59, 4.37)), ("other", (18.40, 15.30, 13.33, 12.54))]
)
def test_gain_scores_on_the_public_traces_as_published(shared_data, split, limits):
    pytest.importorskip("wordfreq")
    from eeasr_modules.exits.tables.files import import_transcripts

    table = import_transcripts(shared_data / "exit-traces", split)
    points = score_table(table, policies=parse_policies("gain"))["policies"][0]["points"]
    for point, limit in zip(points, limits):
        assert point["wer"] <= limit + 0.05 and point["depth"] == pytest.approx(point["budget"], abs=0.1)
    assert all(point["above_static_interval"][1] < 0 for point in points[:3])
