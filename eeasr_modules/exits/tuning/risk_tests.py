"""The tests behind a certificate: of all utterances together, and of every exit by itself.

Together: of the clipped mean, of the tail above the clip, and of calibration's own excess.

Exit by exit: a promise about all utterances can hide an exit that is bad for those who leave there, which others make
good (Ringel et al. 2024, "Early time classification with accumulated accuracy gap control"). Here every exit that is
used keeps the whole promise over the utterances that *leave there*; what theirs is about, those who leave up to each
exit, follows where nothing is clipped, as a pooled excess over several exits is a mean of those of each. Block b has
the errors E_be and words W_be of its utterances that leave at exit e; S_e is the mean of W_be.

A policy keeps the promise if each of its exits does. The largest of the exits' p-values is one of "some exit does not":
it can be small only if that exit's own is, whose chance is known (an intersection-union test). So the number of exits
costs none of delta, and one sequence of policies is tested as for all together. It is `staircase`: leave at exit f or
at the next one, c, by the threshold; all other exits are closed. From everybody at c (threshold never met) to everybody
at f, then the same one exit lower. An exit that fewer than a fifth of the words leave at, or so few that not even no
error there could be certified, is closed as well: the policies that use it are left out before any error is looked at,
as the sequence would end at them for lack of evidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eeasr_modules.exits.policies.combine import Between
from eeasr_modules.exits.policies.protocol import Policy, reach_of
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.calibration import Curve, policy_curve
from eeasr_modules.exits.tuning.replay import choice_point, decide
from eeasr_modules.exits.tuning.risk_losses import (
    RiskTarget,
    block_losses,
    block_numbers,
    block_p_values,
    first_failure,
    loss_moments,
    reference_errors,
    scaled_losses,
)
from eeasr_modules.exits.tuning.risk_terms import what


@dataclass(frozen=True, eq=False)
class SequenceTests:
    """What blocks say about a sequence of policies, in the order fixed in advance."""

    # mean_p, tail_p: (n_policies,), P-values of "the mean clipped loss is above 0" and of "a share of `tail` or more
    # lose more than the clip"
    mean_p: np.ndarray
    tail_p: np.ndarray
    excess: np.ndarray  # (n_policies,), WER points above the reference on these blocks, not clipped
    n_above: np.ndarray  # (n_policies,), blocks that lose more than the clip
    clip: float  # (n_policies,), WER points
    tail: float  # share of the blocks
    n_certified: int  # policies before the first that fails: with a p-value above half of delta, or an excess above eps


def sequence_tests(
    excess: np.ndarray,
    words: np.ndarray,
    *,
    target: RiskTarget,
    block_words: float,
    rng: np.random.Generator,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
) -> SequenceTests:
    """Test a sequence of policies until the first that fails.

    Let the first policy in the order whose mean promise is false, and the first whose tail promise is, each be passed
    with probability at most delta / 2: then a false one is among those before the first failure with probability at
    most delta, however many there are. The third condition can only make certificates fewer.

    `excess` (n_blocks, n_policies): errors above the reference's. `words` (n_blocks,) or (n_blocks, n_policies):
    reference words. `prior`: mean and variance, (n_policies,) each, see `p_values`. `block_words` (n_policies,): the
    scale S. `rng`: for the order in which blocks are bet on, and exact p-values' rounding.

    Example
    -------
    >>> excess, words = np.zeros((60, 2)), np.full(60, 100)
    >>> excess[:6, 1] = 30  # a tenth of the speakers lose 30 points by the second policy
    >>> found = sequence_tests(excess, words, target=RiskTarget(5.0), block_words=100, rng=np.random.default_rng(0))
    >>> found.n_certified, found.n_above, found.excess
    (1, array([0, 6]), array([0., 3.]))
    """
    from scipy.stats import binom

    clip, tail = target.clip_at(block_words), target.tail_at(len(words))
    losses = scaled_losses(excess, words, eps=target.eps, clip=clip, block_words=block_words)
    order, uniforms = rng.permutation(len(words)), rng.uniform(size=len(words))
    mean_p = block_p_values(losses[order], target, limit=target.eps / clip, uniforms=uniforms, prior=prior)
    n_above = above_clip(excess, words, eps=target.eps, clip=clip, block_words=block_words).sum(axis=0)
    tail_p = binom.cdf(n_above, len(words), tail)
    points = 100.0 * excess.sum(axis=0) / np.maximum(words.sum(axis=0), 1e-9)
    n_certified = first_failure(failing_p(mean_p, tail_p, points, target), target.level * (1 + 1e-9))
    return SequenceTests(mean_p, tail_p, points, n_above, clip, tail, n_certified)


def failing_p(mean_p: np.ndarray, tail_p: np.ndarray, points: np.ndarray, target: RiskTarget) -> np.ndarray:
    """What must be at most the level for a certificate, policy by policy; arguments as of `SequenceTests`.

    It is compared with the level times 1 + 1e-9: the default tail passes with the level exactly.
    """
    return np.where(points <= target.eps * (1 + 1e-9), np.maximum(mean_p, tail_p), 1.0)


def above_clip(excess: np.ndarray, words: np.ndarray, *, eps: float, clip: float, block_words: float) -> np.ndarray:
    """Blocks in the tail: those whose loss is above clip - eps, for a block of S words an excess above the clip.

    Returns np.ndarray of bool, of shape (n_blocks, n_policies).
    """
    return block_losses(excess, words, eps=eps, block_words=block_words) > (clip - eps) * (1 + 1e-9)


LEAST_SHARE = 0.2  # of the words, at an exit that is to be certified


def staircase(filled: Sequence[Policy], exit_layers: Sequence[int]) -> list[list[Policy]]:
    """Policies that leave at one of two neighbouring exits, and at one exit, by the stairs from the last exit down.

    Returns list of list of policies: of each stair; within one in the order of `filled`. `filled`: one policy with many
    thresholds; of a `between` the window bounds the stairs.

    Example
    -------
    >>> from eeasr_modules.exits.policies.text import parse_policy
    >>> [[str(one) for one in stair] for stair in staircase([parse_policy("entropy(0.1)")], [2, 4, 6])]
    [['between(4, 6, entropy(0.1))'], ['static(4)'], ['between(2, 4, entropy(0.1))'], ['static(2)']]
    """
    layers = [int(layer) for layer in exit_layers]
    if isinstance(filled[0], Between):
        layers = [layer for layer in layers if filled[0].floor_layer <= layer <= filled[0].ceiling_layer]
        filled = [one.policy for one in filled]
    stairs = [[Static(layers[-1])]] if layers[-1] < int(exit_layers[-1]) else []
    for floor, ceiling in zip(layers[-2::-1], layers[:0:-1], strict=True):
        stairs += [[Between(floor, ceiling, one) for one in filled], [Static(floor)]]
    return stairs


@dataclass(frozen=True, eq=False)
class ExitSums:
    """What blocks lose at each exit under each policy."""

    # excess, words: (n_blocks, n_policies, n_exits), errors above the reference's and reference words of those who
    # leave there
    excess: np.ndarray
    words: np.ndarray
    # bool (n_policies, n_exits), exits that may be left at and say anything else than the reference exit
    used: np.ndarray

    @property
    def block_words(self) -> np.ndarray:
        """The scales S_e, (n_policies, n_exits), above 0."""
        return np.maximum(self.words.mean(axis=0), 1e-9)

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Excess and words with a column for each policy's exit, (n_blocks, n_policies * n_exits)."""
        n_columns = self.used.size
        return self.excess.reshape(-1, n_columns), self.words.reshape(-1, n_columns)


def exit_sums(table: ExitTable, policies: Sequence[Policy], target: RiskTarget) -> ExitSums:
    """The losses of blocks, exit by exit."""
    block, rows = block_numbers(table, target.blocks), np.arange(table.n_utterances)
    reference, shape = reference_errors(table, target.reference), (int(block.max()) + 1, table.n_exits)
    excess, words, used = [], [], []
    for policy in policies:
        chosen = decide(policy, table)
        cell = block * table.n_exits + chosen.decided
        for sums, values in ((excess, table.errors[rows, chosen.emitted] - reference), (words, table.n_ref_words)):
            sums.append(np.bincount(cell, values, minlength=shape[0] * shape[1]).reshape(shape))
        used.append(_open_exits(policy, table.exit_layers))
        other_words = reach_of(policy) > 0 or table.emitted is not None
        used[-1][-1] &= target.reference != "last" or other_words  # the last exit is no worse than itself
    return ExitSums(np.stack(excess, axis=1), np.stack(words, axis=1), np.stack(used))


def _open_exits(policy: Policy, exit_layers: np.ndarray) -> np.ndarray:
    low, high = exit_layers[0], exit_layers[-1]
    if isinstance(policy, Static):
        low = high = policy.layer
    elif isinstance(policy, Between):
        low, high = policy.floor_layer, policy.ceiling_layer
    return (exit_layers >= low) & (exit_layers <= high)


def certifiable(sums: ExitSums, target: RiskTarget) -> np.ndarray:
    """Policies all of whose exits have their share of the words and would be certified without any error more there.

    Returns np.ndarray of bool, of shape (n_policies,): no error is looked at.
    """
    words = sums.words.sum(axis=0)
    share = np.where(sums.used, words / np.maximum(words.sum(axis=1, keepdims=True), 1), 1.0)
    flawless = ExitSums(np.zeros_like(sums.excess), sums.words, sums.used)
    found = per_exit_tests(flawless, target=target, rng=np.random.default_rng(0))[0]
    flawless_p = failing_p(found.mean_p, found.tail_p, found.excess, target)
    return (share >= LEAST_SHARE).all(axis=1) & (flawless_p <= target.level * (1 + 1e-9))


def per_exit_tests(
    sums: ExitSums,
    *,
    target: RiskTarget,
    rng: np.random.Generator,
    block_words: np.ndarray | None = None,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[SequenceTests, SequenceTests]:
    """Test a sequence of policies, each at every exit that it uses.

    Returns tuple of SequenceTests: of policies, each by its worst exit; and of exits, their arrays (n_policies,
    n_exits), `n_certified` as it is of policies. `block_words` (n_policies, n_exits): the scales S_e; None takes these
    blocks'. `prior` (n_policies, n_exits): as for `betting_p_values`.
    """
    scale = sums.block_words if block_words is None else block_words
    given = {} if prior is None else {"prior": tuple(part.ravel() for part in prior)}
    flat = sequence_tests(*sums.columns, target=target, rng=rng, block_words=scale.ravel(), **given)
    used = sums.used
    unheard = used & (sums.words.sum(axis=0) == 0)  # may be left at, and nothing is known of it
    mean_p, tail_p, excess, n_above, clip = (
        part.reshape(used.shape) for part in (flat.mean_p, flat.tail_p, flat.excess, flat.n_above, flat.clip)
    )
    mean_p, excess = np.where(unheard, 1.0, mean_p), np.where(used, excess, -np.inf)
    worst = [np.where(used, part, 0).max(axis=1) for part in (mean_p, tail_p)]
    points, above = np.where(used.any(axis=1), excess.max(axis=1), 0.0), np.where(used, n_above, 0).max(axis=1)
    n_certified = first_failure(failing_p(*worst, points, target), target.level * (1 + 1e-9))
    policies = SequenceTests(*worst, points, above, np.where(used, clip, 0).max(axis=1), flat.tail, n_certified)
    return policies, SequenceTests(mean_p, tail_p, excess, n_above, clip, flat.tail, n_certified)


def stairs(policy: Policy, table: ExitTable, *, cost: str, n_thresholds: int) -> Curve:
    """The staircase of a policy on a table, costliest first within each stair.

    Each stair has a quarter of `n_thresholds`, at least 10.
    """
    inner = policy.policy if isinstance(policy, Between) and policy.has_open_window else policy
    filled = policy_curve(inner, table, cost=cost, n_thresholds=max(n_thresholds // 4, 10)).policies
    ordered = []
    for stair in staircase(filled, table.exit_layers):
        points = np.array([choice_point(one, table, cost=cost) for one in stair])
        ordered += [(stair[i], *points[i]) for i in np.argsort(-points[:, 0], kind="stable")]
    policies, costs, wer = zip(*ordered, strict=True)
    return Curve(policies, np.array(costs), np.array(wer))


def exit_by_exit(
    grid: Curve, table: ExitTable, source: ExitTable | None, target: RiskTarget, rng: np.random.Generator
) -> tuple[Curve, SequenceTests, tuple[dict[str, Any], ...]]:
    """The policies that can be certified, their tests, and what is promised of each exit of the one certified.

    Returns tuple of (Curve, SequenceTests, tuple of dict): as for `RiskControlled`; no exits where nothing is
    certified. `source`: other data, which scales and first bets are then of.
    """
    sums = exit_sums(table, grid.policies, target)
    kept = np.flatnonzero(certifiable(sums, target))
    if not len(kept):  # the costliest of those that leave at one exit says why not
        kept = np.array([[isinstance(one, Static) for one in grid.policies].index(True)])
    grid, sums = grid.take(kept), ExitSums(sums.excess[:, kept], sums.words[:, kept], sums.used[kept])
    scale, given = sums.block_words, {}
    if source is not None:
        theirs = exit_sums(source, grid.policies, target)
        scale = theirs.block_words
        moments = loss_moments(*theirs.columns, target=target, block_words=scale.ravel())
        given = {"prior": tuple(part.reshape(scale.shape) for part in moments)}
    tests, at_exits = per_exit_tests(sums, target=target, rng=rng, block_words=scale, **given)
    if not tests.n_certified:
        return grid, tests, ()
    best = tests.n_certified - 1
    share = sums.words[:, best].sum(axis=0) / sums.words[:, best].sum()
    exits = tuple(
        {
            "exit_layer": int(table.exit_layers[k]),
            "share": float(share[k]),
            "block_words": float(scale[best, k]),
            "clip": float(at_exits.clip[best, k]),
            "tail": at_exits.tail,
            "n_above": int(at_exits.n_above[best, k]),
            "dev_excess": float(at_exits.excess[best, k]),
            "p_value": float(at_exits.mean_p[best, k]),
            "tail_p_value": float(at_exits.tail_p[best, k]),
        }
        for k in np.flatnonzero(sums.used[best])
    )
    return grid, tests, exits


def per_exit_promise(target: RiskTarget, exits: Sequence[Mapping[str, Any]], *, n_blocks: int) -> str:
    """What is promised of every exit of `RiskControlled.exits`, tested on so many blocks."""
    drawn = target.blocks
    of_each = [
        f"layer {one['exit_layer']} ({100 * one['share']:.0f} % of the words; clip {one['clip']:.3g} points of "
        f"{one['block_words']:.3g} words; at most {100 * one['tail']:.3g} % of {drawn} lose more, {one['n_above']} of "
        f"these {n_blocks})"
        for one in exits
    ]
    return (
        f"with probability {1 - target.delta:g} over the draw of {n_blocks} {drawn}, taken to be exchangeable with "
        f"those to come, for every exit by itself: of the utterances that leave there, at most {what(target)} over "
        f"the {drawn} that lose at most the clip there; {'; '.join(of_each)}; other exits but the last are closed"
    )
