"""The numbers of a report as plain values, ready for JSON; docs/summary-schema.md says what each one is.

Pages and pictures are made from these numbers alone, so that they cannot disagree with them.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from eeasr_modules.exits import ExitTable, Policy, mean_cost, parse_policies, refuse_same_set
from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS, compare_choices, holm
from eeasr_modules.exits.measure.fusion import FusionModel
from eeasr_modules.exits.policies.combine import Between
from eeasr_modules.exits.policies.protocol import text_form
from eeasr_modules.exits.tables.checks import SET_LABELS
from eeasr_modules.exits.tuning.calibration import Curve
from eeasr_modules.exits.tuning.risk import control_risk, risk_outcome
from eeasr_modules.exits.tuning.risk_losses import RiskTarget
from eeasr_modules.exits.tuning.risk_terms import CLIPS_SHOWN, EPS_SHOWN, needed_table
from eeasr_modules.report.numbers.evaluation import (
    COSTS,
    N_HALVES,
    Outcome,
    Rules,
    budget_limit,
    check_cost,
    evaluate,
    folds_of,
    grids,
    known_costs,
    lacking_signals,
)
from eeasr_modules.report.numbers.sets import fused_numbers, set_numbers


def check_tables(tables: Sequence[ExitTable], *, dev: ExitTable | None, single_exit: Sequence[ExitTable]) -> None:
    """Refuse tables that cannot be reported together.

    ValueError when there is no table, names are missing or shared, tables differ in their exits or are of different
    models, a table is the calibration data, or a single-exit table has several exits.
    """
    if not tables:
        raise ValueError("a report needs at least one exit table of a test set, got none")
    names = [table.metadata.get("set_name") for table in tables]
    if not all(names):
        raise ValueError("every table of a report needs a set_name in its metadata, and one has none")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"every table of a report needs its own set_name, but {twice[0]!r} comes {names.count(twice[0])} "
            f"times; put models or repetitions into reports of their own"
        )
    for table in tables[1:]:
        _refuse_other_model(tables[0], table, name=repr(names[0]))
    for table in tables if dev is not None else ():
        refuse_same_set(dev.metadata, table)
        _refuse_other_model(dev, table, name="dev")
    for single in single_exit:
        if single.n_exits != 1:
            raise ValueError(
                f"a single-exit table must have one exit, but that of {single.metadata.get('set_name')!r} "
                f"has exits after layers {single.exit_layers.tolist()}"
            )


def ordered(tables: Sequence[ExitTable]) -> list[ExitTable]:
    """In domain first, then shifted, then out of domain, then unknown; else as given."""
    return sorted(tables, key=lambda table: SET_LABELS.index(table.metadata.get("set_label", "unknown")))


def match_single_exits(
    tables: Sequence[ExitTable], single_exit: Sequence[ExitTable], *, dev: ExitTable | None
) -> tuple[dict[str, ExitTable], dict[str, str]]:
    """Which single-exit table stands beside which set.

    Returns tuple of (dict of str to ExitTable, dict of str to str): by set name, utterances in the set's order; and
    reasons for those that cannot be compared.
    """
    sets = {table.metadata["set_name"]: table for table in tables}
    matched, left_out = {}, {}
    for single in single_exit:
        name = single.metadata.get("set_name")
        if dev is not None and name == dev.metadata.get("set_name"):
            continue
        reason = "no such set is reported" if name not in sets else _why_not_paired(single, sets[name])
        if reason is None and name in matched:
            reason = "there is more than one"
        if reason is None:
            row_of = {utt_id: row for row, utt_id in enumerate(single.utt_ids)}
            matched[name] = single.select(np.array([row_of[utt_id] for utt_id in sets[name].utt_ids]))
        else:
            left_out[f"single-exit table of {name}"] = reason
    return matched, left_out


def _why_not_paired(single: ExitTable, table: ExitTable) -> str | None:
    words, others = (dict(zip(one.utt_ids, one.n_ref_words)) for one in (single, table))
    if set(words) != set(others):
        return f"it holds other utterances ({len(words)} and {len(others)}, {len(set(words) & set(others))} shared)"
    if words != others:
        return "its references have other numbers of words; collect both with the same normalisation"
    return None


def _refuse_other_model(first: ExitTable, table: ExitTable, *, name: str) -> None:
    other = table.metadata["set_name"]
    if first.exit_layers.tolist() != table.exit_layers.tolist():
        hint = "; give models with one exit by --single-exit" if 1 in (first.n_exits, table.n_exits) else ""
        raise ValueError(
            f"{name} and {other!r} must be of one model, but their exits are after layers "
            f"{first.exit_layers.tolist()} and {table.exit_layers.tolist()}{hint}"
        )
    for key, what in (("model_digest", "model digests"), ("model_name", "models")):
        ours, theirs = first.metadata.get(key), table.metadata.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            raise ValueError(
                f"{name} and {other!r} must be of one model, but their {what} are {ours} and {theirs}; "
                f"collect both with the same checkpoint, or make a report of each"
            )


SUMMARY_VERSION = 2


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Everything a report is made from: tables, and what policies chose on them."""

    # by set name, in the report's order; outcomes by the policy's text
    sets: dict[str, tuple[ExitTable, dict[str, Outcome]]]
    singles: dict[str, ExitTable]  # the sets by a model trained with one exit only
    dev: ExitTable | None  # calibration data
    policies: tuple  # as asked for, those that can be reported
    chosen: str | None  # text of the policy to stress
    rules: Rules  # budgets and costs
    left_out: dict[str, str]  # what could not be reported, and why


def evaluated(
    tables: Sequence[ExitTable],
    *,
    dev: ExitTable | None,
    policies: Sequence[str],
    policy: str | None,
    budgets: Sequence[float],
    cost: str = "depth",
    n_folds: int = N_HALVES,
    single_exit: Sequence[ExitTable] = (),
    calibrated: Mapping[str, Policy | str] | None = None,
    curves: Mapping[str, Curve] | None = None,
) -> Evaluated:
    """All policies on all sets; arguments are those of `report.write_report`.

    Policies whose signals a table lacks are left out, and it is said. A chosen policy that is None is the one of the
    lowest WER at the first budget on dev or, without dev, the first open one that is not random. `curves` are policies
    fitted and swept on dev before, in the cost that is counted, by their open text.

    ValueError when a table is the calibration data, sets have no distinct names, tables are not of one model or do not
    know the cost, or the chosen policy cannot decide on them.
    """
    check_tables(tables, dev=dev, single_exit=single_exit)
    tables = ordered(tables)
    every = [*tables, *([dev] if dev is not None else [])]
    check_cost(cost, every, budgets=budgets)
    rules = Rules(tuple(dict.fromkeys(budgets)), cost, tuple(known_costs(every)), n_folds)
    for budget in rules.budgets:
        budget_limit(budget, tables[0], cost=cost)  # refuses what the encoder does not have
    asked = {str(one): one for one in parse_policies([*policies, *([policy] if policy else [])])}
    chosen = str(parse_policies([policy])[0]) if policy else None
    left_out = {}
    if tables[0].n_exits == 1:
        left_out = dict.fromkeys(asked, "one exit only, so there is nothing to decide")
        chosen = None
    else:
        for text, one in asked.items():
            if lacking := lacking_signals(one, every):
                left_out[text] = f"the tables have no signal {', '.join(lacking)}{text_form(text)}"
        if chosen in left_out:
            raise ValueError(f"the policy {chosen} cannot be reported: {left_out[chosen]}")
    kept = [one for text, one in asked.items() if text not in left_out]
    known = {str(one): curves[str(one)] for one in kept if curves and str(one) in curves}
    dev_grids = None
    if dev is not None:
        dev_grids = known | grids([one for one in kept if str(one) not in known], dev, cost=cost)
    sets = {}
    for table in tables:
        outcomes, unmet = evaluate(kept, table, dev=dev, dev_grids=dev_grids, rules=rules, calibrated=calibrated)
        left_out |= unmet
        sets[table.metadata["set_name"]] = (table, outcomes)
    if chosen in left_out:
        raise ValueError(left_out[chosen])
    sets = {
        name: (table, {text: one for text, one in outcomes.items() if text not in left_out})
        for name, (table, outcomes) in sets.items()
    }
    singles, unpaired = match_single_exits(tables, single_exit, dev=dev)
    chosen = chosen or _default_choice(next(iter(sets.values()))[1], has_dev=dev is not None)
    return Evaluated(sets, singles, dev, tuple(kept), chosen, rules, left_out | unpaired)


def summarise(
    found: Evaluated,
    *,
    rng: np.random.Generator,
    risk: RiskTarget | None = None,
    fusion: FusionModel | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """All numbers of a report, see docs/summary-schema.md: WERs in percent, depths in layers, shares from 0 to 1.

    ValueError when a number is below what the oracle allows: a broken table. `risk`: what is to be promised; None
    leaves guarantees out. `fusion`: fuses the chosen policy's words, where a set has references; None leaves that out.
    """
    rules, sets = found.rules, {}
    for name, (table, outcomes) in found.sets.items():
        sets[name] = set_numbers(table, outcomes, rules=rules, single=found.singles.get(name), rng=rng)
        sets[name]["fused"] = None
        if fusion is not None and found.chosen is not None and table.references is not None:
            chosen = outcomes[found.chosen]
            sets[name]["fused"] = fused_numbers(chosen, table, fusion, rules=rules, rng=np.random.default_rng(0))
        sets[name]["risk"] = []
        if risk is not None and table.n_exits > 1:
            sets[name]["risk"] = risk_numbers(found.policies, table, dev=found.dev, target=risk)
    first = next(iter(found.sets.values()))[0]
    content = {
        "schema_version": SUMMARY_VERSION,
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "budget": rules.budgets[0],
        "budgets": list(rules.budgets),
        "cost": rules.cost,
        "costs": list(rules.costs),
        "cost_unit": COSTS[rules.cost].unit,
        "budget_layers": budget_limit(rules.budgets[0], first) if rules.cost == "depth" else None,
        "budget_cost": budget_limit(rules.budgets[0], first, cost=rules.cost),
        "chosen_policy": found.chosen,
        "dev": _dev_numbers(found.dev) if found.dev is not None else None,
        "left_out": found.left_out,
        "comparisons": compared(found.sets, chosen=found.chosen, cost=rules.cost, rng=rng),
        "risk": _asked(risk) if risk is not None else None,
        "sets": sets,
    }
    return _plain(content)


def compared(
    sets: Mapping[str, tuple[ExitTable, Mapping[str, Outcome]]],
    *,
    chosen: str | None,
    cost: str,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The chosen policy against every other, on every set, for every budget that both meet: `summary.comparisons`.

    "holm_p" is adjusted over the whole list.

    `chosen`: the policy that the others are compared with.
    """
    rows = []
    for name, (table, outcomes) in sets.items():
        if chosen not in outcomes:
            continue
        ours = {choice.budget: choice for choice in outcomes[chosen].choices}
        for text, other in outcomes.items():
            for theirs in other.choices if text != chosen else ():
                if theirs.budget in ours:
                    found = _pair(ours[theirs.budget], theirs, table, cost=cost, rng=rng)
                    rows.append({"set": name, "budget": theirs.budget, "policy": chosen, "other": text, **found})
    adjusted = holm([row["bootstrap_p"] for row in rows]) if rows else []
    return [{**row, "holm_p": float(p)} for row, p in zip(rows, adjusted)]


def _pair(ours: Any, theirs: Any, table: ExitTable, *, cost: str, rng: np.random.Generator) -> dict[str, Any]:
    rows = np.arange(table.n_utterances)
    errors = [table.errors[rows, choice.emitted] for choice in (ours, theirs)]
    paid = [mean_cost(choice.paid[cost], table.duration_s) for choice in (ours, theirs)]
    comparison = compare_choices(*errors, n_ref_words=table.n_ref_words, speakers=table.speakers, rng=rng)
    return {**comparison.as_dict(), "cost_difference": paid[0] - paid[1]}


def risk_numbers(
    policies: Sequence[Policy], table: ExitTable, *, dev: ExitTable | None, target: RiskTarget
) -> list[dict[str, Any]]:
    """What each policy saves under a promise about its errors above the last exit's, and how that went on the set.

    Windows are not calibrated here: a guarantee is given for one threshold, so `between(entropy)` stands as
    `entropy`. Without dev, one half of the speakers certifies and the other is what is judged.

    Returns list of dict: of `sets.<name>.risk`.
    """
    certifying, judged = (dev, table) if dev is not None else _halves(table)
    if certifying is None:
        return []
    inner = {str(_without_window(policy)): _without_window(policy) for policy in policies if policy.is_open}
    rows = []
    for text, policy in inner.items():
        if not policy.is_open or text in ("static", "random"):
            continue
        try:
            controlled = control_risk(certifying, policy, target=target)
        except ValueError as err:
            rows.append({"policy": text, "certified": False, "reason": str(err)})
            continue
        scale = {"block_words": controlled.block_words, "tail": controlled.tail, "exits": controlled.exits}
        outcome = risk_outcome(controlled.policy, judged, target=target, **scale).as_dict()
        kept = {key: value for key, value in controlled.as_dict().items() if key not in ("grid", "policy")}
        rows.append({"policy": text, "calibrated": str(controlled.policy), **kept, "outcome": outcome})
    return rows


def _without_window(policy: Policy) -> Policy:
    return policy.policy if isinstance(policy, Between) and policy.has_open_window else policy


def _halves(table: ExitTable) -> tuple[ExitTable | None, ExitTable | None]:
    if len(set(table.speakers)) < MIN_SPEAKERS or "" in table.speakers:
        return None, None
    fold = folds_of(table)
    return table.select(fold == 0), table.select(fold == 1)


def _asked(risk: RiskTarget) -> dict[str, Any]:
    """The promise asked for, and how many speakers such promises take."""
    shown = {"eps_values": sorted({risk.eps, *EPS_SHOWN}), "blocks": risk.blocks}
    shown["clips"] = sorted({*CLIPS_SHOWN, *([] if risk.clip is None else [risk.clip])})
    needed = needed_table(risk.delta, **shown)
    asked = {name: getattr(risk, name) for name in ("eps", "delta", "clip", "loss")}
    return {**asked, "speakers_needed": needed}


def _default_choice(outcomes: Mapping[str, Outcome], *, has_dev: bool) -> str | None:
    """The best on dev; the first that can be called a heuristic where nothing may be compared."""
    deciding = {text: one for text, one in outcomes.items() if "random" not in text}
    if has_dev and deciding:
        return min(deciding, key=lambda text: deciding[text].choices[0].calibration_point[::-1])
    return next(iter(deciding or outcomes), None)


def _dev_numbers(dev: ExitTable) -> dict[str, Any]:
    return {
        "set_name": dev.metadata.get("set_name"),
        "model_digest": dev.metadata.get("model_digest"),
        "manifest_digest": dev.metadata.get("manifest_digest"),
        "n_utterances": dev.n_utterances,
        "n_speakers": len(set(dev.speakers) - {""}),
        "n_ref_words": dev.n_ref_words.sum(),
        "duration_s": dev.duration_s.sum(),
        "wer_per_exit": dev.wer_per_exit,
    }


def _plain(value: Any) -> Any:
    """Values that JSON can hold: floats with 4 decimals or 4 digits, None for what is not a number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return short_number(float(value)) if math.isfinite(value) else None
    return value


def short_number(value: float) -> float:
    """A number as summaries hold it: 4 decimals; below 0.1, where MACs of small models and p-values lie, 4 digits.

    Example
    -------
    >>> short_number(4.34567), short_number(0.0123456), short_number(1e-17)
    (4.3457, 0.01235, 0.0)
    """
    return round(value, 4) if abs(value) >= 0.1 else float(f"{round(value, 12):.4g}")
