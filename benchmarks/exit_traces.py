"""Every number about the public exit traces: bounds, policies, shift, other models, fusion.

    python benchmarks/exit_traces.py TRACES [--cache DIR] [--out results/exit-traces] [--skip gain_words,fusion]

TRACES is the folder with `ee40`, `kd4`, `dkd23` and `nonee12`. One thread; each part's numbers are kept under `--cache`
and not worked out again (delete a file there to have it measured afresh). Writes results.json, README.md and a
picture per set, and what ExitBench compares with (eeasr_modules/exits/measure/exitbench_baselines.json). No transcripts
are written.

Protocol: cross-fitted over ten folds of speakers (fits, thresholds, floors and ceilings from other speakers); depth
weighted by seconds guessed from the references' lengths, which no policy reads; intervals over speakers, 1,000 draws.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from exit_traces_words import measure_fusion, with_scores, word_scores  # noqa: E402
from exit_traces_writing import write_results  # noqa: E402

from eeasr_modules.common.files import write_aside  # noqa: E402
from eeasr_modules.exits import ExitTable, choose, import_transcripts, parse_policy, replay  # noqa: E402
from eeasr_modules.exits.measure.bounds import signal_aurocs  # noqa: E402
from eeasr_modules.exits.measure.exitbench import lines_of, point_numbers, score_table  # noqa: E402
from eeasr_modules.exits.tuning.calibration import cross_fit  # noqa: E402

SETS = ("clean", "other")
BUDGETS = (5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0)
HEURISTICS = ("entropy", "patience(1)", "between(entropy)", "between(patience(1))", "between(nbest)")
FITTED = ("lexical", "between(lexical)", "gain", "gain_text", "gain_words", "gain_words_text")
SHIFTED = ("entropy", "between(entropy)", "lexical", "gain", "gain_words")
UNIVERSAL = ("gain_text", "gain_words_text")
OTHER_MODELS = ("kd4", "dkd23")
WORD_FORMS = ("gain_words", "gain_words_text")


class Cache:
    """Results by name, on disk as soon as they are there.

    Arguments
    ---------
    folder : Path
        Made if needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, work: Callable[[], Any]) -> Any:
        """What was worked out before, or is now.

        Arguments
        ---------
        name : str
            Of the part.
        work : callable
            Gives what JSON can hold.
        """
        path = self.folder / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_text("utf-8"))
        begun = time.perf_counter(), time.process_time()
        value = work()
        times = {"wall_s": time.perf_counter() - begun[0], "processor_s": time.process_time() - begun[1]}
        print(f"{name}: {times['processor_s']:.1f} s of the processor", flush=True)
        content = {"value": value, "time": {key: round(one, 1) for key, one in times.items()}}
        write_aside(path, json.dumps(content))
        return content


def points_of(
    table: ExitTable, exit_index: np.ndarray, budgets: tuple[float, ...], errors: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Numbers of the choices made for each budget.

    Arguments
    ---------
    table : ExitTable
        What was recorded.
    exit_index : np.ndarray of shape (n_budgets, n_utterances)
        Choices.
    budgets : tuple of float
        Mean depths that were allowed.
    errors : np.ndarray of shape (n_budgets, n_utterances), or None
        Word errors of what was emitted; None takes the chosen exits'.
    """
    lines = lines_of(table)
    emitted = [None] * len(budgets) if errors is None else errors
    return [
        {"budget": b, **point_numbers(table, one, lines=lines, errors=wrong)}
        for b, one, wrong in zip(budgets, exit_index, emitted)
    ]


def measure_policy(table: ExitTable, text: str, others: dict[str, ExitTable], *, folder: Path) -> dict[str, Any]:
    """A policy cross-fitted on a table; and, unchanged, on the same utterances heard by other models.

    Arguments
    ---------
    table : ExitTable
        Fitted, calibrated and measured on.
    text : str
        Open policy.
    others : dict of str to ExitTable
        Only measured on: each fold of speakers with what was fitted without them.
    folder : Path
        Where costly fits are kept.
    """
    policy = parse_policy(text)
    if text in WORD_FORMS:
        fits = 10 if text == "gain_words" else 3 if others else 1
        scores = word_scores(table, text, others, folder=folder, fits=fits)
        others = {name: with_scores(one, text, scores[name])[0] for name, one in others.items()}
        table, policy = with_scores(table, text, scores["own"])
    fit = cross_fit(table, policy, budgets=BUDGETS)
    elsewhere = {name: np.empty_like(fit.exit_index) for name in others}
    for name, other in others.items():
        for i in range(fit.fold.max() + 1):
            rows = np.flatnonzero(fit.fold == i)
            own = other.select(rows)
            for b, per_fold in enumerate(fit.policies):
                elsewhere[name][b, rows] = replay(per_fold[i], own)
    return {
        "points": points_of(table, fit.exit_index, BUDGETS),
        "exit_index": fit.exit_index.tolist(),
        "policies": [[str(one) for one in per_fold] for per_fold in fit.policies],
        "elsewhere": {name: points_of(others[name], one, BUDGETS) for name, one in elsewhere.items()},
    }


def measure_shift(source: ExitTable, target: ExitTable, text: str, *, folder: Path) -> list[dict[str, Any]]:
    """A policy fitted and calibrated on one set, used on another.

    Arguments
    ---------
    source, target : ExitTable
        The two sets.
    text : str
        Open policy.
    folder : Path
        Where costly fits are kept.
    """
    policy = parse_policy(text)
    if text in WORD_FORMS:
        scores = word_scores(source, text, {"target": target}, folder=folder, fits=1)
        target = with_scores(target, text, scores["target"])[0]
        source, policy = with_scores(source, text, scores["own"])
    chosen = [replay(choose(source, policy, budget=budget, n_thresholds=1000).policy, target) for budget in BUDGETS]
    return points_of(target, np.stack(chosen), BUDGETS)


def measure(tables: dict[tuple[str, str], ExitTable], cache: Cache, *, skip: set[str]) -> dict[str, Any]:
    """All parts.

    Arguments
    ---------
    tables : dict of (model, set) to ExitTable
        The traces.
    cache : Cache
        What is there already.
    skip : set of str
        Policies, and "fusion", that are left out.
    """
    results: dict[str, Any] = {"models": {}, "policies": {}, "native": {}, "shift": {}, "auroc": {}, "fusion": {}}
    for (model, name), table in tables.items():
        got = cache.get(f"exits-{model}-{name}", partial(score_table, table, budgets=budgets_of(table)))
        results["models"].setdefault(model, {})[name] = got["value"]
    for name in SETS:
        table, others = tables["ee40", name], {model: tables[model, name] for model in OTHER_MODELS}
        results["auroc"][name] = cache.get(f"auroc-{name}", partial(signal_aurocs, table))["value"]
        for text in HEURISTICS + FITTED:
            if text not in skip:
                used = others if text in UNIVERSAL else {}
                work = partial(measure_policy, table, text, used, folder=cache.folder / f"words-{text}-{name}")
                results["policies"].setdefault(text, {})[name] = cache.get(f"policy-{text}-{name}", work)
        for model, text in [(model, text) for model in OTHER_MODELS for text in UNIVERSAL if text not in skip]:
            key = f"native-{model}-{text}-{name}"
            got = cache.get(key, partial(measure_policy, others[model], text, {}, folder=cache.folder / key))
            results["native"].setdefault(model, {}).setdefault(text, {})[name] = got["value"]["points"]
    for source, target in (SETS, SETS[::-1]):
        for text in [text for text in SHIFTED if text not in skip]:
            folder = cache.folder / f"words-{text}-{source}"
            pair = tables["ee40", source], tables["ee40", target]
            got = cache.get(f"shift-{text}-{source}", partial(measure_shift, *pair, text, folder=folder))
            results["shift"].setdefault(text, {})[f"{source} -> {target}"] = got["value"]
    for name in SETS if "fusion" not in skip else ():
        texts = [text for text in ("gain", "gain_words") if text in results["policies"]]
        chosen = {text: results["policies"][text][name]["value"]["exit_index"] for text in texts}
        shared = {"folder": cache.folder / f"fusion-{name}", "points_of": points_of, "budgets": BUDGETS}
        got = cache.get(f"fusion-{name}-{len(texts)}", partial(measure_fusion, tables["ee40", name], chosen, **shared))
        results["fusion"][name] = got["value"]
    return results


def budgets_of(table: ExitTable) -> tuple[float, ...]:
    """Depths at which the lines are kept: every quarter of a layer that a table reaches.

    Arguments
    ---------
    table : ExitTable
        Its exits.
    """
    return tuple(b for b in np.arange(4.0, 12.01, 0.25) if table.exit_layers[0] <= b <= table.exit_layers[-1])


def main() -> None:
    """Measure what is not in the cache, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("exit-traces-cache"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "exit-traces")
    parser.add_argument("--skip", default="", help="policies, and fusion, to leave out, separated by commas")
    options = parser.parse_args()
    models = ("ee40", *OTHER_MODELS, "nonee12")
    tables = {(m, s): import_transcripts(options.traces, s, model=m) for m in models for s in SETS}
    skip = {name.strip() for name in options.skip.split(",") if name.strip()}
    write_results(measure(tables, Cache(options.cache), skip=skip), options.out, root=ROOT)


if __name__ == "__main__":
    main()
