"""Policies against each other on the same utterances, and policies under a promise about risk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eeasr_modules.exits import ExitTable, mean_cost
from eeasr_modules.exits.bootstrap import MIN_SPEAKERS
from eeasr_modules.exits.combinations import Between
from eeasr_modules.exits.comparison import compare_choices, holm
from eeasr_modules.exits.policies import Policy
from eeasr_modules.exits.risk import RiskTarget, control_risk, risk_outcome
from eeasr_modules.report.calibrating import folds_of
from eeasr_modules.report.evaluation import Outcome


def compared(
    sets: Mapping[str, tuple[ExitTable, Mapping[str, Outcome]]],
    *,
    chosen: str | None,
    cost: str,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The chosen policy against every other, on every set, for every budget that both meet.

    Arguments
    ---------
    sets : mapping of str to (ExitTable, mapping of str to Outcome)
        By set name.
    chosen : str or None
        The policy that the others are compared with.
    cost : str
        What budgets count.
    rng : np.random.Generator
        For the bootstrap.

    Returns
    -------
    list of dict
        Of `summary.comparisons`; "holm_p" is adjusted over the whole list.
    """
    rows = []
    for name, (table, outcomes) in sets.items():
        if chosen not in outcomes:
            continue
        ours = {choice.budget: choice for choice in outcomes[chosen].choices}
        for text, other in outcomes.items():
            for theirs in other.choices if text != chosen else ():
                if theirs.budget in ours:
                    found = _pair(ours[theirs.budget], theirs, table, cost=cost, rng=rng)
                    rows.append({"set": name, "budget": theirs.budget, "policy": chosen, "other": text, **found})
    adjusted = holm([row["bootstrap_p"] for row in rows]) if rows else []
    return [{**row, "holm_p": float(p)} for row, p in zip(rows, adjusted)]


def _pair(ours: Any, theirs: Any, table: ExitTable, *, cost: str, rng: np.random.Generator) -> dict[str, Any]:
    rows = np.arange(table.n_utterances)
    errors = [table.errors[rows, choice.emitted] for choice in (ours, theirs)]
    paid = [mean_cost(choice.paid[cost], table.duration_s) for choice in (ours, theirs)]
    comparison = compare_choices(*errors, n_ref_words=table.n_ref_words, speakers=table.speakers, rng=rng)
    return {**comparison.as_dict(), "cost_difference": paid[0] - paid[1]}


def risk_numbers(
    policies: Sequence[Policy], table: ExitTable, *, dev: ExitTable | None, target: RiskTarget
) -> list[dict[str, Any]]:
    """What each policy saves under a promise about its errors above the last exit's, and how that went on the set.

    Windows are not calibrated here: a guarantee is given for one threshold, so `between(entropy)` stands as
    `entropy`. Without dev, one half of the speakers certifies and the other is what is judged.

    Arguments
    ---------
    policies : sequence of policies
        Those with an open threshold are certified.
    table : ExitTable
        The set.
    dev : ExitTable or None
        Calibration data.
    target : RiskTarget
        What to promise.

    Returns
    -------
    list of dict
        Of `sets.<name>.risk`.
    """
    certifying, judged = (dev, table) if dev is not None else _halves(table)
    if certifying is None:
        return []
    inner = {str(_without_window(policy)): _without_window(policy) for policy in policies if policy.is_open}
    rows = []
    for text, policy in inner.items():
        if not policy.is_open or text in ("static", "random"):
            continue
        try:
            controlled = control_risk(certifying, policy, target=target)
        except ValueError as err:
            rows.append({"policy": text, "certified": False, "reason": str(err)})
            continue
        scale = {"block_words": controlled.block_words, "tail": controlled.tail}
        outcome = risk_outcome(controlled.policy, judged, target=target, **scale).as_dict()
        kept = {key: value for key, value in controlled.as_dict().items() if key not in ("grid", "policy")}
        rows.append({"policy": text, "calibrated": str(controlled.policy), **kept, "outcome": outcome})
    return rows


def _without_window(policy: Policy) -> Policy:
    return policy.policy if isinstance(policy, Between) and policy.has_open_window else policy


def _halves(table: ExitTable) -> tuple[ExitTable | None, ExitTable | None]:
    if len(set(table.speakers)) < MIN_SPEAKERS or "" in table.speakers:
        return None, None
    fold = folds_of(table)
    return table.select(fold == 0), table.select(fold == 1)
