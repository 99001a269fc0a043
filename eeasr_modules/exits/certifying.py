"""A certified policy from one dev table, as `choose` gives one for a budget."""

from typing import Any

from eeasr_modules.exits.calibration import Calibrated
from eeasr_modules.exits.combinations import Between, open_leaf
from eeasr_modules.exits.fitted import Fitted
from eeasr_modules.exits.folds import speaker_folds
from eeasr_modules.exits.policies import Policy
from eeasr_modules.exits.risk import RiskControlled, control_risk
from eeasr_modules.exits.risk_losses import RiskTarget
from eeasr_modules.exits.table import ExitTable


def certify(dev_table: ExitTable, open_policy: Policy, *, target: RiskTarget, cost: str = "cost_layers") -> Calibrated:
    """The cheapest threshold that keeps the promise `target`, or the last exit where none can be certified.

    The order in which thresholds are tested must not come from the data they are tested on, nor may a fit: half of the
    speakers make the grid (windows, fitted models) and the other half certify.

    Arguments
    ---------
    dev_table : ExitTable
        With error counts.
    open_policy : policy
        With its threshold open; layers and fitted model may be open too.
    target : RiskTarget
        What to promise, see `exits.risk`.
    cost : str
        What "cheapest" counts.

    Returns
    -------
    Calibrated
        `rule` says what was asked for, and "not certified" with the reason where the last exit had to be taken;
        `promise` what is promised and what that rests on.

    Raises
    ------
    ValueError
        If nothing is open, or speakers are unknown.
    """
    if not open_policy.is_open:
        raise ValueError(f"exit_risk chooses a threshold, but {open_policy} has one: leave its last number out")
    leaf = open_leaf(open_policy)
    source = None
    unfitted = isinstance(leaf, Fitted) and leaf.model is None
    if unfitted or (isinstance(open_policy, Between) and open_policy.has_open_window):
        fold = speaker_folds(dev_table, 2)
        source, dev_table = dev_table.select(fold == 0), dev_table.select(fold == 1)
    found = control_risk(dev_table, open_policy, target=target, source_table=source, cost=cost)
    return Calibrated(
        policy=found.policy,
        open_policy=found.open_policy,
        rule=target.rule if found.certified else f"{target.rule}: not certified, {found.reason}",
        cost=found.cost,
        dev_cost=found.dev_cost,
        dev_wer=found.dev_wer,
        grid=found.grid,
        calibrated_on=found.calibrated_on,
        promise=promise_of(found),
    )


def promise_of(found: RiskControlled) -> dict[str, Any]:
    """What `policy.json` keeps of a certificate.

    Arguments
    ---------
    found : RiskControlled
        Of `control_risk`.

    Returns
    -------
    dict
        "certified", "statement", "assumptions"; eps, delta, reference, blocks, p_value (the method); clip in WER
        points, block_words, tail and bound_on_all; n_blocks, n_above, dev_excess, smallest_eps of calibration.
    """
    target, plain = found.target.as_dict(), found.as_dict()
    asked = {name: target[name] for name in ("eps", "delta", "reference", "blocks", "p_value")}
    kept = ("clip", "block_words", "tail", "bound_on_all", "n_blocks", "n_above", "dev_excess", "smallest_eps")
    return {
        "certified": found.certified,
        "statement": found.reason,
        "assumptions": list(found.assumptions),
        **asked,
        **{name: plain[name] for name in kept},
    }
