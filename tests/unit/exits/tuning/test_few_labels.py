"""Few labels: a bet by hand, promises kept on known truth, whole sets decided exactly, and the way through files."""

import numpy as np
import pytest
from scipy.stats import binom

from eeasr_modules.cli import main
from eeasr_modules.exits import ExitTable, parse_policy, read_policies, write_table
from eeasr_modules.exits.measure.edits import count_word_edits
from eeasr_modules.exits.tuning.few_labels import (
    LabelTarget,
    _Bets,
    candidates,
    draw_and_bet,
    few_labels,
    read_labels,
    write_labels,
)
from eeasr_modules.exits.tuning.replay import decide


def test_one_bet_by_hand():
    bets = _Bets(np.array([[1.0], [0.0]]), np.array([10.0, 10.0]), LabelTarget(5.0))
    bets.add(0, np.array([0.5, 0.5]), errors=np.array([0]), n_words=10)
    # E L = 100; X is at most (100 + 50) / 0.5 - 100 = 200 and guessed at 0.3 x 100 - 100 = -70, its square from spreads
    second = (70.0**2 + 7.5**2 + 30.0**2) / 0.5 + 7.5**2 / 0.5 - 30.0**2
    stake = 70 / (second + 70**2)  # below 0.98 / 200
    assert bets.log_wealth[0] == pytest.approx(np.log(1 + stake * 100))  # X = (-50 + 50) / 0.5 - 100
    assert bets.lost.tolist() == [-50.0] and bets.left.tolist() == [False, True]


def population(kind, rng, n=60):
    """d (n, 3), D (n, 3), words of the last transcripts and of the references; D loses more than 2 points at once."""
    words = rng.integers(3, 15, n)
    changed = np.minimum(np.cumsum(rng.poisson(0.12, (n, 3)), axis=1), words[:, None])
    truth = words.copy()
    if kind == "one loses much":
        changed[0] = words[0] = truth[0] = 12
        errors = np.where(np.arange(n)[:, None] == 0, changed, 0)
    elif kind == "fewer words than heard":
        truth = np.where(rng.random(n) < 0.7, 0, words)
        errors = np.where(rng.random((n, 3)) < 0.5, changed, 0)
    else:
        errors = np.where(rng.random((n, 3)) < 0.7, changed, -changed)
    return changed, errors, words, truth


@pytest.mark.parametrize("way", ["active", "random"])
@pytest.mark.parametrize("kind", ["one loses much", "fewer words than heard", "as many mended"])
def test_a_false_promise_is_made_with_probability_delta_at_most(kind, way):
    changed, errors, words, truth = population(kind, np.random.default_rng(3))
    eps = 0.97 * 100 * errors[:, 0].sum() / truth.sum()  # just not so, from the first threshold on
    assert eps > 0
    n_draws, false = 150, 0
    for seed in range(n_draws):
        target = LabelTarget(eps, 0.2, budget=25, per_round=5, seed=seed, way=way)
        false += draw_and_bet(changed, words, target, lambda i: (errors[i], truth[i])).n_certified > 0
    assert false <= binom.ppf(0.999, n_draws, 0.2)


def test_a_set_that_is_labelled_whole_is_decided_exactly():
    changed, errors, words, truth = population("as many mended", np.random.default_rng(5))
    excess = 100 * errors.sum(axis=0) / truth.sum()
    for eps in (0.5, float(excess[0]) * 1.02, float(excess[1]) * 1.02, 30.0):
        target = LabelTarget(eps, 1e-6, budget=len(words))
        found = draw_and_bet(changed, words, target, lambda i: (errors[i], truth[i]))
        assert found.n_certified == int(np.argmin(np.r_[excess < eps, False]))


def test_active_choice_certifies_more_than_random():
    rng = np.random.default_rng(1)
    words = rng.integers(5, 20, 800)
    changed = np.cumsum(rng.random((800, 6)) < 0.04, axis=1)
    errors = np.where(rng.random((800, 6)) < 0.2, changed, 0)
    ends = {
        way: [
            draw_and_bet(
                changed, words, LabelTarget(1.0, seed=seed, way=way), lambda i: (errors[i], words[i])
            ).n_certified
            for seed in range(8)
        ]
        for way in ("active", "random")
    }
    assert np.mean(ends["active"]) > np.mean(ends["random"]) + 1


@pytest.fixture(scope="module")
def recordings():
    """A table of 80 utterances of 10 words in which the first exit changes some, and what was said."""
    rng = np.random.default_rng(2)
    said = [" ".join(rng.choice(list("abcdefgh"), 10)) for _ in range(80)]
    first = [text if i % 4 else text.replace(text[0], "x", 1) for i, text in enumerate(said)]
    table = ExitTable.from_hypotheses(
        [[one, last] for one, last in zip(first, said)],
        ["nothing that counts"] * 80,
        utt_ids=[f"u{i}" for i in range(80)],
        exit_layers=[2, 4],
        duration_s=[1] * 80,
        n_frames=[50] * 80,
        speakers=[f"s{i}" for i in range(80)],
        signals={"entropy": [[(i % 4 == 0) + i / 800, 0.1] for i in range(80)]},
    )
    return table, {f"u{i}": text for i, text in enumerate(said)}


def test_the_certificate_is_of_what_the_policy_does_and_strangers_labels_count_for_nothing(recordings):
    table, said = recordings
    target, policy = LabelTarget(1.0), parse_policy("entropy")
    grid = candidates(table, policy, eps=1.0)
    assert (np.diff(grid.wer) > 0).all() and (np.diff(grid.cost) < 0).all()
    begun = few_labels(table, policy, target=target, references={})
    assert len(begun.to_label) == 10 and not begun.is_final and begun.order == begun.to_label
    stranger = next(one for one in said if one not in begun.to_label)
    again = few_labels(table, policy, target=target, references={stranger: "wrong all over"})
    assert again.to_label == begun.to_label and again.statement == begun.statement
    done = few_labels(table, policy, target=target, references=said)
    assert done.certified and done.is_final and len(done.order) <= 50 and done.order[:10] == begun.order
    at = decide(done.policy, table).emitted
    excess = sum(count_word_edits(str(table.hypotheses[i, at[i]]), said[f"u{i}"]) for i in range(80)) / 8
    assert excess <= 1.0 and done.saved > 0.3


def test_labelling_through_files(recordings, tmp_path, capsys):
    table, said = recordings
    write_table(table, tmp_path / "new.parquet")
    labels, policy = tmp_path / "labels.tsv", tmp_path / "policy.json"
    argv = [
        "label",
        str(tmp_path / "new.parquet"),
        str(labels),
        "--policy",
        "entropy",
        "--risk",
        "1,0.1",
        "-o",
        str(policy),
    ]
    n_rounds = 0
    while (n_rounds := n_rounds + 1) <= 6:
        assert not main(argv)
        rows = [line.split("\t") for line in labels.read_text().splitlines()]
        if all(reference for _, reference in rows):
            break
        labels.write_text("".join(f"{utt_id}\t{reference or said[utt_id]}\n" for utt_id, reference in rows))
    assert 2 <= n_rounds <= 6 and len(rows) <= 50
    (written,) = read_policies(policy)
    assert written.promise["certified"] and "at most 1 WER points" in written.promise["statement"]
    assert str(written.policy) in capsys.readouterr().out
    assert main([*argv[:4], "entropy(0.1)"]) == 2 and "leave its last number out" in capsys.readouterr().err


def test_the_label_file_keeps_what_was_typed_and_names_bad_rows(tmp_path):
    path = tmp_path / "labels.tsv"
    assert read_labels(path) == {}
    path.write_text("a\t-\nb\t\nc\t TWO  WORDS \n")
    assert read_labels(path) == {"a": "", "c": "TWO WORDS"}
    write_labels(path, ["b", "c"], read_labels(path))
    assert path.read_text() == "b\t\nc\tTWO WORDS\na\t-\n"
    for bad in ("a b\n", "a\tx\na\ty\n"):
        path.write_text(bad)
        with pytest.raises(ValueError, match="must be an id, a tab and what is said"):
            read_labels(path)
