"""Replay: what a policy would have chosen on a recorded table, what that costs, and what fitted policies score there.

Replay asks the same `step` as live decoding, with the stored signals. Costs are totals per utterance; a mean
cost is their sum over the summed seconds of audio (`mean_cost`): for `cost_layers` that is the
duration-weighted mean depth in layers, for `cost_macs` MACs per second of audio.

Fitted policies: a threshold chosen on the very utterances that a model was fitted on would be optimistic. So the scores
that thresholds are chosen by come from cross-fitting: each fold of speakers is scored by a model of the others; the
model that is handed out is then fitted on all.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from eeasr_modules.exits.policies.combine import check_against, map_leaves, policy_leaves
from eeasr_modules.exits.policies.protocol import (
    DECODER_SIGNALS,
    KINDS,
    Fitted,
    FittedModel,
    Policy,
    exits_back,
    reach_of,
    text_form,
)
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds

COSTS = ("cost_layers", "cost_macs")


@dataclass(frozen=True, eq=False)
class Decisions:
    """Where utterances stopped, and what they said."""

    decided: np.ndarray  # (n_utterances,), exit at which each stopped, from 0: what is paid for
    # (n_utterances,), exit whose transcript came out, from 0; nowhere after `decided`, and the same without an output
    # rule
    emitted: np.ndarray


def decide(policy: Policy, table: ExitTable) -> Decisions:
    """The exit at which each utterance stops, and the one whose transcript it emits.

    ValueError when the policy is open, names a layer without an exit, or needs a signal that the table lacks.
    """
    signals = needed_signals(policy, table)
    last = table.n_exits - 1
    decided, back = np.full(table.n_utterances, last), np.zeros(table.n_utterances, dtype=np.int64)
    rows, state = np.arange(table.n_utterances), policy.start(table.n_utterances)
    for k in range(table.n_exits if reach_of(policy) else last):
        stop, state = policy.step({name: values[rows, k] for name, values in signals.items()}, state)
        if k == last:  # it accepts whatever came; only the output rule wants to know
            stop = np.ones(len(rows), dtype=bool)
        decided[rows[stop]] = k
        back[rows[stop]] = exits_back(policy, state[stop], k)
        rows, state = rows[~stop], state[~stop]
    return Decisions(decided, decided - back)


def replay(policy: Policy, table: ExitTable) -> np.ndarray:
    """The exit at which each utterance stops: `decided` of `decide`, which arguments and errors are as of.

    Returns np.ndarray of shape (n_utterances,): `exit_index`, from 0.
    """
    return decide(policy, table).decided


def exit_costs(table: ExitTable, cost: str = "cost_layers") -> np.ndarray:
    """Cost of going straight to each exit and emitting its transcript: what static exits and oracles pay.

    Returns np.ndarray of shape (n_utterances, n_exits). ValueError when the cost is unknown, or the table does not know
    its MACs. `cost`: "cost_layers" (layers * seconds), or "cost_macs" (front end, layers, the one head, and the
    attention decoder where transcripts are its own).
    """
    if cost not in COSTS:
        raise ValueError(f"cost must be one of {', '.join(COSTS)}, got {cost!r}")
    if cost == "cost_layers":
        return table.cost_layers
    if table.cost_macs is None or table.head_macs is None:
        raise ValueError("the exit table does not know MACs (cost_macs, head_macs); use cost_layers")
    return table.cost_macs + table.head_macs + (0.0 if table.decoder_macs is None else table.decoder_macs)


def policy_costs(policy: Policy, table: ExitTable, *, cost: str = "cost_layers") -> np.ndarray:
    """Cost of stopping at each exit under a policy, with every head that it reads on the way.

    To be read at the exit decided, whichever is emitted.

    A policy that reads signals of the attention decoder runs it at every exit that it reads; any other policy has it
    run at the exit that is taken.

    Returns np.ndarray of shape (n_utterances, n_exits): nowhere below `exit_costs`.
    """
    costs = exit_costs(table, cost)
    if cost == "cost_layers":
        return costs
    read_before = table.head_macs * policy.reads(table.exit_layers)
    if table.decoder_macs is not None and DECODER_SIGNALS & set(policy.needs):
        read_before = read_before + table.decoder_macs * policy.reads(table.exit_layers)
    return costs + np.cumsum(read_before, axis=1) - read_before


def mean_cost(costs: np.ndarray, weights: np.ndarray) -> float:
    """Summed cost over summed weights (seconds of audio), both of shape (n_utterances,).

    Returns float: in layers for `cost_layers`.
    """
    return float(np.sum(costs) / np.sum(weights))


def choice_point(policy: Policy, table: ExitTable, *, cost: str = "cost_layers") -> tuple[float, float]:
    """Mean cost of a policy on a table, of the exits where it decided, and WER in percent, of those that it emitted."""
    rows, chosen = np.arange(table.n_utterances), decide(policy, table)
    paid = mean_cost(policy_costs(policy, table, cost=cost)[rows, chosen.decided], table.duration_s)
    return paid, table.wer_of(chosen.emitted)


def needed_signals(policy: Policy, table: ExitTable) -> dict[str, np.ndarray]:
    """The signals that a policy reads, once it is known that it can decide on this table.

    Returns dict of str to np.ndarray of shape (n_utterances, n_exits).
    """
    check_against(policy, table.exit_layers)
    if policy.is_open:
        raise ValueError(f"{policy} is open and cannot be replayed: give its arguments or calibrate it on dev")
    _refuse_other_model(policy, table)
    return {name: needed_signal(table, name, policy=policy) for name in policy.needs}


def _refuse_other_model(policy: Policy, table: ExitTable) -> None:
    """What was fitted on one model's exits knows nothing of another's, unless it is said to be for any."""
    theirs = table.metadata.get("model_digest")
    for leaf in policy_leaves(policy):
        ours = getattr(getattr(leaf, "model", None), "model_digest", None)
        if ours is not None and theirs is not None and ours != theirs:
            raise ValueError(
                f"{leaf} was fitted on the exits of model {ours}, but the table is of model {theirs}; calibrate it on "
                f"a dev table of that model, or replace its model_digest by None to use it all the same"
            )


def needed_signal(table: ExitTable, name: str, *, policy: object = "a policy") -> np.ndarray:
    """One signal of a table, where its absence is the caller's mistake; shape (n_utterances, n_exits).

    ValueError when the table has no such signal; a fitted policy that would do without is named.
    """
    try:
        return table.signal(name)
    except KeyError as err:
        raise ValueError(f"{policy} needs a signal that is not there: {err.args[0]}{text_form(policy)}") from err


# fits of a table, so that several budgets, curves and reports on it fit once; gone when the table is
_FITS: "weakref.WeakKeyDictionary[ExitTable, dict]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class RecordedScores(FittedModel):
    """Scores that were worked out before and lie in a table, in the place of the model that gave them."""

    name: str  # a key of `KINDS`
    exit_layers: tuple[int, ...]  # exits
    model_digest = None
    fitted_on = MappingProxyType({})

    @property
    def needs(self) -> tuple[str, ...]:
        """The signal that holds the scores."""
        return (f"score of {self.name}",)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scores as they are."""
        return signals[self.needs[0]], state


def fit_model(name: str, tables: Sequence[ExitTable]) -> FittedModel:
    """Fit a policy's model on dev tables. ValueError when exits differ or a table lacks a signal."""
    if name not in KINDS:
        raise ValueError(f"a fitted policy must be one of {', '.join(KINDS)}, got {name!r}")
    for signal in KINDS[name].signals:
        for table in tables:
            needed_signal(table, signal, policy=name)
    return KINDS[name].load().fit(tables, name=name, signals=KINDS[name].signals)


def scores_of(model: FittedModel, table: ExitTable) -> np.ndarray:
    """A model's score of every utterance at every exit but the last.

    Returns np.ndarray of shape (n_utterances, n_exits): 0 in the last column, which no policy asks for.
    """
    signals = {name: needed_signal(table, name, policy=model.name) for name in model.needs}
    scores, state = np.zeros((table.n_utterances, table.n_exits)), model.start(table.n_utterances)
    for k in range(table.n_exits - 1):
        scores[:, k], state = model.step({name: values[:, k] for name, values in signals.items()}, state)
    return scores


def cross_fitted(name: str, table: ExitTable, *, n_folds: int = 10) -> tuple[FittedModel, np.ndarray]:
    """A model fitted on a whole table, and scores of each of its speakers by models that never saw them.

    Returns tuple of (FittedModel, np.ndarray of shape (n_utterances, n_exits)): as `scores_of`.
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

    Returns tuple of (policy, ExitTable, dict of str to FittedModel): to be calibrated with, and the models for
    `with_models` afterwards; as given where nothing is fitted.
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
