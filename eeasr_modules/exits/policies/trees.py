"""Boosted regression trees: fitted by scikit-learn, kept as plain arrays, predicted in numpy.

Prediction follows QuickScorer (Lucchese et al. 2015): a tree's leaves are bits, numbered from left to right;
each comparison that sends a row to the right clears the bits of the leaves on its left; what remains lowest is
the leaf. Whatever one feature clears depends only on which of the feature's thresholds its value passes, so
the masks of all trees are tabled per feature and interval of values, and a row costs one table row per feature.
No pickle is read or written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

MAX_LEAVES = 16
CHUNK_ROWS = 1024  # what a row needs for 240 trees stays in the cache


@dataclass(frozen=True, eq=False)
class Bins:
    """Features of the rows that trees are fitted on, as intervals: made once for all trees of the same rows.

    scikit-learn finds weighted percentiles by sorting a feature again for each of them, which took most of a
    fit; here a feature is sorted once. What it is given are numbers of intervals, of which it makes its own.
    """

    edges: tuple[np.ndarray, ...]  # (n_edges,), per feature, rising: interval i ends with edge i, which belongs to it
    intervals: np.ndarray  # (n_rows, n_features), from 0

    @classmethod
    def of(cls, features: np.ndarray, *, weights: np.ndarray | None = None, max_bins: int = 127) -> "Bins":
        """Intervals between all values of a feature, or where there are too many, between its percentiles.

        `features` (n_rows, n_features). `weights` (n_rows,): of the rows, above 0. `max_bins`: intervals of each
        feature, at most 255.

        Example
        -------
        >>> Bins.of(np.array([[1.0], [3.0], [3.0], [9.0]])).edges
        (array([2., 6.]),)
        """
        weights = np.ones(len(features)) if weights is None else weights
        edges = tuple(_edges(column, weights, max_bins=max_bins) for column in features.T)
        intervals = [np.searchsorted(e, column).astype(np.uint8) for e, column in zip(edges, features.T)]
        return cls(edges, np.stack(intervals, axis=1))


def _edges(values: np.ndarray, weights: np.ndarray, *, max_bins: int) -> np.ndarray:
    """As scikit-learn's: midpoints, or weighted percentiles (of two values where one ends exactly there, the mean)."""
    order = np.argsort(values)
    values, weight_up_to = values[order], np.cumsum(weights[order])
    starts = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    distinct = values[starts]
    if len(distinct) <= max_bins:
        return (distinct[:-1] + distinct[1:]) / 2
    wanted = np.linspace(0.0, 100.0, max_bins + 1)[1:-1] / 100.0 * weight_up_to[-1]
    last = len(values) - 1
    lower = values[np.minimum(np.searchsorted(weight_up_to, wanted, side="left"), last)]
    upper = values[np.minimum(np.searchsorted(weight_up_to, wanted, side="right"), last)]
    return np.unique((lower + upper) / 2)


@dataclass(frozen=True, eq=False)
class Trees:
    """A sum of small regression trees.

    ValueError when a tree has more than 16 leaves, arrays differ in shape, or children do not make a tree.
    """

    # int (n_trees, n_nodes), which feature a node compares; -1 at leaves (and beyond the tree's last node)
    feature: np.ndarray
    threshold: np.ndarray  # (n_trees, n_nodes), a row goes to the left child where its value is at most this
    # left, right: int (n_trees, n_nodes), children
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray  # (n_trees, n_nodes), what a leaf adds
    baseline: float  # what the trees add to

    def __post_init__(self) -> None:
        shape = self.feature.shape
        if len(shape) != 2 or any(getattr(self, name).shape != shape for name in ("threshold", *_INTEGERS, "value")):
            raise ValueError(f"all arrays of trees must be of shape (n_trees, n_nodes), got feature {shape}")
        if shape[1] > 2 * MAX_LEAVES - 1:
            raise ValueError(f"trees must have at most {MAX_LEAVES} leaves, got room for {shape[1]} nodes")
        if not all(np.issubdtype(getattr(self, name).dtype, np.integer) for name in ("feature", *_INTEGERS)):
            raise ValueError("features and children of trees must be whole numbers")
        self._refuse_other_graphs()

    def _refuse_other_graphs(self) -> None:
        """What is walked must end: a child comes after its parent, as scikit-learn numbers them, and has one alone."""
        tree, node = np.nonzero(self.feature >= 0)
        for name in _INTEGERS:
            child = getattr(self, name)[tree, node]
            wrong = np.flatnonzero((child <= node) | (child >= self.feature.shape[1]))
            if len(wrong):
                i = wrong[0]
                raise ValueError(
                    f"children of a tree's node must come after it, below {self.feature.shape[1]}; node {node[i]} of "
                    f"tree {tree[i]} has {child[i]} on its {name}"
                )
        children = np.concatenate([self.left[tree, node], self.right[tree, node]])
        places = np.concatenate([tree, tree]) * self.feature.shape[1] + children
        if len(np.unique(places)) < len(places):
            raise ValueError("a node of a tree must be the child of one other, but some are of two")

    @classmethod
    def fit(
        cls,
        features: np.ndarray | Bins,
        target: np.ndarray,
        *,
        weights: np.ndarray | None = None,
        n_trees: int = 50,
        learning_rate: float = 0.15,
        min_samples_leaf: int = 150,
        l2: float = 10.0,
        max_bins: int = 127,
    ) -> "Trees":
        """Trees boosted on squared error by scikit-learn's `HistGradientBoostingRegressor`.

        `features` (n_rows, n_features): finite; or what `Bins.of` made of them, where several fits are on the same
        rows. `target` and `weights` (n_rows,). `learning_rate`: share of each tree that is kept. `max_bins`: intervals
        of each feature that are told apart, at most 255; bins that are given have theirs.
        """
        from sklearn.ensemble import HistGradientBoostingRegressor

        bins = features if isinstance(features, Bins) else Bins.of(features, weights=weights, max_bins=max_bins)
        model = HistGradientBoostingRegressor(
            max_iter=n_trees,
            learning_rate=learning_rate,
            max_leaf_nodes=MAX_LEAVES,
            min_samples_leaf=min_samples_leaf,
            l2_regularization=l2,
            max_bins=max(2, *(len(edges) + 1 for edges in bins.edges)),
            early_stopping=False,
            random_state=0,
        )
        model._bin_data = partial(_binned, model, bins.intervals)  # where a release lacks it, it only sorts again
        trees = cls.from_sklearn(model.fit(bins.intervals, target, sample_weight=weights))
        # between two intervals: the edge that the lower one ends with
        inner = trees.feature >= 0
        between = zip(trees.feature[inner], trees.threshold[inner])
        trees.threshold[inner] = [bins.edges[column][int(threshold)] for column, threshold in between]
        return trees

    @classmethod
    def from_sklearn(cls, model) -> "Trees":
        """The trees of a fitted `HistGradientBoostingRegressor` of one output and without categories."""
        nodes = [predictor.nodes for (predictor,) in model._predictors]
        shape = (len(nodes), max((len(tree) for tree in nodes), default=1))
        arrays = {
            "feature": np.full(shape, -1, dtype=np.int16),
            "threshold": np.zeros(shape),
            "left": np.zeros(shape, dtype=np.int16),
            "right": np.zeros(shape, dtype=np.int16),
            "value": np.zeros(shape),
        }
        for i, tree in enumerate(nodes):
            inner = tree["is_leaf"] == 0
            here = i, slice(len(tree))
            arrays["feature"][here] = np.where(inner, tree["feature_idx"], -1)
            arrays["threshold"][here] = np.where(inner, tree["num_threshold"], 0.0)
            arrays["left"][here] = np.where(inner, tree["left"], 0)
            arrays["right"][here] = np.where(inner, tree["right"], 0)
            arrays["value"][here] = np.where(inner, 0.0, tree["value"])
        return cls(**arrays, baseline=float(np.ravel(model._baseline_prediction)[0]))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The sum of all trees for each row; a row's is the same whatever rows come with it; shape (n_rows,).

        Example
        -------
        >>> x = np.arange(400.0)[:, None]
        >>> trees = Trees.fit(x, np.where(x[:, 0] < 200, 1.0, 3.0), min_samples_leaf=20)
        >>> trees.predict(np.array([[10.0], [390.0]])).round(1)
        array([1., 3.])
        """
        tables, leaf_values = self._tables
        if len(features) > CHUNK_ROWS:
            parts = np.split(features, range(CHUNK_ROWS, len(features), CHUNK_ROWS))
            return np.concatenate([self.predict(part) for part in parts])
        # (rows, trees): the leaves that no comparison has ruled out
        alive = np.full((len(features), len(self.feature)), 0xFFFF, dtype=np.uint16)
        for column, (thresholds, masks) in tables.items():
            # how many thresholds lie strictly below the value: those comparisons send it to the right
            alive &= masks[thresholds.searchsorted(features[:, column], side="left")]
        reached = leaf_values[np.arange(alive.shape[1]) * MAX_LEAVES + _LOWEST_BIT[alive]]
        return self.baseline + reached.sum(axis=1)

    @cached_property
    def _tables(self) -> tuple[dict[int, tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """Per feature its thresholds and the masks (n_thresholds + 1, n_trees); leaf values, 16 for each tree."""
        comparisons: dict[int, list[tuple[float, int, int]]] = {}
        leaf_values = np.zeros(len(self.feature) * MAX_LEAVES)
        for tree in range(len(self.feature)):
            self._number_leaves(tree, 0, 0, comparisons=comparisons, leaf_values=leaf_values)
        tables = {}
        for column, nodes in sorted(comparisons.items()):
            thresholds = np.unique([threshold for threshold, _, _ in nodes])
            masks = np.full((len(thresholds) + 1, len(self.feature)), 0xFFFF, dtype=np.uint16)
            for threshold, tree, cleared in nodes:
                masks[np.searchsorted(thresholds, threshold) + 1 :, tree] &= np.uint16(0xFFFF & ~cleared)
            tables[column] = (thresholds, masks)
        return tables, leaf_values

    def _number_leaves(self, tree: int, node: int, first_leaf: int, *, comparisons: dict, leaf_values: np.ndarray):
        """Number the leaves below a node from `first_leaf`; the number after the last is returned."""
        column = int(self.feature[tree, node])
        if column < 0:
            leaf_values[tree * MAX_LEAVES + first_leaf] = self.value[tree, node]
            return first_leaf + 1
        kept = {"comparisons": comparisons, "leaf_values": leaf_values}
        middle = self._number_leaves(tree, int(self.left[tree, node]), first_leaf, **kept)
        left_leaves = (1 << middle) - (1 << first_leaf)
        comparisons.setdefault(column, []).append((float(self.threshold[tree, node]), tree, left_leaves))
        return self._number_leaves(tree, int(self.right[tree, node]), middle, **kept)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Everything as arrays for an `.npz` file."""
        named = {name: getattr(self, name) for name in _ARRAYS}
        return {f"{prefix}{name}": array for name, array in {**named, "baseline": np.array(self.baseline)}.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> "Trees":
        """The trees that `arrays` gave. ValueError when an array is not there."""
        missing = [f"{prefix}{name}" for name in (*_ARRAYS, "baseline") if f"{prefix}{name}" not in arrays]
        if missing:
            raise ValueError(f"fitted trees must come with the arrays {', '.join(missing)}; the file is not whole")
        loaded = {name: np.asarray(arrays[f"{prefix}{name}"]) for name in _ARRAYS}
        return cls(**loaded, baseline=float(arrays[f"{prefix}baseline"]))


def _binned(model, intervals: np.ndarray, rows: np.ndarray, *_, **__) -> np.ndarray:
    """What scikit-learn's own bins of the rows are, from the intervals that occur: it would sort each feature again."""
    occur = [np.flatnonzero(np.bincount(column)) for column in intervals.T]
    longest = max(map(len, occur))
    levels = [np.pad(one.astype(rows.dtype), (0, longest - len(one)), mode="edge") for one in occur]
    return model._bin_mapper.fit(np.stack(levels, axis=1)).transform(rows)


def mean_of_trees(several: Sequence[Trees]) -> Trees:
    """Trees that predict the mean of what several predict."""
    n_nodes = max(trees.feature.shape[1] for trees in several)

    def joined(name: str) -> np.ndarray:
        absent = -1 if name == "feature" else 0
        arrays = [getattr(trees, name) for trees in several]
        padded = [np.pad(a, ((0, 0), (0, n_nodes - a.shape[1])), constant_values=absent) for a in arrays]
        return np.concatenate(padded)

    arrays = {name: joined(name) for name in _ARRAYS}
    arrays["value"] = arrays["value"] / len(several)
    return Trees(**arrays, baseline=sum(trees.baseline for trees in several) / len(several))


_INTEGERS = ("left", "right")
_ARRAYS = ("feature", "threshold", *_INTEGERS, "value")
# of each 16-bit number the place of its lowest set bit
_LOWEST_BIT = np.zeros(1 << 16, dtype=np.intp)
for _bit in reversed(range(16)):
    _LOWEST_BIT[np.arange(1 << _bit, 1 << 16, 1 << (_bit + 1))] = _bit
