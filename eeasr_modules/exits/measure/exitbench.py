"""ExitBench: anyone's per-exit transcripts, and anyone's choices of exits, scored in one frozen way.

Definitions, files and rules: docs/exitbench.md. In short: word errors are pooled; depth is weighted by seconds; on the
sets that `KNOWN_SETS` recognises by their references, seconds come from the references' lengths, so that
everybody's depth counts the same; open policies are cross-fitted over ten folds of speakers
(`tables.table.speaker_folds`); intervals are 1,000 draws of speakers from a fixed seed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.common.files import rounded, write_aside
from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS, Interval, bootstrap_above_static, bootstrap_wer
from eeasr_modules.exits.measure.bounds import (
    Frontier,
    gap_closed,
    oracle_a,
    oracle_b,
    oracle_c,
    overthinking,
    pooled_wer,
    static_line,
)
from eeasr_modules.exits.measure.edits import count_word_edits
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tables.plain_transcripts import NORMALISERS, approximate_duration_s, layer_of, read_rows
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.calibration import cross_fit
from eeasr_modules.exits.tuning.replay import decide, exit_costs, mean_cost

# Sets by their digest, and what is known of them: `wer_at` is the WER in percent by budget in layers, cross-fitted.
# Written by benchmarks/exit_traces.py.
_KNOWN = json.loads(Path(__file__).with_name("exitbench_baselines.json").read_text(encoding="utf-8"))
KNOWN_SETS: dict[str | None, str] = _KNOWN["known_sets"]
BASELINES: dict[str | None, list[dict[str, Any]]] = {
    name: [{**one, "wer_at": {float(budget): wer for budget, wer in one["wer_at"].items()}} for one in entries]
    for name, entries in _KNOWN["baselines"].items()
}


@dataclass(frozen=True, eq=False)
class Choices:
    """Somebody's decisions on the utterances of a table."""

    name: str  # what they are called in the score
    exit_index: np.ndarray  # (n_utterances,), from 0
    # (n_utterances,), what was emitted, where it is not the exit's own transcript (fusion)
    hypotheses: np.ndarray | None = None


def read_choices(path: str | Path, table: ExitTable) -> Choices:
    """Decisions from a file of rows `id, exit_layer[, hypothesis]`, TSV or JSON lines.

    ValueError when an utterance is missing, unknown or decided twice, or a layer has no exit.
    """
    rows = {utt_id: i for i, utt_id in enumerate(table.utt_ids)}
    index_of = {int(layer): k for k, layer in enumerate(table.exit_layers)}
    exit_index = np.full(table.n_utterances, -1)
    emitted: dict[int, str] = {}
    for place, row in read_rows(Path(path), needed=("id", "exit_layer")):
        i, layer = rows.get(str(row["id"]).strip(), -1), layer_of(row["exit_layer"], place)
        if i < 0:
            raise ValueError(f"{place}: the table has no utterance {row['id']!r}")
        if layer not in index_of:
            raise ValueError(f"{place}: the table has exits after layers {list(index_of)}, not after {layer}")
        if exit_index[i] >= 0:
            raise ValueError(f"{place} decides {row['id']!r} again; every id stands once")
        exit_index[i] = index_of[layer]
        if row.get("hypothesis") is not None:
            emitted[i] = str(row["hypothesis"])
    if (exit_index < 0).any():
        missing = table.utt_ids[exit_index < 0]
        raise ValueError(f"{path} must decide every utterance, but {len(missing)} are missing, such as {missing[0]!r}")
    if emitted and len(emitted) < table.n_utterances:
        raise ValueError(
            f"{path} must give a hypothesis for every utterance or for none, got {len(emitted)} of {table.n_utterances}"
        )
    hypotheses = np.array([emitted[i] for i in range(len(emitted))], dtype=object) if emitted else None
    return Choices(Path(path).name, exit_index, hypotheses)


def set_digest(table: ExitTable) -> str | None:
    """What a set is recognised by: SHA-256 of its sorted lines `id<tab>REFERENCE`; None without references.

    Order, case and punctuation make no difference.
    """
    if table.references is None:
        return None
    lines = sorted(f"{utt_id}\t{NORMALISERS['words'](said)}" for utt_id, said in zip(table.utt_ids, table.references))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def bench_table(table: ExitTable) -> ExitTable:
    """The table as ExitBench weights it: on a known set, seconds from the references' lengths."""
    if set_digest(table) not in KNOWN_SETS:
        return table
    seconds = approximate_duration_s([NORMALISERS["words"](said) for said in table.references])
    return replace(
        table,
        duration_s=seconds,
        cost_layers=seconds[:, None] * table.exit_layers,
        cost_macs=None,
        head_macs=None,
        metadata={**table.metadata, "duration_is_approximate": True},
    )


SCORE_VERSION = 1
BUDGETS = (7 / 12, 8 / 12, 9 / 12, 10 / 12)  # shares of full depth; on twelve layers 7, 8, 9, 10
N_DRAWS = 1000
SEED = 0


def score_table(
    table: ExitTable,
    *,
    policies: Sequence[Policy] = (),
    choices: Sequence[Choices] = (),
    budgets: Sequence[float] = BUDGETS,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Everything that ExitBench says about a table, policies and choices on it, as docs/exitbench.md lists.

    ValueError when a budget is not reachable, or a policy cannot decide on this table. `policies`: open ones are
    cross-fitted at every budget; the others are replayed as they are. `budgets`: mean depths: up to 1 shares of the
    full depth, above 1 layers. `say`: told what is being fitted: some fits take minutes.
    """
    table = bench_table(table)
    known = KNOWN_SETS.get(set_digest(table))
    lines = lines_of(table)
    oracles = {"a": oracle_a(table.errors), "b": oracle_b(table.errors, table.cost_layers)}
    layers = [budget_layers(budget, table) for budget in budgets]
    baselines = BASELINES.get(known, [])
    single = next((wer for one in baselines if one["kind"] == "single exit" for wer in one["wer_at"].values()), None)
    return {
        "schema_version": SCORE_VERSION,
        "set": _set_numbers(table, known),
        "exits": [_exit_numbers(table, k) for k in range(table.n_exits)],
        "oracles": {name: _oracle_point(table, chosen) for name, chosen in oracles.items()},
        "overthinking": vars(overthinking(table.errors)),
        "single_exit_wer": single,
        "budgets": [
            {"layers": b, "static": _finite(lines[0].at(b)), "oracle_c": _finite(lines[1].at(b))} for b in layers
        ],
        "policies": [_score_policy(policy, table, layers, lines, say) for policy in policies],
        "choices": [{"name": one.name, "points": [_choice_point(one, table, lines)]} for one in choices],
        "baselines": baselines,
    }


def budget_layers(budget: float, table: ExitTable) -> float:
    """A budget as a mean depth.

    `budget`: up to 1 a share of the last exit's depth, above 1 layers.
    """
    first, last = table.exit_layers[0], table.exit_layers[-1]
    layers = budget * last if budget <= 1 else budget
    if not first <= layers <= last:
        raise ValueError(f"a budget must lie between the first and the last exit, {first} and {last}, got {budget:g}")
    return round(float(layers), 6)


def point_numbers(
    table: ExitTable, exit_index: np.ndarray, *, lines: tuple[Frontier, Frontier], errors: np.ndarray | None = None
) -> dict[str, Any]:
    """Depth, WER, the two lines there, gap closed and intervals of one choice of exits.

    Returns dict: depth, saved, wer, wer_interval, static, oracle_c, above_static, above_static_interval, gap_closed.
    `exit_index` (n_utterances,): what was chosen, from 0. `lines`: static line and oracle C of the table. `errors`
    (n_utterances,): word errors of what was emitted; None takes the chosen exit's.
    """
    rows = np.arange(table.n_utterances)
    emitted = table.errors[rows, exit_index] if errors is None else errors
    depth = mean_cost(table.cost_layers[rows, exit_index], table.duration_s)
    wer = pooled_wer(emitted, table.n_ref_words)
    own = bootstrap_wer(emitted, table.n_ref_words, speakers=table.speakers, rng=_rng(), n_draws=N_DRAWS)
    # what was emitted stands as one more exit, too dear for any static mixture to use
    beyond = np.full((table.n_utterances, 1), 1e9 * table.cost_layers.max())
    above = bootstrap_above_static(
        np.full(table.n_utterances, table.n_exits),
        np.column_stack([table.errors, emitted]),
        costs=np.column_stack([table.cost_layers, beyond]),
        chosen_costs=table.cost_layers[rows, exit_index],
        n_ref_words=table.n_ref_words,
        weights=table.duration_s,
        speakers=table.speakers,
        rng=_rng(),
        n_draws=N_DRAWS,
    )
    return {
        "depth": depth,
        "saved": 1.0 - depth / float(table.exit_layers[-1]),
        "wer": wer,
        "wer_interval": _ends(own),
        "static": _finite(lines[0].at(depth)),
        "oracle_c": _finite(lines[1].at(depth)),
        "above_static": above.estimate,
        "above_static_interval": _ends(above),
        "gap_closed": _finite(gap_closed(depth, wer, static=lines[0], oracle=lines[1])),
    }


def lines_of(table: ExitTable) -> tuple[Frontier, Frontier]:
    """Static line and oracle C of a table, by depth."""
    common = {"n_ref_words": table.n_ref_words, "weights": table.duration_s}
    costs = exit_costs(table)
    return static_line(table.errors, costs, **common), oracle_c(table.errors, costs, **common)


def _set_numbers(table: ExitTable, known: str | None) -> dict[str, Any]:
    return {
        "set_name": table.metadata.get("set_name"),
        "known_as": known,
        "digest": set_digest(table),
        "model_name": table.metadata.get("model_name"),
        "n_utterances": table.n_utterances,
        "n_speakers": len(set(table.speakers)) if "" not in table.speakers else None,
        "n_ref_words": int(table.n_ref_words.sum()),
        "duration_s": float(table.duration_s.sum()),
        "duration_is_approximate": bool(table.metadata.get("duration_is_approximate", False)),
        "n_dropped": int(table.metadata.get("n_dropped", 0)),
        "normaliser": table.metadata.get("normaliser"),
    }


def _exit_numbers(table: ExitTable, k: int) -> dict[str, Any]:
    errors = table.errors[:, k]
    interval = bootstrap_wer(errors, table.n_ref_words, speakers=table.speakers, rng=_rng(), n_draws=N_DRAWS)
    cer = pooled_wer(table.n_char_errors[:, k], table.n_ref_chars)
    return {"layer": int(table.exit_layers[k]), "wer": interval.estimate, "wer_interval": _ends(interval), "cer": cer}


def _oracle_point(table: ExitTable, exit_index: np.ndarray) -> dict[str, Any]:
    rows = np.arange(table.n_utterances)
    errors = table.errors[rows, exit_index]
    interval = bootstrap_wer(errors, table.n_ref_words, speakers=table.speakers, rng=_rng(), n_draws=N_DRAWS)
    depth = mean_cost(table.cost_layers[rows, exit_index], table.duration_s)
    return {"wer": interval.estimate, "wer_interval": _ends(interval), "depth": depth}


def _score_policy(
    policy: Policy,
    table: ExitTable,
    layers: Sequence[float],
    lines: tuple[Frontier, Frontier],
    say: Callable[[str], None] | None,
) -> dict[str, Any]:
    rows = np.arange(table.n_utterances)
    if not policy.is_open:
        chosen = decide(policy, table)
        points = [point_numbers(table, chosen.decided, lines=lines, errors=table.errors[rows, chosen.emitted])]
        return {"name": str(policy), "protocol": "as given", "points": points}

    def on_fold(done: int, n_folds: int) -> None:
        if say is not None:
            say(f"{policy}: fitting fold {done + 1} of {n_folds}")

    fitted = cross_fit(table, policy, budgets=layers, on_fold=on_fold)
    points = [
        {"budget": budget, **point_numbers(table, decided, lines=lines, errors=table.errors[rows, emitted])}
        for budget, decided, emitted in zip(layers, fitted.exit_index, fitted.emitted)
    ]
    return {"name": str(policy), "protocol": "cross-fitted over 10 folds of speakers", "points": points}


def _choice_point(choices: Choices, table: ExitTable, lines: tuple[Frontier, Frontier]) -> dict[str, Any]:
    errors = None
    if choices.hypotheses is not None:
        if table.references is None:
            raise ValueError(
                f"{choices.name} gives hypotheses, but the table has no references to count errors against"
            )
        normal = NORMALISERS.get(str(table.metadata.get("normaliser")), NORMALISERS["none"])
        pairs = zip(table.references, choices.hypotheses)
        errors = np.array([count_word_edits(said, normal(heard)) for said, heard in pairs])
    emits = "the exit's transcript" if errors is None else "transcripts of its own"
    return {"emits": emits, **point_numbers(table, choices.exit_index, lines=lines, errors=errors)}


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def score_markdown(score: dict[str, Any]) -> str:
    """A score as people read it."""
    one, exits = score["set"], score["exits"]
    recognised = f"recognised as {one['known_as']}" if one["known_as"] else "not a set that ExitBench knows"
    seconds = "guessed from the references' lengths" if one["duration_is_approximate"] else "as given"
    speakers = f"{one['n_speakers']} speakers" if one["n_speakers"] else "speakers not all known"
    parts = [
        f"# ExitBench: {one['set_name']}",
        f"{one['n_utterances']} utterances, {speakers}, {one['n_ref_words']} words; {recognised}; seconds {seconds}. "
        f"WER in percent, depth in layers, 95 % intervals over {_resampled(one['n_speakers'])}.",
        f"**{n} utterances were left out because they were not whole.**" if (n := one["n_dropped"]) else "",
        "## Exits",
        _table(
            ["layer", "WER [95 %]", "CER"],
            [[e["layer"], _with_interval(e["wer"], e["wer_interval"]), f"{e['cer']:.2f}"] for e in exits],
        ),
        _bounds_text(score),
        _table(
            ["", *[f"{b['layers']:g}" for b in score["budgets"]]],
            [
                ["static line", *[_wer(b["static"]) for b in score["budgets"]]],
                ["oracle C", *[_wer(b["oracle_c"]) for b in score["budgets"]]],
                *[
                    _baseline_row(base, score["budgets"])
                    for base in score["baselines"]
                    if base["kind"] != "single exit"
                ],
            ],
        ),
    ]
    for entry in (*score["policies"], *score["choices"]):
        parts += [f"## {entry['name']}", _entry_text(entry), _points_table(entry["points"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_score(score: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write `score.json` and `score.md`; each appears only when it is whole."""
    folder = Path(folder)
    texts = {"score.json": json.dumps(rounded(score), indent=1) + "\n", "score.md": score_markdown(score)}
    return [write_aside(folder / name, text) for name, text in texts.items()]


def _resampled(n_speakers: int | None) -> str:
    """What intervals are over, and what follows from them."""
    if n_speakers is None or n_speakers == 1:
        return "utterances, which are too narrow for new speakers"
    few = "" if n_speakers >= MIN_SPEAKERS else ", too few for any conclusion"
    return f"{n_speakers} speakers{few}"


def _bounds_text(score: dict[str, Any]) -> str:
    a, b, over = score["oracles"]["a"], score["oracles"]["b"], score["overthinking"]
    single = score["single_exit_wer"]
    tax = f" The same encoder trained with its last exit alone: {single:.2f}." if single is not None else ""
    return (
        f"Oracle A (fewest errors): {_with_interval(a['wer'], a['wer_interval'])} at {a['depth']:.2f}; oracle B "
        f"(cheapest no worse than the last): {_with_interval(b['wer'], b['wer_interval'])} at {b['depth']:.2f}. Both "
        f"know the reference and are optimistic: a minimum of noisy counts. An inner exit is better than the last on "
        f"{100 * over['better']:.1f} % of utterances; right earlier and wrong at the end on "
        f"{100 * over['destructive']:.1f} %.{tax}"
    )


def _entry_text(entry: dict[str, Any]) -> str:
    point = entry["points"][0]
    if "protocol" in entry:
        return f"Protocol: {entry['protocol']}."
    above = " It is no exit's own, so it may cross oracle C." if point["emits"] != "the exit's transcript" else ""
    return f"Choices from a file; emitted: {point['emits']}.{above}"


def _points_table(points: Sequence[dict[str, Any]]) -> str:
    header = ["budget", "depth", "saved", "WER [95 %]", "static line", "oracle C", "minus static [95 %]", "gap closed"]
    rows = []
    for point in points:
        gap = point["gap_closed"]
        rows.append(
            [
                f"{point['budget']:g}" if "budget" in point else "-",
                f"{point['depth']:.2f}",
                f"{100 * point['saved']:.0f} %",
                _with_interval(point["wer"], point["wer_interval"]),
                _wer(point["static"]),
                _wer(point["oracle_c"]),
                _with_interval(point["above_static"], point["above_static_interval"], sign="+"),
                "-" if gap is None else f"{100 * gap:.0f} %",
            ]
        )
    return _table(header, rows)


def _baseline_row(base: dict[str, Any], budgets: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{base['name']} (baseline)", *[_wer(base["wer_at"].get(b["layers"])) for b in budgets]]


def _table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _wer(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _with_interval(value: float, ends: Sequence[float], *, sign: str = "") -> str:
    return f"{value:{sign}.2f} [{ends[0]:{sign}.2f}, {ends[1]:{sign}.2f}]"
