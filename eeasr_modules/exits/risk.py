"""Risk control: the cheapest threshold whose errors exceed a reference exit's by at most eps, and how sure that is.

Learn-Then-Test (Angelopoulos et al. 2021, "Learn then Test", Section 3) over an ordered grid of thresholds.

*What is promised.* Speakers (or utterances) are the blocks that are drawn; the calibration data are n of them.
Block b has E_b errors more than the reference exit's, and W_b reference words. The risk is the ratio
E[E_b] / E[W_b], the pooled excess in WER points. It is at most eps just when the mean of the loss

    L_b = (100 E_b - eps W_b) / S,        S = the words of a mean block, a fixed scale,

is at most 0; large blocks weigh more, as they do in a pooled WER. With probability at least 1 - delta over the
draw of the calibration blocks, the policy that is returned has a mean *clipped* loss of at most 0: losses above
clip - eps count as that. The clip is an assumption, stated with the share of the blocks that it touched; without
one nothing can be promised about an error count, which has no upper bound. Losses below -eps count as -eps for all
p-values but betting, which needs no lower bound; that errs on the safe side.

*Fixed-sequence testing.* The grid is ordered from the costliest threshold down, before any error is looked at;
each is tested at level delta until the first that fails. All before it are certified at once.
The last exit alone has no excess and needs no test.

Guarantees hold for blocks drawn like those of calibration: other corpora, noise or microphones void them.
A grid and a scale S from the calibration data's own signals and words are not strictly fixed in advance; give
`source_table` for that.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from eeasr_modules.exits.choices import choice_point
from eeasr_modules.exits.combinations import Between, open_leaf
from eeasr_modules.exits.curve import Curve, policy_curve
from eeasr_modules.exits.fitted import Fitted
from eeasr_modules.exits.policies import Policy, Static
from eeasr_modules.exits.risk_losses import (
    RiskTarget,
    block_numbers,
    block_p_values,
    block_sums,
    excess_errors,
    first_failure,
    mean_block_words,
    reference_errors,
    scaled_losses,
    smallest_eps,
)
from eeasr_modules.exits.table import ExitTable


@dataclass(frozen=True, eq=False)
class RiskControlled:
    """A policy with its certificate, or why there is none.

    Arguments
    ---------
    policy : policy
        Ready to decide; the last exit, `static(n)`, where nothing was certified.
    open_policy : policy
        As it was asked for.
    target : RiskTarget
        What was to be promised.
    certified : bool
        Whether some threshold was.
    reason : str
        One sentence: what is promised, or why nothing can be.
    n_blocks : int
        Speakers or utterances of the calibration data.
    block_words, clip : float
        The scale S, in words, and the clip used, in WER points.
    clipped_share : float
        Share of the blocks that the clip touched under the policy, 0 to 1.
    smallest_eps : float
        Smallest eps that these blocks can certify for a policy without any excess, in WER points; nan where
        none can.
    p_value : float
        Of the policy; where nothing was certified, of the first threshold tested.
    dev_excess, dev_wer, dev_cost, dev_saved : float
        On the calibration data: WER points above the reference (not clipped), WER in percent, mean cost, and
        the share of the last exit's cost that is saved.
    cost : str
        What cost counts.
    n_tested, n_certified : int
        Thresholds.
    calibrated_on : dict
        set_name, manifest_digest, model_digest, n_utterances of the calibration data, and the set name of
        the source, where there was one.
    grid : Curve
        Every threshold of the sequence, costliest first.
    """

    policy: Policy
    open_policy: Policy
    target: RiskTarget
    certified: bool
    reason: str
    n_blocks: int
    block_words: float
    clip: float
    clipped_share: float
    smallest_eps: float
    p_value: float
    dev_excess: float
    dev_wer: float
    dev_cost: float
    dev_saved: float
    cost: str
    n_tested: int
    n_certified: int
    calibrated_on: dict[str, Any]
    grid: Curve

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; numbers that do not exist are None, the grid is left out."""
        plain = {name: value for name, value in vars(self).items() if name != "grid"}
        plain.update(policy=str(self.policy), open_policy=str(self.open_policy), target=self.target.as_dict())
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in plain.items()}


@dataclass(frozen=True)
class RiskOutcome:
    """What a certified policy did on other data.

    Arguments
    ---------
    excess : float
        WER points above the reference exit.
    violated : bool
        Whether that is above eps. On few utterances chance alone can do it.
    wer, cost, saved : float
        WER in percent, mean cost, and the share of the last exit's cost saved.
    """

    excess: float
    violated: bool
    wer: float
    cost: float
    saved: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**vars(self)}


def control_risk(
    dev_table: ExitTable,
    open_policy: Policy,
    *,
    target: RiskTarget,
    source_table: ExitTable | None = None,
    cost: str = "cost_layers",
    n_thresholds: int = 200,
    seed: int = 0,
) -> RiskControlled:
    """The cheapest threshold of a policy for which the target can be promised.

    Arguments
    ---------
    dev_table : ExitTable
        Calibration data, with errors counted: the blocks.
    open_policy : policy
        With its threshold open; its window too, where there is a source.
    target : RiskTarget
        What to promise.
    source_table : ExitTable or None
        Other data (another corpus, or training speakers), on which grid, scale, first bets and, for fitted policies,
        the fit are made. With it a few labelled utterances of a new domain go far: they only have to test.
    cost : str
        As for `exit_costs`.
    n_thresholds : int
        As for `thresholds_of`.
    seed : int
        Of the order in which blocks are bet on, and of exact p-values' rounding.

    Returns
    -------
    RiskControlled

    Raises
    ------
    ValueError
        When the policy has an open window or is not fitted while there is no source, speakers are unknown, or
        the reference is no exit.

    Example
    -------
    >>> from eeasr_modules.exits.policy_text import parse_policy
    >>> table = ExitTable.from_hypotheses([["a b", "a b"]] * 40, ["a b"] * 40, utt_ids=[f"u{i}" for i in range(40)],
    ...                                   exit_layers=[2, 4], duration_s=[1] * 40, n_frames=[50] * 40,
    ...                                   speakers=[f"s{i}" for i in range(40)],
    ...                                   signals={"entropy": [[i / 40, 0.1] for i in range(40)]})
    >>> controlled = control_risk(table, parse_policy("entropy"), target=RiskTarget(eps=8, clip=50))
    >>> controlled.certified, controlled.dev_saved, controlled.n_blocks
    (True, 0.5, 40)
    """
    _check_policy(open_policy, source_table)
    reference = reference_errors(dev_table, target.reference)
    block = block_numbers(dev_table, target.blocks)
    curve = policy_curve(open_policy, source_table or dev_table, cost=cost, n_thresholds=n_thresholds)
    grid = _sequence(curve, open_policy)
    words = np.bincount(block, dev_table.n_ref_words)
    scale = mean_block_words(source_table or dev_table, target.blocks)
    clip = target.clip_at(scale)
    excess = excess_errors(dev_table, grid.policies, reference)
    losses = scaled_losses(block_sums(excess, block), words, eps=target.eps, clip=clip, block_words=scale)
    rng = np.random.default_rng(seed)
    order, uniforms = rng.permutation(len(words)), rng.uniform(size=len(words))
    prior = None if source_table is None else _prior(source_table, grid.policies, target, clip=clip, scale=scale)
    tested = block_p_values(losses[order], target, limit=target.eps / clip, uniforms=uniforms[order], prior=prior)
    n_certified = first_failure(tested, target.delta)
    best = n_certified - 1 if n_certified else 0
    smallest = smallest_eps(words, target=target, block_words=scale)
    chosen = grid.policies[best] if n_certified else Static(int(dev_table.exit_layers[-1]))
    outcome = risk_outcome(chosen, dev_table, target=target, cost=cost)
    on_dev = block_sums(excess[:, [best]], block)[:, 0] if n_certified else np.zeros(len(words))
    return RiskControlled(
        policy=chosen,
        open_policy=open_policy,
        target=target,
        certified=n_certified > 0,
        reason=_reason(target, n_certified, float(tested[best]), len(words), smallest, clip),
        n_blocks=len(words),
        block_words=scale,
        clip=clip,
        clipped_share=float(((100.0 * on_dev - target.eps * words) / scale > clip - target.eps).mean()),
        smallest_eps=smallest,
        p_value=float(tested[best]),
        dev_excess=outcome.excess,
        dev_wer=outcome.wer,
        dev_cost=outcome.cost,
        dev_saved=outcome.saved,
        cost=cost,
        n_tested=min(n_certified + 1, len(tested)),
        n_certified=n_certified,
        calibrated_on={
            "set_name": dev_table.metadata.get("set_name"),
            "manifest_digest": dev_table.metadata.get("manifest_digest"),
            "model_digest": dev_table.metadata.get("model_digest"),
            "n_utterances": dev_table.n_utterances,
            "source": None if source_table is None else source_table.metadata.get("set_name"),
        },
        grid=grid,
    )


def risk_outcome(policy: Policy, table: ExitTable, *, target: RiskTarget, cost: str = "cost_layers") -> RiskOutcome:
    """What a policy does on data that it was not calibrated on.

    Arguments
    ---------
    policy : policy
        Nothing open.
    table : ExitTable
        What is reported on.
    target : RiskTarget
        What was promised.
    cost : str
        As for `exit_costs`.

    Returns
    -------
    RiskOutcome
    """
    excess = excess_errors(table, [policy], reference_errors(table, target.reference)).sum()
    points = float(100.0 * excess / table.n_ref_words.sum())
    mean, wer = choice_point(policy, table, cost=cost)
    full, _ = choice_point(Static(int(table.exit_layers[-1])), table, cost=cost)
    return RiskOutcome(points, points > target.eps * (1 + 1e-9), wer, mean, 1.0 - mean / full)


def _prior(
    source: ExitTable, policies: Any, target: RiskTarget, *, clip: float, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the losses of the source's blocks under each policy."""
    block = block_numbers(source, target.blocks)
    excess = block_sums(excess_errors(source, policies, reference_errors(source, target.reference)), block)
    words = np.bincount(block, source.n_ref_words)
    losses = scaled_losses(excess, words, eps=target.eps, clip=clip, block_words=scale)
    return losses.mean(axis=0), losses.var(axis=0)


def _sequence(curve: Curve, policy: Policy) -> Curve:
    """Costliest first. Of windows, which no threshold orders, those that were best on the source."""
    if isinstance(policy, Between) and policy.has_open_window:
        curve = curve.frontier()
    return curve.take(np.argsort(-curve.cost, kind="stable"))


def _check_policy(policy: Policy, source: ExitTable | None) -> None:
    if isinstance(policy, Between) and policy.has_open_window and source is None:
        raise ValueError(
            f"the tests need a given order, but {policy} leaves its layers open; give them, or a source_table"
        )
    leaf = open_leaf(policy)
    if source is None and isinstance(leaf, Fitted) and leaf.model is None:
        raise ValueError(
            f"{policy} would be fitted on the data that it is to be tested on; fit it elsewhere, or give a source_table"
        )


def _reason(target: RiskTarget, n_certified: int, p: float, n_blocks: int, smallest: float, clip: float) -> str:
    what = f"at most {target.eps:g} WER points above {_exit_name(target)}"
    if n_certified:
        return (
            f"{what} with probability {1 - target.delta:g} over the draw of {n_blocks} {target.blocks}, "
            f"excess per block clipped at {clip:.3g} points"
        )
    if not smallest <= target.eps:
        least = "none" if math.isnan(smallest) else f"{smallest:.2f} points"
        return (
            f"{n_blocks} {target.blocks} and a clip of {clip:.3g} points cannot promise {what}, even without any "
            f"excess error: the smallest eps that they can is {least}"
        )
    return f"{what} could not be promised: the costliest threshold has p-value {p:.3g}, above delta {target.delta:g}"


def _exit_name(target: RiskTarget) -> str:
    return "the last exit" if target.reference == "last" else f"layer {target.reference}"
