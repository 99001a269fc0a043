"""Do the guarantees of risk control hold, what do they save, and what is left of them under shift?

    python benchmarks/risk_simulation.py --sets clean.parquet,other.parquet [--sets A.parquet,B.parquet,...]
        [--policies "between(8, 12, entropy)"] [--certificate_policies "gain"] [--draws 500] [--out results/risk]

Each `--sets` names exit tables of one model (`eeasr import-transcripts`, or a run's `tables/`). Writes `risk.json`
and `risk.md` with four tables:

1. *known truth*: made-up blocks whose mean excess is exactly eps, so that every certificate is false: the share of
   draws in which one is given must not exceed delta.
2. *speaker splits*: calibrated on a random half of the speakers. Violated: excess above eps, on the other half
   (whose own sampling noise is included) and on the whole set (the truth of a finite population).
3. *shift*: calibrated on one whole set, used on another; with re-calibration without labels.
4. *certificate under shift*: thresholds, bets and fit from the other sets, tested with 50 labelled utterances of the
   new one, drawn at random. Violated: excess on the whole new set above eps.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from risk_simulation_text import json_lines, page

from eeasr_modules.exits import ExitTable, Policy, parse_policies, policy_curve, read_table, replay
from eeasr_modules.exits.combinations import Between, open_leaf
from eeasr_modules.exits.fitted import Fitted
from eeasr_modules.exits.p_values import P_VALUES
from eeasr_modules.exits.recalibration import match_exits, match_signal
from eeasr_modules.exits.risk import control_risk, risk_outcome
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
)

DELTA = 0.1
N_LABELLED = 50
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
    curve = policy_curve(policy, table, n_thresholds=150)
    if isinstance(policy, Between) and policy.has_open_window:
        curve = curve.frontier()
    return [curve.policies[i] for i in np.argsort(-curve.cost, kind="stable")]


def test_blocks(
    tested: Tested,
    rows: np.ndarray,
    block: np.ndarray,
    *,
    target: RiskTarget,
    scale: float,
    rng: np.random.Generator,
    prior: Any = None,
) -> int:
    """Number of the cheapest policy that is certified on some utterances, -1 where none is."""
    number = np.unique(block, return_inverse=True)[1]
    excess, words = block_sums(tested.excess[rows], number), np.bincount(number, tested.words[rows])
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


def speaker_splits(table: ExitTable, policy: Policy, *, eps: float, n_draws: int) -> list[dict[str, Any]]:
    """Violations and layers saved of each method over random halves of the speakers."""
    policies = sequence(policy, table)
    tested, speaker = Tested(policies, table), block_numbers(table, "speakers")
    everyone, n_speakers = np.arange(table.n_utterances), int(speaker.max()) + 1
    scale, rows = mean_block_words(table, "speakers"), []
    for method in P_VALUES:
        target, rng, seen = RiskTarget(eps, DELTA, p_value=method), np.random.default_rng(1), []
        for _ in range(n_draws):
            chosen = np.isin(speaker, rng.permutation(n_speakers)[: n_speakers // 2])
            inside, outside = everyone[chosen], everyone[~chosen]
            at = test_blocks(tested, inside, speaker[inside], target=target, scale=scale, rng=rng)
            seen.append(
                (
                    tested.points(outside, at) > eps,
                    tested.points(everyone, at) > eps,
                    tested.saved(outside, at),
                    at < 0,
                )
            )
        held_out, whole, saved, none = np.mean(seen, axis=0)
        rows.append(
            {
                "set": table.metadata.get("set_name"),
                "policy": str(policy),
                "eps": eps,
                "p_value": method,
                "clip": target.clip_at(scale),
                "n_speakers": n_speakers // 2,
                "violated_held_out": held_out,
                "violated_whole_set": whole,
                "saved": saved,
                "none_certified": none,
            }
        )
    return rows


def under_shift(source: ExitTable, target_table: ExitTable, policy: Policy, *, eps: float) -> list[dict[str, Any]]:
    """A certificate of one set, used on another as it is and re-calibrated without labels."""
    target = RiskTarget(eps, DELTA)
    controlled = control_risk(source, policy, target=target)
    at_home = risk_outcome(controlled.policy, source, target=target)
    variants = {"as it is": controlled.policy}
    if controlled.certified:
        pair = {"source_table": source, "target_table": target_table}
        threshold = _threshold(controlled.policy)
        if threshold is not None and len(open_leaf(policy).needs) == 1:
            variants["same quantile of the signal"] = match_signal(policy, threshold, **pair)
        variants["same exits taken"] = match_exits(policy, controlled.policy, **pair)
        costs = {name: risk_outcome(variant, target_table, target=target).cost for name, variant in variants.items()}
        variants["the costliest of these"] = variants[max(costs, key=costs.get)]
    rows = []
    for name, variant in variants.items():
        outcome = risk_outcome(variant, target_table, target=target)
        rows.append(
            {
                "source": source.metadata.get("set_name"),
                "target": target_table.metadata.get("set_name"),
                "policy": str(policy),
                "eps": eps,
                "recalibration": name,
                "source_excess": at_home.excess,
                "source_saved": at_home.saved,
                "excess": outcome.excess,
                "violated": outcome.violated,
                "saved": outcome.saved,
            }
        )
    return rows


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
            rng, seen = np.random.default_rng(2), []
            for _ in range(n_draws):
                drawn = rng.choice(len(everyone), min(N_LABELLED, len(everyone)), replace=False)
                at = test_blocks(tested, drawn, drawn, target=how, scale=scale, rng=rng, prior=prior)
                seen.append((at >= 0 and true[at] > eps, saved[at] if at >= 0 else 0.0, at < 0))
            violated, mean_saved, none = np.mean(seen, axis=0)
            rows.append(
                {
                    "new": new.metadata.get("set_name"),
                    "policy": str(policy),
                    "eps": eps,
                    "method": name,
                    "violated": violated,
                    "saved": mean_saved,
                    "none_certified": none,
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


def _threshold(policy: Policy) -> float | None:
    while hasattr(policy, "policy"):
        policy = policy.policy
    return getattr(policy, "threshold", None)


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
    found: dict[str, list] = {"known_truth": known_truth(arguments.draws), "splits": [], "shift": [], "certificate": []}
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
                            found["shift"] += under_shift(table, other, policy, eps=eps)
            source = others[0] if len(others) == 1 else together(others, "all others")
            for policy in parse_policies(arguments.certificate_policies):
                found["certificate"] += certificate(
                    source, table, policy, eps_values=eps_values, n_draws=arguments.draws
                )
            print(table.metadata.get("set_name"), "done", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"delta": DELTA, "draws": arguments.draws, **found}
    _write(arguments.out / "risk.md", page(content, n_labelled=N_LABELLED))
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
