"""Cross-fitting: every speaker is decided by a policy that was fitted and calibrated on other speakers only.

For tables that have no dev set beside them. Speakers are dealt into folds (`folds.speaker_folds`). For each fold,
everything (fitted numbers, threshold, floor and ceiling) comes from the other folds, to each budget; what it
chooses for the fold's own utterances is kept. Together these are choices for all utterances, at a cost that is
near the budget but was nobody's to set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits.calibration import best_within_budget, budget_cost
from eeasr_modules.exits.choices import decide, mean_cost, needed_signal, policy_costs
from eeasr_modules.exits.curve import policy_curve
from eeasr_modules.exits.folds import speaker_folds
from eeasr_modules.exits.policies import Policy
from eeasr_modules.exits.table import ExitTable


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Choices of a cross-fitted policy, for each budget.

    Arguments
    ---------
    budgets : tuple of float
        What was allowed.
    fold : np.ndarray of shape (n_utterances,)
        Fold of each utterance, from 0.
    policies : tuple of tuple of policies
        For each budget, the policy that decided each fold.
    exit_index : np.ndarray of shape (n_budgets, n_utterances)
        Exits at which it was decided, from 0: what is paid for.
    emitted : np.ndarray of shape (n_budgets, n_utterances)
        Exits whose transcripts came out, from 0.
    cost : np.ndarray of shape (n_budgets,)
        Mean cost of these choices.
    wer : np.ndarray of shape (n_budgets,)
        Their pooled WER in percent.
    """

    budgets: tuple[float, ...]
    fold: np.ndarray
    policies: tuple[tuple[Policy, ...], ...]
    exit_index: np.ndarray
    emitted: np.ndarray
    cost: np.ndarray
    wer: np.ndarray


def cross_fit(
    table: ExitTable,
    open_policy: Policy,
    *,
    budgets: Sequence[float],
    cost: str = "cost_layers",
    n_folds: int = 10,
    n_inner_folds: int = 5,
    n_thresholds: int = 400,
    seed: int = 0,
    on_fold: Callable[[int, int], None] | None = None,
) -> CrossFit:
    """Choices for all utterances of a table, by policies of other speakers.

    Arguments
    ---------
    table : ExitTable
        Fitted, calibrated and judged on, but never on the same speakers.
    open_policy : policy
        As for `choose`.
    budgets : sequence of float
        As for `choose`.
    cost : str
        "cost_layers" or "cost_macs".
    n_folds : int
        Folds of speakers.
    n_inner_folds : int
        Folds, within the other folds, whose out-of-fold scores the threshold of a fitted policy is chosen by.
    n_thresholds : int
        As for `choose`.
    seed : int
        Of the folds.
    on_fold : callable or None
        Called with how many folds are done and how many there are, first with 0.

    Returns
    -------
    CrossFit

    Raises
    ------
    ValueError
        When a budget cannot be met on some folds.

    Example
    -------
    >>> from eeasr_modules.exits.policy_text import parse_policy
    >>> table = ExitTable.from_hypotheses([["a c", "a b"], ["d e", "d e"]], ["a b", "d e"],
    ...                                   utt_ids=["u", "v"], speakers=["x", "y"], exit_layers=[2, 4],
    ...                                   duration_s=[1, 1], n_frames=[50, 50])
    >>> cross_fit(table, parse_policy("static"), budgets=[2, 4]).cost
    array([2., 3.])
    """
    fold = speaker_folds(table, n_folds, seed=seed)
    for name in open_policy.needs:
        needed_signal(
            table, name, policy=open_policy
        )  # derived ones are then kept, and the folds take their part of them
    exit_index = np.empty((len(budgets), table.n_utterances), dtype=np.int64)
    emitted, paid = np.empty_like(exit_index), np.empty(exit_index.shape)
    policies: list[list[Policy]] = [[] for _ in budgets]
    for i in range(fold.max() + 1):
        if on_fold is not None:
            on_fold(i, int(fold.max()) + 1)
        others, own = table.select(fold != i), table.select(fold == i)
        curve = policy_curve(open_policy, others, cost=cost, n_thresholds=n_thresholds, n_folds=n_inner_folds)
        for b, budget in enumerate(budgets):
            limit = budget_cost(budget, others, cost=cost)
            policy = curve.policies[best_within_budget(curve, limit, open_policy, budget=budget)]
            chosen = decide(policy, own)
            exit_index[b, fold == i], emitted[b, fold == i] = chosen.decided, chosen.emitted
            paid[b, fold == i] = policy_costs(policy, own, cost=cost)[np.arange(own.n_utterances), chosen.decided]
            policies[b].append(policy)
    rows = np.arange(table.n_utterances)
    return CrossFit(
        budgets=tuple(float(budget) for budget in budgets),
        fold=fold,
        policies=tuple(tuple(per_fold) for per_fold in policies),
        exit_index=exit_index,
        emitted=emitted,
        cost=np.array([mean_cost(one, table.duration_s) for one in paid]),
        wer=np.array([100.0 * table.errors[rows, one].sum() / table.n_ref_words.sum() for one in emitted]),
    )
