"""Do the guarantees of risk control hold, what do they save, and what is left of them under shift?

    python benchmarks/risk_simulation.py --sets clean.parquet,other.parquet [--sets A.parquet,B.parquet,...]
        [--policies "between(8, 12, entropy)"] [--certificate_policies "gain"] [--draws 500] [--out results/risk]
        [--parts exits_known,exit_splits]

Each `--sets` names exit tables of one model (`eeasr import-transcripts`, or a run's `tables/`). Writes `risk.json` and
`risk.md`, and what docs/risk.md says of them. All draws of a case are tested at once, as columns of the library's own
tests. *Violated* is a promise of which some part is not so (`exits.tuning.risk`): the excess outside the tail, the
share in the tail, or the bound on all blocks where none loses more than 100 points. Tables:

1. *known truth*: made-up losses whose mean is exactly the limit: how often a p-value is at most delta.
2. *heavy tails*: made-up speakers of whom few lose much; policies that harm more and more. True numbers from a large
   draw of the same population.
3. *speaker splits*: calibrated on a random half of the speakers; judged on the other half (whose own sampling noise is
   included) and on the whole set (the truth of a finite population).
4. *exit by exit*: 2 and 3 for certificates `per_exit` (`risk_simulation_exits`).
5. *certificate under shift*: thresholds, bets and fit from the other sets, tested with 50 labelled utterances of the
   new one, drawn at random with replacement, so that the whole new set is the population.
6. *what the tail costs*: layers saved by these certificates and by those of before, which tested the clipped mean alone
   at delta and said nothing of the tail.
7. *shift*: calibrated on one whole set, used on another, where nothing is promised.
8. *speakers needed*: arithmetic, see `exits.tuning.risk_terms`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from risk_simulation_draws import certified, draw_halves, kept, shares_saved, tested
from risk_simulation_exits import exit_splits, exits_known
from risk_simulation_text import json_lines, page

from eeasr_modules.common.files import write_aside
from eeasr_modules.exits import ExitTable, Policy, parse_policies, policy_curve, read_table
from eeasr_modules.exits.policies.combine import Between, open_leaf
from eeasr_modules.exits.policies.protocol import Fitted
from eeasr_modules.exits.tuning.risk import control_risk, risk_outcome
from eeasr_modules.exits.tuning.risk_losses import (
    P_VALUES,
    RiskTarget,
    block_numbers,
    block_p_values,
    block_sums,
    loss_moments,
    mean_block_words,
)

ROOT = Path(__file__).resolve().parents[1]
DELTA = 0.1
N_LABELLED = 50
SPLIT_EPS = (0.5, 1.0)
PARTS = ("known_truth", "heavy_tails", "splits", "exits_known", "exit_splits", "certificate", "shift")
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


def sequence(policy: Policy, table: ExitTable) -> list[Policy]:
    """Thresholds of a policy, costliest first; where windows are open, the best of them on the table."""
    curve = policy_curve(policy, table, n_thresholds=N_THRESHOLDS)
    if isinstance(policy, Between) and policy.has_open_window:
        curve = curve.frontier()
    return [curve.policies[i] for i in np.argsort(-curve.cost, kind="stable")]


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
        truth = 0.01 * points[:, None] * harms * words[:, None], words[:, None]
        for clip in (None, 100.0):
            target = RiskTarget(eps, DELTA, clip=clip)
            true = kept(*truth, target=target, scale=1000.0)
            for n_speakers in (20, 50, 100, 200, 1000):
                rng = np.random.default_rng(n_speakers)
                points, words = draw(rng, (n_speakers, n_draws))
                excess = 0.01 * points[..., None] * harms * words[..., None]
                found = certified(excess, words, target=target, scale=1000.0, rng=rng)
                false, before = true.broken(found.tail), true.over_all[found.before]
                rows.append(
                    {
                        "population": name,
                        "n_speakers": n_speakers,
                        "clip": target.clip_at(1000.0),
                        "issued": np.mean(found.at >= 0),
                        "violated": np.mean((found.at >= 0) & false[found.at]),
                        "said_of_all_before": np.mean((found.before >= 0) & (before > eps)),
                    }
                )
    return rows


def speaker_splits(
    table: ExitTable, policy: Policy, *, eps_values: Sequence[float], n_draws: int
) -> list[dict[str, Any]]:
    """Violations and layers saved of each method over random halves of the speakers."""
    policies = sequence(policy, table)
    speaker = block_numbers(table, "speakers")
    excess, cost = (block_sums(one, speaker) for one in tested(policies, table))
    words, full = np.bincount(speaker, table.n_ref_words), np.bincount(speaker, table.cost_layers[:, -1])
    n_speakers, scale, rows = len(words), mean_block_words(table, "speakers"), []
    halves, others = draw_halves(n_speakers, n_draws)
    for eps, method in [(eps, method) for eps in eps_values for method in P_VALUES]:
        target, rng = RiskTarget(eps, DELTA, p_value=method), np.random.default_rng(1)
        found = certified(excess[halves], words[halves], target=target, scale=scale, rng=rng)
        chosen, some = (excess[:, found.at], words[:, None]), found.at >= 0
        held_out, whole = (kept(*chosen, target=target, scale=scale, among=of) for of in (others, None))
        saved, saved_before = (shares_saved(cost, full, at, others) for at in (found.at, found.before))
        rows.append(
            {
                "set": table.metadata.get("set_name"),
                "policy": str(policy),
                "eps": eps,
                "p_value": method,
                "clip": target.clip_at(scale),
                "tail": found.tail,
                "n_speakers": n_speakers // 2,
                "violated_held_out": np.mean(some & held_out.broken(found.tail)),
                "violated_whole_set": np.mean(some & whole.broken(found.tail)),
                "saved": saved.mean(),
                "none_certified": np.mean(~some),
                **({"saved_before": saved_before.mean()} if method == "betting" else {}),
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
    home, (excess, cost) = tested(policies, source)[0], tested(policies, new)
    words, scale, rows = new.n_ref_words, mean_block_words(source, "utterances"), []
    home_points = 100.0 * home.sum(axis=0) / source.n_ref_words.sum()
    true = 100.0 * excess.sum(axis=0) / words.sum()
    saved = 1.0 - cost.sum(axis=0) / new.cost_layers[:, -1].sum()
    for eps in eps_values:
        target = RiskTarget(eps, DELTA, blocks="utterances")
        learned = loss_moments(home, source.n_ref_words, target=target, block_words=scale)
        methods = {
            "betting, bets learned on the source": (target, learned),
            "betting": (target, None),
            "hoeffding_bentkus": (RiskTarget(eps, DELTA, blocks="utterances", p_value="hoeffding_bentkus"), None),
        }
        uncertified = int(np.flatnonzero(home_points <= eps)[-1]) if (home_points <= eps).any() else 0
        for name, (how, prior) in methods.items():
            rng = np.random.default_rng(2)
            drawn = rng.choice(len(words), (N_LABELLED, n_draws))
            found = certified(excess[drawn], words[drawn], target=how, scale=scale, rng=rng, prior=prior)
            false = kept(excess, words[:, None], target=how, scale=scale).broken(found.tail)
            gained = [np.where(at >= 0, saved[at], 0.0).mean() for at in (found.at, found.before)]
            rows.append(
                {
                    "new": new.metadata.get("set_name"),
                    "policy": str(policy),
                    "eps": eps,
                    "method": name,
                    "violated": np.mean((found.at >= 0) & false[found.at]),
                    "saved": gained[0],
                    "none_certified": np.mean(found.at < 0),
                    **({} if prior is None else {"saved_before": gained[1]}),  # the cases whose price is shown
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


def measure(
    groups: Sequence[Sequence[ExitTable]], arguments: argparse.Namespace, parts: Sequence[str]
) -> dict[str, list]:
    """The tables that `parts` names; `groups` are the sets of one model each."""
    draws, found = arguments.draws, {part: [] for part in parts}
    made_up = {"known_truth": known_truth, "heavy_tails": heavy_tails, "exits_known": partial(exits_known, delta=DELTA)}
    for part in set(made_up) & set(parts):
        found[part] = made_up[part](draws)
    print(f"made-up losses and speakers done, {time.process_time():.0f} s", flush=True)
    eps_values = [float(eps) for eps in arguments.certificate_eps.split(",")]
    for tables in groups:
        for i, table in enumerate(tables):
            others = [other for k, other in enumerate(tables) if k != i]
            for policy in parse_policies(arguments.policies):
                fixed = isinstance(policy, Between) and not policy.has_open_window
                if fixed and policy.ceiling_layer > int(table.exit_layers[-1]):
                    continue
                if len(set(table.speakers)) < 18 or _is_unfitted(policy):
                    continue
                given = {"eps_values": SPLIT_EPS, "n_draws": draws}
                if "splits" in parts:
                    found["splits"] += speaker_splits(table, policy, **given)
                if "exit_splits" in parts:
                    found["exit_splits"] += exit_splits(table, policy, sequence(policy, table), delta=DELTA, **given)
                if "shift" in parts:
                    found["shift"] += [
                        under_shift(table, other, policy, eps=eps) for eps in SPLIT_EPS for other in others
                    ]
            if "certificate" in parts:
                source = others[0] if len(others) == 1 else together(others, "all others")
                for policy in parse_policies(arguments.certificate_policies):
                    found["certificate"] += certificate(source, table, policy, eps_values=eps_values, n_draws=draws)
            print(f"{table.metadata.get('set_name')} done, {time.process_time():.0f} s", flush=True)
    return found


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", action="append", required=True, help="exit tables of one model, by commas")
    parser.add_argument("--policies", default="entropy, patience(1), between(8, 12, entropy)")
    parser.add_argument("--certificate_policies", default="gain, between(entropy), between(patience(1))")
    parser.add_argument("--certificate_eps", default="0.5,1,2,4", help="WER points, by commas")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "risk")
    parser.add_argument("--parts", default=",".join(PARTS), help="tables to measure; the others stay as recorded")
    arguments = parser.parse_args()
    parts, at = [part.strip() for part in arguments.parts.split(",")], arguments.out / "risk.json"
    unknown, recorded = set(parts) - set(PARTS), json.loads(at.read_text(encoding="utf-8")) if at.is_file() else {}
    if unknown or (set(PARTS) - set(parts) and recorded.get("draws") != arguments.draws):
        parser.error(
            f"--parts takes {', '.join(PARTS)}; the others need {at} with as many draws, got {arguments.parts}"
        )
    groups = [[read_table(name) for name in names.split(",")] for names in arguments.sets]
    content = {**recorded, "delta": DELTA, "draws": arguments.draws, **measure(groups, arguments, parts)}
    content = {key: content[key] for key in ("delta", "draws", *PARTS) if key in content}
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_aside(at, json_lines(content))
    write_aside(arguments.out / "risk.md", page(content))


def _is_unfitted(policy: Policy) -> bool:
    leaf = open_leaf(policy)
    return isinstance(leaf, Fitted) and leaf.model is None


if __name__ == "__main__":
    main()
