"""Which policy decides: the model folder's first, one by name, or one for a budget from its calibrated grid."""

import math
from collections.abc import Sequence

from eeasr_modules.exits.policies.combine import check_against
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.calibration import Calibrated, allowed_cost, best_within
from eeasr_modules.exits.tuning.replay import models_of, with_models


def choose_policy(
    calibrated: Sequence[Calibrated],
    *,
    text: str | None,
    budget: float | None,
    exit_layers: Sequence[int],
    name: str,
) -> Policy:
    """A policy that can decide.

    ValueError when the text is no policy, names layers without an exit, or asks for what was not calibrated for this
    model.

    Arguments
    ---------
    text : str or None
        As the user wrote it; None takes the default, and without one the last exit.
    budget : float or None
        Mean cost allowed, up to 1 a share of full depth, above 1 layers; None keeps what calibration chose.
    """
    if text is None and not calibrated:
        if budget is not None:
            raise ValueError(f"a budget needs calibrated policies, and '{name}' has none: no policy.json")
        return Static(int(exit_layers[-1]))
    if text is None:
        return calibrated[0].policy if budget is None else within_budget(calibrated[0], budget, exit_layers[-1])
    if text.rstrip().endswith("+ fusion"):
        raise ValueError(f"'{text}': fused words are no part of a policy, ask for them by --words fused")
    fitted = {kind: model for one in calibrated for kind, model in models_of(one.policy).items()}
    policy = with_models(parse_policy(text), fitted)
    check_against(policy, exit_layers)
    entry = _entry(calibrated, str(policy))
    if budget is not None:
        if not policy.is_open:
            raise ValueError(f"{policy} has its numbers already: give its name alone with a budget, or no budget")
        if entry is not None:
            return within_budget(entry, budget, exit_layers[-1])
    elif not policy.is_open:
        return policy
    if entry is None:
        known = ", ".join(str(one.open_policy) for one in calibrated) or "none"
        raise ValueError(
            f"{policy} was not calibrated for '{name}' (calibrated: {known}): give its numbers, as in "
            "entropy(0.12), or calibrate it by train.py --compare_policies"
        )
    return entry.policy


def within_budget(entry: Calibrated, budget: float, n_layers: int) -> Policy:
    """Of the policies tried on dev the one that the budget buys, by the rule of calibration (`best_within`).

    ValueError when the budget is none, or too small for every threshold.

    Arguments
    ---------
    budget : float
        Up to 1 a share of full depth, above 1 layers.
    """
    if not math.isfinite(budget) or not 0 < budget <= n_layers:
        raise ValueError(
            f"a budget must be above 0 and at most {n_layers} (to 1 a share, above 1 layers), got {budget}"
        )
    if entry.cost != "cost_layers":
        raise ValueError(f"{entry.open_policy} was calibrated in {entry.cost}, a budget is in layers: leave it out")
    allowed = allowed_cost(budget, n_layers)
    best = best_within(entry.grid, allowed)
    if best is None:
        raise ValueError(
            f"{entry.open_policy} costs at least {min(entry.grid.cost):.2f} layers on its calibration data, the budget "
            f"allows {allowed:.2f}: raise it"
        )
    return entry.grid.policies[best]


def _entry(calibrated: Sequence[Calibrated], text: str) -> Calibrated | None:
    """The calibrated policy of that text, or of that text with floor and ceiling."""
    for wanted in (text, f"between({text})"):
        for one in calibrated:
            if str(one.open_policy) == wanted:
                return one
    return None
