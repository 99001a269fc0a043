from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from eeasr_modules.exits.policies.trees import Bins, Trees, mean_of_trees


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 6))
    features[:, :3] = features[:, :3].round()  # ties, and values that lie on thresholds
    return features, features[:, 0] * features[:, 1] + np.abs(features[:, 4]) + rng.normal(size=3000)


@pytest.fixture(scope="module")
def fitted(data):
    model = HistGradientBoostingRegressor(max_iter=40, max_leaf_nodes=16, min_samples_leaf=20, early_stopping=False)
    model.fit(*data)
    return model, Trees.from_sklearn(model)


def test_predictions_are_those_of_scikit_learn(fitted, data):
    model, trees = fitted
    far = np.concatenate([data[0], 10 * data[0], np.zeros((1, 6))])
    assert trees.predict(far) == pytest.approx(model.predict(far), abs=1e-9)


def test_a_value_on_a_threshold_goes_left_as_in_scikit_learn(fitted):
    model, trees = fitted
    on = np.zeros((200, 6))
    column, threshold = trees.feature[trees.feature >= 0][:200], trees.threshold[trees.feature >= 0][:200]
    on[np.arange(len(column)), column] = threshold
    assert trees.predict(on) == pytest.approx(model.predict(on), abs=1e-9)


def test_a_row_has_the_same_bits_alone_and_in_every_batch(fitted, data):
    trees = fitted[1]
    whole = trees.predict(data[0])
    for rows in (np.array([3]), np.arange(7), np.arange(32), np.random.default_rng(0).permutation(3000)[:2500]):
        assert (trees.predict(data[0][rows]) == whole[rows]).all()


def test_arrays_give_the_same_trees_back_and_nothing_is_pickled(fitted, data, tmp_path):
    trees = fitted[1]
    np.savez(tmp_path / "trees.npz", **trees.arrays("a_"))
    with np.load(tmp_path / "trees.npz", allow_pickle=False) as arrays:
        assert (Trees.from_arrays(arrays, "a_").predict(data[0]) == trees.predict(data[0])).all()
        with pytest.raises(ValueError, match=r"b_feature.*not whole"):
            Trees.from_arrays(arrays, "b_")


def test_the_mean_of_trees_predicts_the_mean(data):
    features, target = data
    several = [Trees.fit(features[i::2], target[i::2], n_trees=n, min_samples_leaf=40) for i, n in ((0, 5), (1, 9))]
    expected = np.mean([trees.predict(features) for trees in several], axis=0)
    assert mean_of_trees(several).predict(features) == pytest.approx(expected, abs=1e-12)


def test_trees_that_learned_nothing_predict_the_mean_and_no_rows_give_none():
    trees = Trees.fit(np.zeros((50, 2)), np.arange(50.0))
    assert trees.predict(np.ones((2, 2))) == pytest.approx([24.5, 24.5])
    assert trees.predict(np.zeros((0, 2))).shape == (0,)


def test_arrays_of_other_shapes_are_refused():
    good = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"shape \(n_trees, n_nodes\)"):
        Trees(good.astype(int), good, good.astype(int), good.astype(int), good[:1], 0.0)
    large = np.zeros((1, 33))
    with pytest.raises(ValueError, match="at most 16 leaves"):
        Trees(large.astype(int), large, large.astype(int), large.astype(int), large, 0.0)


def small_tree(**changes):
    """One comparison with two leaves, and room for four more nodes."""
    nodes = {"feature": [0, -1, -1, -1, -1, -1], "left": [1, 0, 0, 0, 0, 0], "right": [2, 0, 0, 0, 0, 0]} | changes
    arrays = {name: np.array([values], dtype=np.int16) for name, values in nodes.items()}
    return Trees(**arrays, threshold=np.zeros((1, 6)), value=np.arange(6.0)[None], baseline=0.0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"left": [0, 0, 0, 0, 0, 0]},
            "a tree's node must come after it, below 6; node 0 of tree 0 has 0 on its left",
        ),
        ({"feature": [0, 0, -1, -1, -1, -1], "left": [1, 0, 0, 0, 0, 0]}, "node 1 of tree 0 has 0 on its left"),
        ({"right": [6, 0, 0, 0, 0, 0]}, "node 0 of tree 0 has 6 on its right"),
        ({"right": [-3, 0, 0, 0, 0, 0]}, "node 0 of tree 0 has -3 on its right"),
        ({"right": [1, 0, 0, 0, 0, 0]}, "a node of a tree must be the child of one other, but some are of two"),
    ],
    ids=["itself", "cycle", "beyond", "negative", "shared"],
)
def test_what_is_no_tree_is_refused_in_one_sentence(changes, sentence):
    assert small_tree().predict(np.array([[-1.0], [1.0]])).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match=sentence):
        small_tree(**changes)


def test_children_that_are_no_whole_numbers_are_refused():
    tree = small_tree()
    with pytest.raises(ValueError, match="features and children of trees must be whole numbers"):
        replace(tree, left=tree.left.astype(float))


@pytest.mark.parametrize("weighted", [True, False])
def test_bins_give_the_trees_that_scikit_learn_makes_of_the_features(data, weighted):
    features, target = data
    weights = np.where(np.arange(len(target)) % 3, 1.0, 4.0)
    knobs = {"max_iter": 30, "learning_rate": 0.15, "max_leaf_nodes": 16, "min_samples_leaf": 40}
    model = HistGradientBoostingRegressor(**knobs, l2_regularization=10.0, max_bins=127, early_stopping=False)
    model.fit(features, target, sample_weight=weights if weighted else None)
    given = {"weights": weights if weighted else None}
    trees = Trees.fit(Bins.of(features, **given), target, n_trees=30, min_samples_leaf=40, **given)
    assert trees.predict(3 * features) == pytest.approx(model.predict(3 * features), abs=1e-9)
    assert set(trees.threshold[trees.feature == 0]) <= {-2.5, -1.5, -0.5, 0.5, 1.5, 2.5}  # of the feature, not of bins
