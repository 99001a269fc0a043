import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentences import unsettled_table

from eeasr_modules.exits.measure.edits import count_word_edits
from eeasr_modules.exits.measure.fusion import (
    FusionModel,
    _fit_parts,
    _LabelledRegions,
    fuse,
    fused_table,
    read_fusion,
)
from eeasr_modules.exits.measure.regions import Heard, feature_names, pass_exit
from eeasr_modules.exits.policies.files import write_fitted
from eeasr_modules.exits.policies.trees import Trees
from eeasr_modules.exits.words.resources import word_spelling

BEST_PATH = runpy.run_path(str(Path(__file__).parents[4] / "benchmarks" / "best_path.py"))
best_path_errors, lattice_errors = BEST_PATH["best_path_errors"], BEST_PATH["lattice_errors"]
WORDS = st.lists(st.sampled_from("abcd"), max_size=6)


@pytest.fixture(scope="module")
def dev():
    return unsettled_table(0, 300)


@pytest.fixture(scope="module")
def fitted(dev):
    return FusionModel.fit_fused([dev])


@pytest.fixture(scope="module")
def table():
    return unsettled_table(1, 80)


def test_fused_transcripts_have_fewer_errors_than_the_exits(fitted, table):
    model, (dev_fused,) = fitted
    fused = fused_table(table, fuse(table, model))
    assert (fused.wer_per_exit[1:] < table.wer_per_exit[1:]).all()
    assert fused.wer_per_exit[-1] < 0.7 * table.wer_per_exit[-1]
    assert dev_fused.metadata["output"] == "fused"
    assert (fused.hypotheses[:, 0] == table.hypotheses[:, 0]).all()


def test_an_utterance_is_fused_alike_alone_and_in_every_batch(fitted, table):
    whole = fuse(table, fitted[0])
    for rows in (np.array([5]), np.arange(7), np.random.default_rng(0).permutation(80)[:33]):
        assert (fuse(table.select(rows), fitted[0]) == whole[rows]).all()


def test_dropping_who_stopped_changes_nothing_for_the_others(fitted, table):
    rule = fitted[0]
    whole, rows, state = fuse(table, rule), np.arange(80), rule.start(80)
    for k in range(table.n_exits):
        signals = {name: table.signal(name)[rows, k] for name in rule.needs}
        texts, state = rule.step(signals, state)
        assert (texts == whole[rows, k]).all()
        stays = rows % (k + 2) != 0
        rows, state = rows[stays], state[stays]


def test_a_region_can_be_kept_taken_and_inserted():
    old = Heard(["a", "b", "c"], [3, 2, 1], (" a b c ",), np.zeros(0), [(0, 0), (0, 1), (0, 2)])

    def fused(text, stays):
        knobs = {"exit_index": 1, "scalars": np.zeros((1, 0)), "spelling": word_spelling("en")}
        (heard,), _ = pass_exit([text], [old], keeps=lambda features, utterance: np.array(stays), **knobs)
        return heard.words, heard.ages, heard.transcripts

    assert fused("a x c", [True]) == (["a", "b", "c"], [4, 2, 2], (" a b c ", " a x c "))
    assert fused("a x c", [False])[:2] == (["a", "x", "c"], [4, 1, 2])
    assert fused("a c d", [True, False])[:2] == (["a", "b", "c", "d"], [4, 2, 2, 1])
    assert fused("", [True])[:2] == (["a", "b", "c"], [3, 2, 1])
    assert fused("", [False])[:2] == ([], [])


@given(WORDS, st.lists(WORDS, min_size=1, max_size=4))
def test_the_best_path_has_at_most_the_errors_of_every_transcript(reference, transcripts):
    errors = best_path_errors(reference, transcripts)
    assert 0 <= errors <= min(count_word_edits(" ".join(reference), " ".join(words)) for words in transcripts)
    assert errors >= len({*reference} - {w for words in transcripts for w in words})


def test_the_best_path_combines_variants_and_inserted_words():
    first, second, third = (text.split() for text in ("the dog sat on", "the cog sat", "a cat sat down"))
    said = ["the", "cat", "sat", "on"]
    assert best_path_errors(said, [first, second]) == 1  # "on" from the first
    assert best_path_errors(said, [first, second, third]) == 1  # "the dog" and "on" from the first
    assert best_path_errors(["the", "dog", "sat", "down"], [first, second, third]) == 0
    assert best_path_errors([], [["a"], []]) == 0
    assert best_path_errors(["a"], [["a"], []]) == 0


def test_no_fused_output_needs_fewer_errors_than_the_best_path_and_it_falls_with_the_exits(fitted, table):
    best = lattice_errors(table)
    assert (best <= np.minimum.accumulate(table.errors, axis=1)).all()
    assert (best[:, 0] == table.errors[:, 0]).all()
    fused = fused_table(table, fuse(table, fitted[0]))
    assert (best.sum(axis=0) <= fused.errors.sum(axis=0)).all()


def test_a_fitted_model_gives_the_same_transcripts_back_from_its_content(fitted, table):
    model = fitted[0]
    content = {**model.content(), "name": "fusion", "exit_layers": list(model.exit_layers)}
    again = FusionModel.from_content({**content, "model_digest": None, "fitted_on": {}}, model.arrays())
    assert (fuse(table, again) == fuse(table, model)).all()
    with pytest.raises(ValueError, match="other features"):
        FusionModel.from_content({**content, "features": []}, model.arrays())


def test_transcripts_alone_are_enough_for_fusion(dev, table):
    model = FusionModel.fit_fused([dev], signals=())[0]
    assert model.needs == ("hypothesis", "exit_layer")
    fused = fused_table(table, fuse(table, model))
    assert fused.wer_per_exit[-1] < table.wer_per_exit[-1]
    assert fused.signals["n_words"].tolist() == [[len(text.split()) for text in row] for row in fused.hypotheses]
    assert (fused.signals["entropy"] == table.signals["entropy"]).all()


def test_what_cannot_be_fused_is_refused(fitted, dev, table):
    with pytest.raises(ValueError, match="fitted on references"):
        FusionModel.fit_fused([dev.without_references()])
    with pytest.raises(ValueError, match="counted on references"):
        fused_table(table.without_references(), table.hypotheses)
    with pytest.raises(ValueError, match="best path"):
        lattice_errors(table.without_references())
    silent = replace(table, signals={})
    with pytest.raises(ValueError, match="entropy"):
        fuse(silent, fitted[0])
    agreeing = np.repeat(dev.hypotheses[:, :1], dev.n_exits, axis=1)
    with pytest.raises(ValueError, match="exits that disagree"):
        FusionModel.fit_fused([fused_table(dev, agreeing)])


def test_each_part_is_fused_by_trees_that_never_saw_it():
    regions = [
        _LabelledRegions(np.zeros((300, 4)), np.arange(300), np.where(np.arange(300) % 3 == 0, 3.0, -1.0)),
    ]
    trees = _fit_parts(regions, [np.arange(300) % 3], 3)
    assert [float(one.predict(np.zeros((1, 4)))[0]) for one in trees] == pytest.approx([-1.0, 1.0, 1.0])


def keeps_known_words():
    """One tree: the earlier variant saves an error where this exit's has more unknown words than it."""
    column = feature_names(()).index("n_unknown_difference")
    node = {"feature": [[column, -1, -1]], "threshold": [[0.5, 0, 0]], "left": [[1, 0, 0]], "right": [[2, 0, 0]]}
    trees = Trees(**{key: np.array(rows) for key, rows in node.items()}, value=np.array([[0.0, 0.0, -1.0]]), baseline=0)
    return FusionModel((), "en", (2, 4, 6), trees)


def test_three_exits_fused_by_hand():
    model, state, fused = keeps_known_words(), np.full((1, 1), None, dtype=object), []
    for layer, text in ((2, "THE CAT SAT"), (4, "THE QXZJK SAT ON"), (6, "THE ZQXJ SAT OFF")):
        signals = {"hypothesis": np.array([text], dtype=object), "exit_layer": np.array([layer])}
        texts, state = model.step(signals, state)
        fused.append((texts[0], state[0, 0].origins))
    # the second exit's unknown word goes, its insertion stays; of the third ON becomes OFF, and CAT stays
    assert fused == [
        ("THE CAT SAT", [(0, 0), (0, 1), (0, 2)]),
        ("THE CAT SAT ON", [(1, 0), (0, 1), (1, 2), (1, 3)]),
        ("THE CAT SAT OFF", [(2, 0), (0, 1), (2, 2), (2, 3)]),
    ]


def test_a_fusion_is_read_as_it_was_written(tmp_path, fitted, table):
    write_fitted(tmp_path, replace(fitted[0], model_digest="one"))
    again = read_fusion(tmp_path, model_digest="one")
    assert (fuse(table, again) == fuse(table, fitted[0])).all()
    with pytest.raises(ValueError, match="was fitted on the exits of model one, but this is model other"):
        read_fusion(tmp_path, model_digest="other")
    (tmp_path / "fusion.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"fusion\.npz"):
        read_fusion(tmp_path)
