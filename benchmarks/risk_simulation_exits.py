"""Certificates exit by exit, for benchmarks/risk_simulation.py: on known truth, and over random halves of speakers."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from risk_simulation_draws import AT_ONCE, SLACK, Kept, certified, draw_halves, kept, shares_saved, tested

from eeasr_modules.exits import ExitTable, Policy
from eeasr_modules.exits.policies.combine import Between
from eeasr_modules.exits.tuning.risk_losses import RiskTarget, block_numbers, block_sums, first_failure
from eeasr_modules.exits.tuning.risk_tests import (
    LEAST_SHARE,
    ExitSums,
    certifiable,
    exit_sums,
    failing_p,
    per_exit_tests,
    stairs,
)

HARMS = (0.1, 0.25, 0.5, 0.75, 1.0)  # of the sequence of made-up policies, as a share of the last one's
WORDS = 500.0  # of a speaker at each of two exits


def certified_exits(
    sums: ExitSums, drawn: np.ndarray, *, target: RiskTarget, rng: np.random.Generator, block_words: Any = None
) -> tuple[np.ndarray, float]:
    """The last policy that each draw certifies exit by exit, -1 for none, (n_draws,), and the share of the tail.

    Arguments
    ---------
    sums : ExitSums
        Of a population.
    drawn : np.ndarray of int, of shape (n_blocks, n_draws)
        Its blocks, in random order.
    target, rng
        As for `per_exit_tests`.
    block_words : np.ndarray of shape (n_policies, n_exits), or None
        As there; None takes each draw's.
    """
    n_policies, n_exits = sums.used.shape
    size, found = max(1, AT_ONCE // (len(drawn) * sums.used.size)), []
    for first in range(0, drawn.shape[1], size):
        some = drawn[:, first : first + size]
        shape = len(some), -1, n_exits
        draws = ExitSums(
            sums.excess[some].reshape(shape), sums.words[some].reshape(shape), np.tile(sums.used, (some.shape[1], 1))
        )
        scale = None if block_words is None else np.tile(block_words, (some.shape[1], 1))
        tests = per_exit_tests(draws, target=target, rng=rng, block_words=scale)[0]
        kept = certifiable(draws, target).reshape(-1, n_policies)
        failing = failing_p(tests.mean_p, tests.tail_p, tests.excess, target).reshape(-1, n_policies)
        n_passed = first_failure(np.where(kept, failing, 0.0), target.level * SLACK)
        passed = kept & (np.arange(n_policies) < n_passed[:, None])
        found.append(np.where(passed, np.arange(n_policies), -1).max(axis=1))
    return np.concatenate(found), tests.tail


def kept_exits(
    sums: ExitSums, at: np.ndarray, *, target: RiskTarget, scale: np.ndarray, among: np.ndarray | None = None
) -> list[tuple[np.ndarray, Kept]]:
    """What is true at each exit of each draw's policy, and whether it is used; `scale` is (n_draws, n_exits)."""
    found = []
    for k in range(sums.used.shape[1]):
        of_exit = sums.excess[:, at, k], sums.words[:, at, k]
        found.append((sums.used[at, k], kept(*of_exit, target=target, scale=scale[:, k], among=among)))
    return found


def broken_exits(found: list[tuple[np.ndarray, Kept]], tail: float) -> np.ndarray:
    """Whether a part of the promise is not so at some exit that is used, (n_draws,)."""
    return np.any([used & one.broken(tail) for used, one in found], axis=0)


def worst_points(sums: ExitSums) -> np.ndarray:
    """The excess in WER points, nothing clipped, at the worst exit that its share of the words leaves at, by policy."""
    words = sums.words.sum(axis=0)
    points = 100.0 * sums.excess.sum(axis=0) / np.maximum(words, 1)
    return np.where(words >= LEAST_SHARE * words.sum(axis=1, keepdims=True), points, -np.inf).max(axis=1)


def exit_populations() -> dict[str, Callable]:
    """Made-up speakers: points lost at each of two exits under the most harmful policy, and words, (*shape, 2)."""

    def normal(first: float, second: float, share: float = 0.5) -> Callable:
        def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
            words = 2 * WORDS * np.array([share, 1 - share]) * np.ones((*shape, 2))
            return np.array([first, second]) + rng.normal(0.0, 0.8, (*shape, 2)), words

        return draw

    def few_lose_much(share: float, points: float, others: float) -> Callable:
        def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
            first = np.where(rng.random(shape) < share, points, others)
            return np.stack([first, np.full(shape, -2.0)], axis=-1), np.full((*shape, 2), WORDS)

        return draw

    def pareto(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        first = np.minimum(0.5 * rng.pareto(1.2, shape), 100.0)
        return np.stack([first, -first / 2], axis=-1), np.full((*shape, 2), WORDS)

    def who_leaves_much(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        first = 100.0 + 800.0 * rng.beta(0.5, 0.5, shape)
        points = np.where(first > 700, 1.5, -0.3)
        return np.stack([points, np.full(shape, -1.0)], axis=-1), np.stack([first, 2 * WORDS - first], axis=-1)

    return {
        "0.55 at the first, made good at the second": normal(0.55, -0.55),
        "0.55 at the second, made good at the first": normal(-0.55, 0.55),
        "0.55 at both": normal(0.55, 0.55),
        "0.55 at the first, where a quarter leaves": normal(0.55, -0.3, share=0.25),
        "3 % lose 40 at the first": few_lose_much(0.03, 40.0, 0.0),
        "14 % lose 3 at the first, others gain 0.5": few_lose_much(0.14, 3.0, -0.5),
        "Pareto (1.2) at the first": pareto,
        "who leaves more at the first loses 1.5 there": who_leaves_much,
    }


def exits_known(n_draws: int, *, delta: float, eps: float = 0.5) -> list[dict[str, Any]]:
    """On known truth: how often certificates are given and violated, and what those about all utterances hide."""
    rows, target, whole = [], RiskTarget(eps, delta, per_exit=True), RiskTarget(eps, delta)
    for name, draw in exit_populations().items():

        def sums(rng: np.random.Generator, n: int, draw: Callable = draw) -> ExitSums:
            points, words = draw(rng, (n,))
            points, words = points[:, None] * np.array(HARMS)[:, None], np.repeat(words[:, None], len(HARMS), axis=1)
            return ExitSums(0.01 * points * words, words, np.ones((len(HARMS), 2), dtype=bool))

        truth = sums(np.random.default_rng(10), 200_000)
        scale, policies = truth.block_words, np.arange(len(HARMS))
        hidden, true = worst_points(truth) > eps, kept_exits(truth, policies, target=target, scale=scale)
        for n_speakers in (20, 50, 100, 200):
            rng = np.random.default_rng(n_speakers)
            seen, drawn = sums(rng, n_speakers * n_draws), np.arange(n_speakers * n_draws).reshape(n_speakers, -1)
            at, tail = certified_exits(seen, drawn, target=target, rng=rng, block_words=scale)
            false = broken_exits(true, tail)
            given = {"target": whole, "scale": 2 * WORDS, "rng": rng}
            marginal = certified(seen.excess.sum(axis=2)[drawn], seen.words[:, 0].sum(axis=1)[drawn], **given).at
            rows.append(
                {
                    "population": name,
                    "n_speakers": n_speakers,
                    "issued": np.mean(at >= 0),
                    "violated": np.mean((at >= 0) & false[at]),
                    "issued_over_all": np.mean(marginal >= 0),
                    "bad_exit_over_all": np.mean((marginal >= 0) & hidden[marginal]),
                }
            )
    return rows


def exit_splits(
    table: ExitTable,
    policy: Policy,
    policies: Sequence[Policy],
    *,
    delta: float,
    eps_values: Sequence[float],
    n_draws: int,
) -> list[dict[str, Any]]:
    """Certificates exit by exit over random halves of the speakers, beside those about all utterances.

    Arguments
    ---------
    table : ExitTable
        The whole set.
    policy : policy
        Open.
    policies : sequence of policies
        The sequence that is tested for a promise about all utterances.
    delta, eps_values, n_draws
        Of the promises, and how many halves.
    """
    grid, speaker = stairs(policy, table, cost="cost_layers", n_thresholds=60), block_numbers(table, "speakers")
    sums = _two_exits(exit_sums(table, grid.policies, RiskTarget(1.0, delta, per_exit=True)))
    over_all = exit_sums(table, policies, RiskTarget(1.0, delta))
    words, full = over_all.words[:, 0].sum(axis=1), np.bincount(speaker, table.cost_layers[:, -1])
    costs = [block_sums(tested(some, table)[1], speaker) for some in (grid.policies, policies)]
    halves, others = draw_halves(len(words), n_draws)
    rows = []
    for eps in eps_values:
        target = RiskTarget(eps, delta, per_exit=True)
        at, tail = certified_exits(sums, halves, target=target, rng=np.random.default_rng(1))
        heard = np.take_along_axis(sums.words[:, at], halves[:, :, None], axis=0)  # (n_speakers, n_draws, 2)
        scale = np.maximum(heard.mean(axis=0), 1e-9)
        held_out, whole = (kept_exits(sums, at, target=target, scale=scale, among=of) for of in (others, None))
        given = {"target": RiskTarget(eps, delta), "scale": words.mean(), "rng": np.random.default_rng(1)}
        marginal = certified(over_all.excess.sum(axis=2)[halves], words[halves], **given).at
        saved = [shares_saved(cost, full, one, others).mean() for cost, one in zip(costs, (at, marginal), strict=True)]
        rows.append(
            {
                "set": table.metadata.get("set_name"),
                "policy": str(policy),
                "eps": eps,
                "n_speakers": len(halves),
                "violated_held_out": np.mean((at >= 0) & broken_exits(held_out, tail)),
                "violated_whole_set": np.mean((at >= 0) & broken_exits(whole, tail)),
                "saved": saved[0],
                "none_certified": np.mean(at < 0),
                "exit_layers": _used_most(grid.policies, at, table.exit_layers.tolist()),
                "bad_exit": np.mean((at >= 0) & (worst_points(sums)[at] > eps)),
                "saved_over_all": saved[1],
                "bad_exit_over_all": np.mean((marginal >= 0) & (worst_points(over_all)[marginal] > eps)),
            }
        )
    return rows


def _used_most(policies: Sequence[Policy], at: np.ndarray, exit_layers: list[int]) -> str:
    """Layers that utterances leave after in most draws, such as "8 or 10"; the last one where nothing is certified."""
    pairs = [(one.floor_layer, one.ceiling_layer) if isinstance(one, Between) else (one.layer,) for one in policies]
    said = Counter(" or ".join(map(str, (*pairs, exit_layers[-1:])[i])) for i in at)
    return said.most_common(1)[0][0]


def _two_exits(sums: ExitSums) -> ExitSums:
    """Without the exits that are closed: two are open at most."""
    is_open = sums.used | (sums.words.sum(axis=0) > 0)
    kept = np.argsort(~is_open, axis=1, kind="stable")[:, :2]
    excess, words = (np.take_along_axis(part, kept[None], axis=2) for part in (sums.excess, sums.words))
    return ExitSums(excess, words, np.take_along_axis(sums.used, kept, axis=1))
