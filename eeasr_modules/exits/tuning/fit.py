"""Fitting policies on dev, and what their scores are worth there: from models that never saw the speaker.

A threshold chosen on the very utterances that a model was fitted on would be optimistic. So the scores that
thresholds are chosen by come from cross-fitting: each fold of speakers is scored by a model of the others; the
model that is handed out is then fitted on all.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from eeasr_modules.exits.policies.combine import map_leaves, policy_leaves
from eeasr_modules.exits.policies.fitted import KINDS, Fitted, FittedModel
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tables.parts import speaker_folds
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.replay import needed_signal

# fits of a table, so that several budgets, curves and reports on it fit once; gone when the table is
_FITS: "weakref.WeakKeyDictionary[ExitTable, dict]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class RecordedScores:
    """Scores that were worked out before and lie in a table, in the place of the model that gave them.

    Arguments
    ---------
    name : str
        A key of `KINDS`.
    exit_layers : tuple of int
        Exits.
    """

    name: str
    exit_layers: tuple[int, ...]
    model_digest = None
    fitted_on = MappingProxyType({})

    @property
    def needs(self) -> tuple[str, ...]:
        """The signal that holds the scores."""
        return (f"score of {self.name}",)

    def start(self, n: int) -> np.ndarray:
        """State of n utterances: nothing, of shape (n, 0)."""
        return np.zeros((n, 0))

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scores as they are."""
        return signals[self.needs[0]], state


def fit_model(name: str, tables: Sequence[ExitTable]) -> FittedModel:
    """Fit a policy's model on dev tables.

    Arguments
    ---------
    name : str
        A key of `KINDS`.
    tables : sequence of ExitTable
        Dev data; several tables must have the same exits.

    Raises
    ------
    ValueError
        When exits differ or a table lacks a signal.
    """
    if name not in KINDS:
        raise ValueError(f"a fitted policy must be one of {', '.join(KINDS)}, got {name!r}")
    for signal in KINDS[name].signals:
        for table in tables:
            needed_signal(table, signal, policy=name)
    return KINDS[name].load().fit(tables, name=name, signals=KINDS[name].signals)


def scores_of(model: FittedModel, table: ExitTable) -> np.ndarray:
    """A model's score of every utterance at every exit but the last.

    Returns
    -------
    np.ndarray of shape (n_utterances, n_exits)
        0 in the last column, which no policy asks for.
    """
    signals = {name: needed_signal(table, name, policy=model.name) for name in model.needs}
    scores, state = np.zeros((table.n_utterances, table.n_exits)), model.start(table.n_utterances)
    for k in range(table.n_exits - 1):
        scores[:, k], state = model.step({name: values[:, k] for name, values in signals.items()}, state)
    return scores


def cross_fitted(name: str, table: ExitTable, *, n_folds: int = 10) -> tuple[FittedModel, np.ndarray]:
    """A model fitted on a whole table, and scores of each of its speakers by models that never saw them.

    Arguments
    ---------
    name : str
        A key of `KINDS`.
    table : ExitTable
        Dev data.
    n_folds : int
        Folds of speakers.

    Returns
    -------
    tuple of (FittedModel, np.ndarray of shape (n_utterances, n_exits))
        As `scores_of`.
    """
    kept = _FITS.setdefault(table, {})
    if (name, n_folds) not in kept:
        fold = speaker_folds(table, n_folds)
        whole = table.with_signals({})  # what is derived of it goes when all are fitted
        of_all = fit_model(name, [whole])  # first: the folds then take their parts of what it worked out
        scores = np.zeros((table.n_utterances, table.n_exits))
        for i in np.unique(fold):
            model = fit_model(name, [whole.select(fold != i)])
            scores[fold == i] = scores_of(model, whole.select(fold == i))
        kept[name, n_folds] = of_all, scores
    return kept[name, n_folds]


def models_of(policy: Policy) -> dict[str, FittedModel]:
    """The fitted models in a policy, by name."""
    leaves = [leaf for leaf in policy_leaves(policy) if isinstance(leaf, Fitted)]
    return {leaf.name: leaf.model for leaf in leaves if leaf.model is not None}


def with_models(policy: Policy, models: Mapping[str, FittedModel]) -> Policy:
    """The policy with fitted models put where their names stand.

    Arguments
    ---------
    policy : policy
        Any.
    models : mapping of str to FittedModel
        By name; those that the policy does not name are not used.

    Example
    -------
    >>> from eeasr_modules.exits.policies.text import parse_policy
    >>> print(with_models(parse_policy("between(4, 8, entropy(0.1))"), {}))
    between(4, 8, entropy(0.1))
    """

    def filled(leaf: Policy) -> Policy:
        known = models.get(leaf.name) if isinstance(leaf, Fitted) else None
        return leaf if known is None else replace(leaf, model=known)

    return map_leaves(policy, filled) if models else policy


def scored(policy: Policy, table: ExitTable, *, n_folds: int = 10) -> tuple[Policy, ExitTable, dict[str, FittedModel]]:
    """A policy and a table on which its fitted scores are recorded signals, worked out once.

    Models that a policy lacks are fitted on the table, and their scores there are cross-fitted.

    Returns
    -------
    tuple of (policy, ExitTable, dict of str to FittedModel)
        To be calibrated with, and the models for `with_models` afterwards; as given where nothing is fitted.
    """
    leaves = {leaf.name: leaf for leaf in policy_leaves(policy) if isinstance(leaf, Fitted)}
    if not leaves:
        return policy, table, {}
    models, signals = {}, {}
    for name, leaf in leaves.items():
        if isinstance(leaf.model, RecordedScores):
            models[name] = leaf.model
            continue
        if leaf.model is None:
            models[name], scores = cross_fitted(name, table, n_folds=n_folds)
        else:
            models[name], scores = leaf.model, scores_of(leaf.model, table)
        signals[f"score of {name}"] = scores
    layers = tuple(int(layer) for layer in table.exit_layers)
    recorded = with_models(policy, {name: RecordedScores(name, layers) for name in leaves})
    return recorded, table.with_signals(signals), models
