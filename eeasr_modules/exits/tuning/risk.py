"""Risk control: the cheapest threshold whose errors exceed a reference exit's by at most eps, and how sure that is.

Learn-Then-Test (Angelopoulos et al. 2021, "Learn then Test", Section 3) over an ordered grid of thresholds. What is
promised, and what that rests on: docs/risk.md.

*The loss.* Speakers (or utterances) are the blocks that are drawn; the calibration data are n of them. Block b has E_b
errors more than the reference exit's, and W_b reference words. The pooled excess over some blocks is at most eps, in
WER points, just when the mean over them of the loss

    L_b = (100 E_b - eps W_b) / S,        S = the words of a mean block, a fixed scale,

is at most 0; large blocks weigh more, as they do in a pooled WER.

*The clip.* A share s of blocks that lose B points each adds s B to the mean, and with probability (1 - s)^n none of
them is among n: without an upper bound on the loss no number of blocks certifies any eps. So the clip B divides the
blocks in two: those that lose at most B, and the *tail*, L_b > B - eps. That outside the tail at most eps is lost, and
over all blocks at most eps + tau (100 - B) if none loses more than 100 points, follows from a mean of
min(L_b, B - eps) of at most 0, tested at level delta / 2 (losses below -eps count as -eps for all p-values but betting,
which needs no lower bound; that errs on the safe side). That at most a share tau is in the tail is tested by the
binomial tail at level delta / 2 (Clopper and Pearson 1934).

*Fixed-sequence testing.* The grid is ordered from the costliest threshold down, before any error is looked at;
each is tested until the first that fails, also one whose own excess on the calibration data, not clipped, is above
eps. All before it are certified at once. The last exit alone has no excess and needs no test.

Of a target of `loss` "changed", E_b counts edits to the last exit's transcript and W_b the words of that. Of other
words than the exits' own (`ExitTable.emitted`, such as fused ones) E_b counts the errors, or the edits to the last
exit's own transcript: full depth is then no safe fallback. For every exit by itself: `exits.tuning.risk_tests`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eeasr_modules.exits.policies.combine import Between, open_leaf
from eeasr_modules.exits.policies.protocol import Fitted, Policy
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds
from eeasr_modules.exits.tuning.calibration import Calibrated, Curve, described_set, policy_curve
from eeasr_modules.exits.tuning.replay import choice_point
from eeasr_modules.exits.tuning.risk_losses import (
    RiskTarget,
    block_numbers,
    block_sums,
    excess_errors,
    loss_moments,
    mean_block_words,
    reference_errors,
)
from eeasr_modules.exits.tuning.risk_terms import assumptions, promise, refusal, smallest_eps
from eeasr_modules.exits.tuning.risk_tests import (
    SequenceTests,
    above_clip,
    exit_by_exit,
    exit_sums,
    per_exit_promise,
    sequence_tests,
    stairs,
)

OF_EMITTED = "; what counts are the fused words that come out, against the last exit's own"


@dataclass(frozen=True, eq=False)
class RiskControlled:
    """A policy with its certificate, or why there is none."""

    policy: Policy  # ready to decide; the last exit, `static(n)`, where nothing was certified
    open_policy: Policy  # as it was asked for
    target: RiskTarget  # what was to be promised
    certified: bool  # whether some threshold was
    reason: str  # what is promised, or why nothing can be
    assumptions: tuple[str, ...]  # what the promise rests on
    n_blocks: int  # speakers or utterances of the calibration data
    # block_words, clip: the scale S, in words, and the clip used, in WER points
    block_words: float
    clip: float
    tail: float  # share of the blocks that is ruled out to lose more than the clip, 0 to 1
    n_above: int  # calibration blocks that lose more than the clip under the policy
    bound_on_all: float  # WER points over all blocks that follow, if none loses more than 100
    # smallest eps that these blocks can certify for a policy without any excess, in WER points; nan where none can
    smallest_eps: float
    # p_value, tail_p_value: of the policy, for the mean and for the tail, each to be at most delta / 2; where nothing
    # was certified, of the first threshold tested
    p_value: float
    tail_p_value: float
    # dev_excess, dev_wer, dev_cost, dev_saved: on the calibration data: WER points above the reference (not clipped),
    # WER in percent, mean cost, and the share of the last exit's cost that is saved
    dev_excess: float
    dev_wer: float
    dev_cost: float
    dev_saved: float
    cost: str  # what cost counts
    # n_tested, n_certified: thresholds
    n_tested: int
    n_certified: int
    # set_name, manifest_digest, model_digest, n_utterances of the calibration data, and the set name of the source,
    # where there was one
    calibrated_on: dict[str, Any]
    grid: Curve  # every threshold of the sequence, costliest first
    # where every exit has its own promise, one for each that is used and may err: exit_layer, share of words that leave
    # there, block_words (S_e), clip, tail, n_above, dev_excess, p_value, tail_p_value. The same fields of the whole are
    # then those of the worst exit
    exits: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; numbers that do not exist are None, the grid is left out."""
        plain = {name: value for name, value in vars(self).items() if name != "grid"}
        plain.update(policy=str(self.policy), open_policy=str(self.open_policy), target=self.target.as_dict())
        plain.update(assumptions=list(self.assumptions), exits=list(self.exits))
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in plain.items()}


@dataclass(frozen=True)
class RiskOutcome:
    """What a certified policy did on other data."""

    # WER points above the reference exit, over all blocks; of `changed`, per cent of the last exit's words
    excess: float
    excess_outside_tail: float  # the same over the blocks that lose at most the clip
    tail_share: float  # share of the blocks that lose more, 0 to 1
    # whether a part of the promise is not so here: the excess outside the tail above eps, or, where the share is given,
    # too many in the tail. On few blocks chance alone can do it
    violated: bool
    # wer, cost, saved: WER in percent, mean cost, and the share of the last exit's cost saved
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

    ValueError when the policy has an open window or is not fitted while there is no source, speakers are unknown, or
    the reference is no exit.

    `dev_table`: calibration data, with errors counted: the blocks. What is emitted in the exits' place is what is
    certified. `open_policy`: with its threshold open; its window too, where there is a source. `source_table`: other
    data (another corpus, or training speakers), on which grid, scale, first bets and, for fitted policies, the fit are
    made. With it a few labelled utterances of a new domain go far: they only have to test. `seed`: of the order in
    which blocks are bet on, and of exact p-values' rounding.

    Example
    -------
    >>> from eeasr_modules.exits.policies.text import parse_policy
    >>> table = ExitTable.from_hypotheses([["a b", "a b"]] * 40, ["a b"] * 40, utt_ids=[f"u{i}" for i in range(40)],
    ...                                   exit_layers=[2, 4], duration_s=[1] * 40, n_frames=[50] * 40,
    ...                                   speakers=[f"s{i}" for i in range(40)],
    ...                                   signals={"entropy": [[i / 40, 0.1] for i in range(40)]})
    >>> controlled = control_risk(table, parse_policy("entropy"), target=RiskTarget(eps=8, clip=50))
    >>> controlled.certified, controlled.dev_saved, controlled.n_blocks
    (True, 0.5, 40)
    """
    _check_policy(open_policy, source_table, per_exit=target.per_exit)
    labelled, dev_table = dev_table, target.table(dev_table)
    learned_from = source_table or labelled
    source_table = None if source_table is None else target.table(source_table)
    words = np.bincount(block_numbers(dev_table, target.blocks), dev_table.n_ref_words)
    scale, rng = mean_block_words(source_table or dev_table, target.blocks), np.random.default_rng(seed)
    if target.per_exit:
        grid = stairs(open_policy, learned_from, cost=cost, n_thresholds=n_thresholds)
        grid, tests, exits = exit_by_exit(grid, dev_table, source_table, target, rng)
    else:
        curve = policy_curve(open_policy, learned_from, cost=cost, n_thresholds=n_thresholds)
        grid, exits = _sequence(curve, open_policy), ()
        tests = _of_all(grid, dev_table, source_table, target, scale=scale, rng=rng)
    best = max(tests.n_certified - 1, 0)
    chosen = grid.policies[best] if tests.n_certified else Static(int(dev_table.exit_layers[-1]))
    outcome = risk_outcome(chosen, labelled, target=target, cost=cost)
    smallest = smallest_eps(words, target=target, block_words=scale)
    return RiskControlled(
        policy=chosen,
        open_policy=open_policy,
        target=target,
        certified=tests.n_certified > 0,
        reason=_reason(target, tests, n_blocks=len(words), smallest=smallest, exits=exits)
        + ("" if labelled.emitted is None else OF_EMITTED),
        assumptions=assumptions(
            target, clip=_at(tests.clip, best), block_words=scale, has_source=source_table is not None
        ),
        n_blocks=len(words),
        block_words=scale,
        clip=_at(tests.clip, best),
        tail=tests.tail,
        n_above=int(tests.n_above[best]) if tests.n_certified else 0,
        bound_on_all=target.bound_on_all(clip=_at(tests.clip, best), tail=tests.tail),
        smallest_eps=smallest,
        p_value=_at(tests.mean_p, best),
        tail_p_value=_at(tests.tail_p, best),
        dev_excess=outcome.excess,
        dev_wer=outcome.wer,
        dev_cost=outcome.cost,
        dev_saved=outcome.saved,
        cost=cost,
        n_tested=min(tests.n_certified + 1, len(tests.mean_p)),
        n_certified=tests.n_certified,
        calibrated_on={
            **described_set(dev_table),
            "source": None if source_table is None else source_table.metadata.get("set_name"),
        },
        grid=grid,
        exits=exits,
    )


def _at(values: np.ndarray | float, best: int) -> float:
    """Of one policy, where each has its own; nan without any."""
    return float(values) if np.ndim(values) == 0 else float(values[best]) if len(values) else float("nan")


def _of_all(
    grid: Curve,
    dev_table: ExitTable,
    source: ExitTable | None,
    target: RiskTarget,
    *,
    scale: float,
    rng: np.random.Generator,
) -> SequenceTests:
    """The tests of a promise about all utterances together."""

    def sums(table: ExitTable) -> tuple[np.ndarray, np.ndarray]:
        block = block_numbers(table, target.blocks)
        excess = excess_errors(table, grid.policies, reference_errors(table, target.reference))
        return block_sums(excess, block), np.bincount(block, table.n_ref_words)

    prior = None if source is None else loss_moments(*sums(source), target=target, block_words=scale)
    return sequence_tests(*sums(dev_table), target=target, block_words=scale, rng=rng, prior=prior)


def risk_outcome(
    policy: Policy,
    table: ExitTable,
    *,
    target: RiskTarget,
    block_words: float | None = None,
    tail: float = 1.0,
    exits: Sequence[Mapping[str, Any]] = (),
    cost: str = "cost_layers",
) -> RiskOutcome:
    """What a policy does on data that it was not calibrated on.

    `block_words`: the certificate's scale S; None takes this table's. `tail`: the share of the blocks in the tail that
    the certificate rules out; 1 asks nothing of it. `exits`: those of a certificate exit by exit: the excess outside
    the tail and the share in it are then the largest of these, and all must be kept.
    """
    labelled, table = table, target.table(table)
    block = block_numbers(table, target.blocks)
    errors = block_sums(excess_errors(table, [policy], reference_errors(table, target.reference)), block)
    words = np.bincount(block, table.n_ref_words)
    scale = mean_block_words(table, target.blocks) if block_words is None else block_words
    parts = [(errors, words, scale, tail)]
    if exits:
        sums, layers = exit_sums(table, [policy], target), table.exit_layers.tolist()
        at = [(layers.index(one["exit_layer"]), one["block_words"], one["tail"]) for one in exits]
        parts = [(sums.excess[:, :, k], sums.words[:, 0, k], scale, tail) for k, scale, tail in at]
    judged = [_beyond(*part[:3], target) for part in parts]
    outside, share = (max(values) for values in zip(*judged, strict=True))
    mean, wer = choice_point(policy, labelled, cost=cost)
    full, _ = choice_point(Static(int(table.exit_layers[-1])), table, cost=cost)
    return RiskOutcome(
        excess=float(100.0 * errors.sum() / words.sum()),
        excess_outside_tail=outside,
        tail_share=share,
        violated=any(
            outside > target.eps * (1 + 1e-9) or share > part[3]
            for (outside, share), part in zip(judged, parts, strict=True)
        ),
        wer=wer,
        cost=mean,
        saved=1.0 - mean / full,
    )


def _beyond(errors: np.ndarray, words: np.ndarray, scale: float, target: RiskTarget) -> tuple[float, float]:
    """Excess in points over the blocks outside the tail, and the share of the blocks in it."""
    above = above_clip(errors, words, eps=target.eps, clip=target.clip_at(scale), block_words=scale)[:, 0]
    return float(100.0 * errors[~above].sum() / max(words[~above].sum(), 1)), float(above.mean())


def _sequence(curve: Curve, policy: Policy) -> Curve:
    """Costliest first. Of windows, which no threshold orders, those that were best on the source."""
    if isinstance(policy, Between) and policy.has_open_window:
        curve = curve.frontier()
    return curve.take(np.argsort(-curve.cost, kind="stable"))


def _check_policy(policy: Policy, source: ExitTable | None, *, per_exit: bool) -> None:
    if isinstance(policy, Between) and policy.has_open_window and source is None and not per_exit:
        raise ValueError(
            f"the tests need a given order, but {policy} leaves its layers open; give them, or a source_table"
        )
    leaf = open_leaf(policy)
    if source is None and isinstance(leaf, Fitted) and leaf.model is None:
        raise ValueError(
            f"{policy} would be fitted on the data that it is to be tested on; fit it elsewhere, or give a source_table"
        )


def _reason(
    target: RiskTarget, tests: SequenceTests, *, n_blocks: int, smallest: float, exits: Sequence[Mapping[str, Any]]
) -> str:
    if target.per_exit and tests.n_certified:
        return per_exit_promise(target, exits, n_blocks=n_blocks)
    if tests.n_certified:
        n_above = int(tests.n_above[tests.n_certified - 1])
        return promise(target, clip=tests.clip, tail=tests.tail, n_blocks=n_blocks, n_above=n_above)
    first = {"p": float(tests.mean_p[0]), "tail_p": float(tests.tail_p[0]), "excess": float(tests.excess[0])}
    return refusal(target, clip=_at(tests.clip, 0), tail=tests.tail, n_blocks=n_blocks, smallest=smallest, **first)


def certify(
    dev_table: ExitTable,
    open_policy: Policy,
    *,
    target: RiskTarget,
    source_table: ExitTable | None = None,
    cost: str = "cost_layers",
) -> Calibrated:
    """The cheapest threshold that keeps the promise `target`, or the last exit where none can be certified.

    The order in which thresholds are tested must not come from the data they are tested on, nor may a fit: half of the
    speakers make the grid (windows, fitted models) and the other half certify.

    Returns Calibrated: `rule` says what was asked for, and "not certified" with the reason where the last exit had to
    be taken; `promise` what is promised and what that rests on. ValueError if nothing is open, or speakers are unknown.
    `open_policy`: with its threshold open; layers and fitted model may be open too. `source_table`: other speakers that
    make the grid, so that all of `dev_table` certifies.
    """
    if not open_policy.is_open:
        raise ValueError(f"exit_risk chooses a threshold, but {open_policy} has one: leave its last number out")
    leaf = open_leaf(open_policy)
    source = source_table
    unfitted = isinstance(leaf, Fitted) and leaf.model is None
    open_window = isinstance(open_policy, Between) and open_policy.has_open_window
    if source is None and (unfitted or (open_window and not target.per_exit)):
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

    Returns dict: "certified", "statement", "assumptions"; eps, delta, loss, reference, blocks, p_value (the method);
    clip in WER points, block_words, tail and bound_on_all; n_blocks, n_above, dev_excess, smallest_eps of calibration;
    where every exit has its own promise, "exits" with that of each.
    """
    target, plain = found.target.as_dict(), found.as_dict()
    asked = {name: target[name] for name in ("eps", "delta", "loss", "reference", "blocks", "p_value")}
    kept = ("clip", "block_words", "tail", "bound_on_all", "n_blocks", "n_above", "dev_excess", "smallest_eps")
    return {
        "certified": found.certified,
        "statement": found.reason,
        "assumptions": list(found.assumptions),
        **asked,
        **{name: plain[name] for name in kept},
        **({"exits": plain["exits"]} if found.target.per_exit else {}),
    }
