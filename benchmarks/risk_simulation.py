"""Do the guarantees of risk control hold, what do they save, and what is left of them under shift?

    python benchmarks/risk_simulation.py --sets clean.parquet,other.parquet [--sets A.parquet,B.parquet,...]
        [--policies "between(8, 12, entropy)"] [--certificate_policies "gain"] [--draws 500] [--out results/risk]

Each `--sets` names exit tables of one model (`eeasr import-transcripts`, or a run's `tables/`). Writes `risk.json`
and `risk.md`. *Violated* is a promise of which some part is not so (`exits.tuning.risk`): the excess outside the tail,
the share in the tail, or the bound on all blocks where none loses more than 100 points. Tables:

1. *known truth*: made-up losses whose mean is exactly the limit: how often a p-value is at most delta.
2. *heavy tails*: made-up speakers of whom few lose much; policies that harm more and more. True numbers from a large
   draw of the same population.
3. *speaker splits*: calibrated on a random half of the speakers; judged on the other half (whose own sampling noise is
   included) and on the whole set (the truth of a finite population).
4. *certificate under shift*: thresholds, bets and fit from the other sets, tested with 50 labelled utterances of the
   new one, drawn at random with replacement, so that the whole new set is the population.
5. *what the tail costs*: layers saved by these certificates and by those of before, which tested the clipped mean alone
   at delta and said nothing of the tail.
6. *shift*: calibrated on one whole set, used on another, where nothing is promised.
7. *speakers needed*: arithmetic, see `exits.tuning.risk_terms`.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from risk_simulation_text import json_lines, page

from eeasr_modules.exits import ExitTable, Policy, parse_policies, policy_curve, read_table, replay
from eeasr_modules.exits.policies.combine import Between, open_leaf
from eeasr_modules.exits.policies.fitted import Fitted
from eeasr_modules.exits.tuning.p_values import P_VALUES
from eeasr_modules.exits.tuning.risk import control_risk, risk_outcome
from eeasr_modules.exits.tuning.risk_losses import (
    WORST_POINTS,
    RiskTarget,
    block_numbers,
    block_p_values,
    block_sums,
    excess_errors,
    first_failure,
    mean_block_words,
    reference_errors,
    scaled_losses,
)
from eeasr_modules.exits.tuning.risk_sequence import above_clip, sequence_tests
from eeasr_modules.exits.tuning.risk_terms import needed_table

DELTA = 0.1
N_LABELLED = 50
N_THRESHOLDS = 60
JOINED = (
    "hypotheses",
    "n_ref_words",
    "n_ref_chars",
    "n_sub",
    "n_del",
    "n_ins",
    "n_char_errors",
    "duration_s",
    "n_frames",
    "cost_layers",
)


class Tested:
    """Errors above the last exit and costs of a sequence of policies, costliest first, on one table.

    Arguments
    ---------
    policies : sequence of policies
        In the order of the tests.
    table : ExitTable
        What was recorded.
    """

    def __init__(self, policies: Sequence[Policy], table: ExitTable) -> None:
        rows = np.arange(table.n_utterances)
        self.excess = excess_errors(table, policies, reference_errors(table, "last"))
        self.cost = np.stack([table.cost_layers[rows, replay(policy, table)] for policy in policies], axis=1)
        self.full, self.words = table.cost_layers[:, -1], table.n_ref_words

    def points(self, rows: np.ndarray, at: int) -> float:
        """Excess in WER points of the policy number `at` on some utterances; 0 for at = -1, the last exit."""
        return 0.0 if at < 0 else float(100.0 * self.excess[rows, at].sum() / self.words[rows].sum())

    def saved(self, rows: np.ndarray, at: int) -> float:
        """Share of the last exit's cost that it saves there."""
        return 0.0 if at < 0 else float(1.0 - self.cost[rows, at].sum() / self.full[rows].sum())


def sequence(policy: Policy, table: ExitTable) -> list[Policy]:
    """Thresholds of a policy, costliest first; where windows are open, the best of them on the table."""
    curve = policy_curve(policy, table, n_thresholds=N_THRESHOLDS)
    if isinstance(policy, Between) and policy.has_open_window:
        curve = curve.frontier()
    return [curve.policies[i] for i in np.argsort(-curve.cost, kind="stable")]


class Judge:
    """What is true of each policy over some blocks, and whether a certificate's promise is.

    Arguments
    ---------
    excess : np.ndarray of shape (n_blocks, n_policies)
        Errors above the last exit.
    words : np.ndarray of shape (n_blocks,)
        Reference words.
    target : RiskTarget
        What is promised.
    scale : float
        Words of a mean block.
    """

    def __init__(self, excess: np.ndarray, words: np.ndarray, *, target: RiskTarget, scale: float) -> None:
        self.target, self.clip = target, target.clip_at(scale)
        above = above_clip(excess, words, eps=target.eps, clip=self.clip, block_words=scale)
        counted = np.where(above, 0, words[:, None]).sum(axis=0)
        self.outside = 100.0 * np.where(above, 0.0, excess).sum(axis=0) / np.maximum(counted, 1)
        self.tail, self.over_all = above.mean(axis=0), 100.0 * excess.sum(axis=0) / words.sum()
        worst = (100.0 * excess - target.eps * words[:, None]) / scale + target.eps
        self.bounded = (worst <= max(WORST_POINTS, self.clip)).all(axis=0)

    def violated(self, at: int, tail: float) -> bool:
        """Whether a part of what a certificate for the policy number `at` says is not so; -1 promises nothing."""
        if at < 0:
            return False
        slack = 1 + 1e-9
        all_above = self.over_all[at] > self.target.bound_on_all(clip=self.clip, tail=tail) * slack
        return bool(
            self.outside[at] > self.target.eps * slack or self.tail[at] > tail * slack or self.bounded[at] & all_above
        )


def clip_alone(
    excess: np.ndarray, words: np.ndarray, *, target: RiskTarget, scale: float, rng: np.random.Generator, prior: Any
) -> int:
    """The policy that the clipped mean alone would certify at delta, as before there was a test of the tail."""
    clip = target.clip_at(scale)
    losses = scaled_losses(excess, words, eps=target.eps, clip=clip, block_words=scale)[rng.permutation(len(words))]
    uniforms = rng.uniform(size=len(words))
    found = block_p_values(losses, target, limit=target.eps / clip, uniforms=uniforms, prior=prior)
    return first_failure(found, target.delta) - 1


def known_truth(n_draws: int) -> list[dict[str, Any]]:
    """Share of false certificates where the mean loss is exactly the limit, for each method and population."""
    limit, rng = 0.25, np.random.default_rng(0)
    populations = {
        "0 or 1": lambda shape: (rng.random(shape) < limit).astype(float),
        "all alike": lambda shape: np.full(shape, limit),
        "rare and large": lambda shape: 0.2 + 0.8 * (rng.random(shape) < 0.0625),
        "skew": lambda shape: rng.beta(0.5, 1.5, shape),
        "counts, with ties": lambda shape: rng.binomial(8, limit, shape) / 8,
    }
    rows = []
    for name, draw in populations.items():
        for n_blocks in (10, 20, 200):
            losses, uniforms = draw((n_blocks, n_draws)), rng.uniform(size=(n_blocks, n_draws))
            for method in P_VALUES:
                target = RiskTarget(1.0, DELTA, p_value=method, clip=4.0)
                if method == "exact":  # every draw has its own rounding
                    ones = (uniforms < losses).astype(float)
                    found = block_p_values(ones, target, limit=limit, uniforms=np.full(n_blocks, 0.5))
                else:
                    found = block_p_values(losses, target, limit=limit, uniforms=uniforms[:, 0])
                false = float((found <= DELTA).mean())
                rows.append({"population": name, "n_blocks": n_blocks, "p_value": method, "false_certificates": false})
    return rows


HARMS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the sequence of made-up policies, as a share of the last one's


def heavy_populations() -> dict[str, Any]:
    """Made-up speakers: (excess in points under the most harmful policy, words), each (n,), from (rng, n)."""

    def few_lose_much(share: float, points: float, better: float = 0.0) -> Any:
        return lambda rng, n: (np.where(rng.random(n) < share, points, -better), np.full(n, 1000.0))

    def pareto(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        return np.minimum(0.5 * (rng.pareto(1.2, n)), 100.0), np.full(n, 1000.0)

    def lognormal(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        return np.minimum(rng.lognormal(-2.0, 2.0, n), 100.0), np.full(n, 1000.0)

    def who_says_much(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        words = 200.0 + 1600.0 * rng.beta(0.5, 0.5, n)
        return np.where((words > 1700) & (rng.random(n) < 0.2), 40.0, 0.0), words

    def all_alike(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(0.55, 1.0, n), np.full(n, 1000.0)

    return {
        "3 % lose 40 points": few_lose_much(0.03, 40.0),
        "1 % lose 100 points": few_lose_much(0.01, 100.0),
        "6 % lose 40, all others gain 0.5": few_lose_much(0.06, 40.0, better=0.5),
        "6 % lose 3, all others gain 0.5": few_lose_much(0.06, 3.0, better=0.5),
        "14 % lose 3, all others gain 0.5": few_lose_much(0.14, 3.0, better=0.5),
        "27 % lose 2 points": few_lose_much(0.27, 2.0),
        "Pareto (1.2), up to 100": pareto,
        "lognormal (2), up to 100": lognormal,
        "some who say much lose 40": who_says_much,
        "normal, 0.55 on average": all_alike,
    }


def heavy_tails(n_draws: int, *, eps: float = 0.5) -> list[dict[str, Any]]:
    """How often certificates are given and violated, by population, number of speakers and clip."""
    rows, harms = [], np.array(HARMS)
    for name, draw in heavy_populations().items():
        points, words = draw(np.random.default_rng(10), 400_000)
        truths = 0.01 * points[:, None] * harms * words[:, None], words
        for clip in (None, 100.0):
            target = RiskTarget(eps, DELTA, clip=clip)
            judge = Judge(*truths, target=target, scale=1000.0)
            for n_speakers in (20, 50, 100, 200, 1000):
                rng, seen = np.random.default_rng(n_speakers), []
                for _ in range(n_draws):
                    points, words = draw(rng, n_speakers)
                    excess = 0.01 * points[:, None] * harms * words[:, None]
                    found = sequence_tests(excess, words, target=target, block_words=1000.0, rng=rng)
                    at = found.n_certified - 1
                    before = clip_alone(excess, words, target=target, scale=1000.0, rng=rng, prior=None)
                    false_before = before >= 0 and judge.over_all[before] > eps
                    seen.append((at >= 0, judge.violated(at, found.tail), false_before))
                issued, violated, false_before = np.mean(seen, axis=0)
                rows.append(
                    {
                        "population": name,
                        "n_speakers": n_speakers,
                        "clip": target.clip_at(1000.0),
                        "issued": issued,
                        "violated": violated,
                        "said_of_all_before": false_before,
                    }
                )
    return rows


def speaker_splits(table: ExitTable, policy: Policy, *, eps: float, n_draws: int) -> list[dict[str, Any]]:
    """Violations and layers saved of each method over random halves of the speakers."""
    policies = sequence(policy, table)
    tested, speaker = Tested(policies, table), block_numbers(table, "speakers")
    excess, words = block_sums(tested.excess, speaker), np.bincount(speaker, tested.words)
    n_speakers, scale, rows = len(words), mean_block_words(table, "speakers"), []
    for method in P_VALUES:
        target, rng, seen = RiskTarget(eps, DELTA, p_value=method), np.random.default_rng(1), []
        whole = Judge(excess, words, target=target, scale=scale)
        for _ in range(n_draws):
            ours = np.isin(np.arange(n_speakers), rng.permutation(n_speakers)[: n_speakers // 2])
            found = sequence_tests(excess[ours], words[ours], target=target, block_words=scale, rng=rng)
            at, outside = found.n_certified - 1, np.flatnonzero(~ours[speaker])
            before = at
            if method == "betting":
                before = clip_alone(excess[ours], words[ours], target=target, scale=scale, rng=rng, prior=None)
            held_out = Judge(excess[~ours], words[~ours], target=target, scale=scale)
            broken = held_out.violated(at, found.tail), whole.violated(at, found.tail)
            seen.append((*broken, tested.saved(outside, at), at < 0, tested.saved(outside, before)))
        violated_held_out, violated_whole, saved, none, saved_before = np.mean(seen, axis=0)
        rows.append(
            {
                "set": table.metadata.get("set_name"),
                "policy": str(policy),
                "eps": eps,
                "p_value": method,
                "clip": target.clip_at(scale),
                "tail": target.tail_at(n_speakers // 2),
                "n_speakers": n_speakers // 2,
                "violated_held_out": violated_held_out,
                "violated_whole_set": violated_whole,
                "saved": saved,
                "none_certified": none,
                **({"saved_before": saved_before} if method == "betting" else {}),
            }
        )
    return rows


def under_shift(source: ExitTable, target_table: ExitTable, policy: Policy, *, eps: float) -> dict[str, Any]:
    """A certificate of one set, used on another as it is."""
    target = RiskTarget(eps, DELTA)
    controlled = control_risk(source, policy, target=target)
    at_home, outcome = (risk_outcome(controlled.policy, table, target=target) for table in (source, target_table))
    return {
        "source": source.metadata.get("set_name"),
        "target": target_table.metadata.get("set_name"),
        "policy": str(policy),
        "eps": eps,
        "recalibration": "as it is",
        "source_excess": at_home.excess,
        "source_saved": at_home.saved,
        "excess": outcome.excess,
        "violated": outcome.violated,
        "saved": outcome.saved,
    }


def certificate(
    source: ExitTable, new: ExitTable, policy: Policy, *, eps_values: Sequence[float], n_draws: int
) -> list[dict[str, Any]]:
    """Thresholds, first bets and fit from the source; tested with `N_LABELLED` random utterances of the new set."""
    policies = sequence(policy, source)
    at_home, tested = Tested(policies, source), Tested(policies, new)
    scale, everyone, rows = mean_block_words(source, "utterances"), np.arange(new.n_utterances), []
    for eps in eps_values:
        true = np.array([tested.points(everyone, at) for at in range(len(policies))])
        saved = np.array([tested.saved(everyone, at) for at in range(len(policies))])
        target = RiskTarget(eps, DELTA, blocks="utterances")
        losses = scaled_losses(at_home.excess, at_home.words, eps=eps, clip=target.clip_at(scale), block_words=scale)
        learned = losses.mean(axis=0), losses.var(axis=0)
        methods = {
            "betting, bets learned on the source": (target, learned),
            "betting": (target, None),
            "hoeffding_bentkus": (RiskTarget(eps, DELTA, blocks="utterances", p_value="hoeffding_bentkus"), None),
        }
        home = np.array([at_home.points(np.arange(len(at_home.words)), at) for at in range(len(policies))])
        uncertified = int(np.flatnonzero(home <= eps)[-1]) if (home <= eps).any() else 0
        for name, (how, prior) in methods.items():
            rng, seen, judge = np.random.default_rng(2), [], Judge(tested.excess, tested.words, target=how, scale=scale)
            for _ in range(n_draws):
                drawn = rng.choice(len(everyone), N_LABELLED)
                ours, given = (tested.excess[drawn], tested.words[drawn]), {"target": how, "rng": rng, "prior": prior}
                found = sequence_tests(*ours, block_words=scale, **given)
                at = before = found.n_certified - 1
                if prior is not None:  # the cases whose price is shown
                    before = clip_alone(*ours, scale=scale, **given)
                gained = [saved[one] if one >= 0 else 0.0 for one in (at, before)]
                seen.append((judge.violated(at, found.tail), gained[0], at < 0, gained[1]))
            violated, mean_saved, none, saved_before = np.mean(seen, axis=0)
            rows.append(
                {
                    "new": new.metadata.get("set_name"),
                    "policy": str(policy),
                    "eps": eps,
                    "method": name,
                    "violated": violated,
                    "saved": mean_saved,
                    "none_certified": none,
                    **({} if prior is None else {"saved_before": saved_before}),
                    "best_possible": float(np.where(true <= eps, saved, 0.0).max()),
                    "source_threshold_excess": float(true[uncertified]),
                    "source_threshold_saved": float(saved[uncertified]),
                }
            )
    return rows


def together(tables: Sequence[ExitTable], name: str) -> ExitTable:
    """One table of several sets' utterances, with the signals that all have."""
    first = tables[0]
    arrays = {key: np.concatenate([getattr(table, key) for table in tables]) for key in JOINED}
    named = all(table.references is not None for table in tables)
    shared = set(first.signals).intersection(*(table.signals for table in tables))
    return ExitTable(
        utt_ids=np.concatenate([[f"{i}/{u}" for u in table.utt_ids] for i, table in enumerate(tables)]),
        speakers=np.concatenate([table.speakers for table in tables]),
        exit_layers=first.exit_layers,
        signals={key: np.concatenate([table.signals[key] for table in tables]) for key in sorted(shared)},
        references=np.concatenate([table.references for table in tables]) if named else None,
        metadata={
            key: first.metadata[key]
            for key in ("n_layers", "seed", "model_digest", "duration_is_approximate")
            if key in first.metadata
        }
        | {"set_name": name},
        **arrays,
    )


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", action="append", required=True, help="exit tables of one model, by commas")
    parser.add_argument("--policies", default="entropy, patience(1), between(8, 12, entropy)")
    parser.add_argument("--certificate_policies", default="gain, between(entropy), between(patience(1))")
    parser.add_argument("--certificate_eps", default="0.5,1,2,4", help="WER points, by commas")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("results/risk"))
    arguments = parser.parse_args()
    found: dict[str, list] = {"known_truth": known_truth(arguments.draws), "heavy_tails": heavy_tails(arguments.draws)}
    found |= {"splits": [], "certificate": [], "shift": []}
    print("made-up losses and speakers done", flush=True)
    eps_values = [float(eps) for eps in arguments.certificate_eps.split(",")]
    for names in arguments.sets:
        tables = [read_table(name) for name in names.split(",")]
        for i, table in enumerate(tables):
            others = [other for k, other in enumerate(tables) if k != i]
            n_layers = int(table.exit_layers[-1])
            for policy in parse_policies(arguments.policies):
                if isinstance(policy, Between) and not policy.has_open_window and policy.ceiling_layer > n_layers:
                    continue
                for eps in (0.5, 1.0):
                    if len(set(table.speakers)) >= 18 and not _is_unfitted(policy):
                        found["splits"] += speaker_splits(table, policy, eps=eps, n_draws=arguments.draws)
                        for other in others:
                            found["shift"].append(under_shift(table, other, policy, eps=eps))
            source = others[0] if len(others) == 1 else together(others, "all others")
            for policy in parse_policies(arguments.certificate_policies):
                found["certificate"] += certificate(
                    source, table, policy, eps_values=eps_values, n_draws=arguments.draws
                )
            print(table.metadata.get("set_name"), "done", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"delta": DELTA, "draws": arguments.draws, **found}
    _write(arguments.out / "risk.md", page(content, n_labelled=N_LABELLED, needed=needed_table(DELTA)))
    _write(arguments.out / "risk.json", json_lines(content))


def _is_unfitted(policy: Policy) -> bool:
    leaf = open_leaf(policy)
    return isinstance(leaf, Fitted) and leaf.model is None


def _write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


if __name__ == "__main__":
    main()
