"""Many draws of calibration blocks at once, for benchmarks/risk_simulation.py: certified, judged, what they save."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eeasr_modules.exits import ExitTable, Policy
from eeasr_modules.exits.tuning.replay import decide
from eeasr_modules.exits.tuning.risk_losses import WORST_POINTS, RiskTarget, block_losses, first_failure
from eeasr_modules.exits.tuning.risk_tests import above_clip, failing_p, sequence_tests

AT_ONCE = 1_000_000  # losses that are tested at once: what fits a cache is faster than all draws together
SLACK = 1 + 1e-9


class Certified(NamedTuple):
    """What each draw certifies: numbers of policies, -1 for none, each (n_draws,)."""

    at: np.ndarray
    before: np.ndarray  # by the clipped mean alone at delta, as before there was a test of the tail
    tail: float


def certified(
    excess: np.ndarray,
    words: np.ndarray,
    *,
    target: RiskTarget,
    scale: float,
    rng: np.random.Generator,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
) -> Certified:
    """The last policy that each draw of blocks certifies.

    Arguments
    ---------
    excess : np.ndarray of shape (n_blocks, n_draws, n_policies)
        Errors above the last exit's; the blocks of a draw in random order.
    words : np.ndarray of shape (n_blocks, n_draws)
        Reference words.
    target, scale, rng, prior
        As for `sequence_tests`.

    Returns
    -------
    Certified
    """
    n_blocks, n_draws, n_policies = excess.shape
    size = 1 if target.p_value == "exact" else max(1, AT_ONCE // (n_blocks * n_policies))  # a draw rounds by itself
    at, before = [], []
    for first in range(0, n_draws, size):
        some = excess[:, first : first + size]
        given = {} if prior is None else {"prior": tuple(np.tile(part, some.shape[1]) for part in prior)}
        columns = some.reshape(n_blocks, -1), np.repeat(words[:, first : first + size], n_policies, axis=1)
        found = sequence_tests(*columns, target=target, block_words=scale, rng=rng, **given)
        failing = failing_p(found.mean_p, found.tail_p, found.excess, target)
        at.append(first_failure(failing.reshape(-1, n_policies), target.level * SLACK) - 1)
        before.append(first_failure(found.mean_p.reshape(-1, n_policies), target.delta) - 1)
    return Certified(np.concatenate(at), np.concatenate(before), found.tail)


class Kept(NamedTuple):
    """What is true of some blocks of what a certificate promises, each (n,)."""

    target: RiskTarget
    clip: float | np.ndarray
    outside: np.ndarray  # WER points over the blocks that lose at most the clip
    tail: np.ndarray  # share of the others
    over_all: np.ndarray  # WER points
    bounded: np.ndarray  # whether no block loses more than 100 points

    def broken(self, tail: float) -> np.ndarray:
        """Whether a part of the promise is not so, where it rules out this share in the tail, (n,)."""
        bound = self.target.eps + tail * np.maximum(0.0, WORST_POINTS - self.clip)
        above = self.bounded & (self.over_all > bound * SLACK)
        return (self.outside > self.target.eps * SLACK) | (self.tail > tail * SLACK) | above


def kept(
    excess: np.ndarray,
    words: np.ndarray,
    *,
    target: RiskTarget,
    scale: float | np.ndarray,
    among: np.ndarray | None = None,
) -> Kept:
    """What is true of some blocks.

    Arguments
    ---------
    excess : np.ndarray of shape (n_blocks, n)
        Errors above the last exit's, of n policies, or of the policies that n draws certify.
    words : np.ndarray of shape (n_blocks, 1) or (n_blocks, n)
        Reference words.
    target : RiskTarget
        What is promised.
    scale : float or np.ndarray of shape (n,)
        Words of a mean block.
    among : np.ndarray of bool, of shape (n_blocks, n), or None
        The blocks looked at; None takes all.

    Returns
    -------
    Kept
    """
    words = np.broadcast_to(words, excess.shape)
    among = np.ones(excess.shape, dtype=bool) if among is None else among
    clip = target.clip_at(scale)
    losses = block_losses(excess, words, eps=target.eps, block_words=scale)
    above = above_clip(excess, words, eps=target.eps, clip=clip, block_words=scale)
    outside, over_all = (
        100.0 * np.where(of, excess, 0).sum(axis=0) / np.maximum(np.where(of, words, 0).sum(axis=0), 1)
        for of in (among & ~above, among)
    )
    bounded = ~(among & (losses + target.eps > np.maximum(WORST_POINTS, clip))).any(axis=0)
    return Kept(target, clip, outside, (above & among).sum(axis=0) / among.sum(axis=0), over_all, bounded)


def tested(policies: Sequence[Policy], table: ExitTable) -> tuple[np.ndarray, np.ndarray]:
    """Errors above the last exit and costs of a sequence of policies, each (n_utterances, n_policies)."""
    rows, excess, cost = np.arange(table.n_utterances), [], []
    for policy in policies:
        chosen = decide(policy, table)
        excess.append(table.errors[rows, chosen.emitted] - table.errors[:, -1])
        cost.append(table.cost_layers[rows, chosen.decided])
    return np.stack(excess, axis=1), np.stack(cost, axis=1)


def draw_halves(n_blocks: int, n_draws: int, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Random halves: numbers of the blocks, in random order, (n_blocks // 2, n_draws), and masks of all others."""
    order = np.argsort(np.random.default_rng(seed).random((n_blocks, n_draws)), axis=0)
    halves, others = order[: n_blocks // 2], np.ones((n_blocks, n_draws), dtype=bool)
    np.put_along_axis(others, halves, False, axis=0)
    return halves, others


def shares_saved(cost: np.ndarray, full: np.ndarray, at: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Share of the last exit's cost that each draw's policy saves on some blocks, (n_draws,).

    Arguments
    ---------
    cost : np.ndarray of shape (n_blocks, n_policies)
        Of each policy.
    full : np.ndarray of shape (n_blocks,)
        Of the last exit.
    at : np.ndarray of shape (n_draws,)
        Numbers of the policies; -1 saves nothing.
    among : np.ndarray of bool, of shape (n_blocks, n_draws)
        The blocks.
    """
    paid = np.where(among, cost[:, at], 0).sum(axis=0) / (full @ among)
    return np.where(at >= 0, 1.0 - paid, 0.0)
