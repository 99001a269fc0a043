"""Replay: what a policy would have chosen on a recorded table, and what that costs.

Replay asks the same `step` as live decoding, with the stored signals. Costs are totals per utterance; a mean
cost is their sum over the summed seconds of audio (`mean_cost`): for `cost_layers` that is the
duration-weighted mean depth in layers, for `cost_macs` MACs per second of audio.
"""

from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits.policies.combine import check_against, policy_leaves
from eeasr_modules.exits.policies.fitted import text_form
from eeasr_modules.exits.policies.protocol import DECODER_SIGNALS, Policy, exits_back, reach_of
from eeasr_modules.exits.tables.table import ExitTable

COSTS = ("cost_layers", "cost_macs")


@dataclass(frozen=True, eq=False)
class Decisions:
    """Where utterances stopped, and what they said.

    Arguments
    ---------
    decided : np.ndarray of shape (n_utterances,)
        Exit at which each stopped, from 0: what is paid for.
    emitted : np.ndarray of shape (n_utterances,)
        Exit whose transcript came out, from 0; nowhere after `decided`, and the same without an output rule.
    """

    decided: np.ndarray
    emitted: np.ndarray


def decide(policy: Policy, table: ExitTable) -> Decisions:
    """The exit at which each utterance stops, and the one whose transcript it emits.

    Raises
    ------
    ValueError
        When the policy is open, names a layer without an exit, or needs a signal that the table lacks.
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

    Returns
    -------
    np.ndarray of shape (n_utterances,)
        `exit_index`, from 0.
    """
    return decide(policy, table).decided


def exit_costs(table: ExitTable, cost: str = "cost_layers") -> np.ndarray:
    """Cost of going straight to each exit and emitting its transcript: what static exits and oracles pay.

    Arguments
    ---------
    table : ExitTable
        What was recorded.
    cost : str
        "cost_layers" (layers * seconds), or "cost_macs" (front end, layers, the one head, and the attention decoder
        where transcripts are its own).

    Returns
    -------
    np.ndarray of shape (n_utterances, n_exits)

    Raises
    ------
    ValueError
        When the cost is unknown, or the table does not know its MACs.
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

    Arguments
    ---------
    policy : policy
        Not open.
    table : ExitTable
        What was recorded.
    cost : str
        As for `exit_costs`; layers do not count heads.

    Returns
    -------
    np.ndarray of shape (n_utterances, n_exits)
        Nowhere below `exit_costs`.
    """
    costs = exit_costs(table, cost)
    if cost == "cost_layers":
        return costs
    read_before = table.head_macs * policy.reads(table.exit_layers)
    if table.decoder_macs is not None and DECODER_SIGNALS & set(policy.needs):
        read_before = read_before + table.decoder_macs * policy.reads(table.exit_layers)
    return costs + np.cumsum(read_before, axis=1) - read_before


def mean_cost(costs: np.ndarray, weights: np.ndarray) -> float:
    """Summed cost over summed weights.

    Arguments
    ---------
    costs : np.ndarray of shape (n_utterances,)
        Cost of what was chosen.
    weights : np.ndarray of shape (n_utterances,)
        Seconds of audio.

    Returns
    -------
    float
        In layers for `cost_layers`.
    """
    return float(np.sum(costs) / np.sum(weights))


def choice_point(policy: Policy, table: ExitTable, *, cost: str = "cost_layers") -> tuple[float, float]:
    """Mean cost of a policy on a table, of the exits where it decided, and WER, of those that it emitted.

    Returns
    -------
    tuple of float
        (mean cost, WER in percent)
    """
    rows, chosen = np.arange(table.n_utterances), decide(policy, table)
    paid = mean_cost(policy_costs(policy, table, cost=cost)[rows, chosen.decided], table.duration_s)
    return paid, float(100.0 * table.errors[rows, chosen.emitted].sum() / table.n_ref_words.sum())


def needed_signals(policy: Policy, table: ExitTable) -> dict[str, np.ndarray]:
    """The signals that a policy reads, once it is known that it can decide on this table.

    Arguments
    ---------
    policy : policy
        To be checked: not open, and without layers that are no exits.
    table : ExitTable
        What was recorded.

    Returns
    -------
    dict of str to np.ndarray of shape (n_utterances, n_exits)
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
    """One signal of a table, where its absence is the caller's mistake.

    Returns
    -------
    np.ndarray of shape (n_utterances, n_exits)

    Raises
    ------
    ValueError
        When the table has no such signal; a fitted policy that would do without is named.
    """
    try:
        return table.signal(name)
    except KeyError as err:
        raise ValueError(f"{policy} needs a signal that is not there: {err.args[0]}{text_form(policy)}") from err
