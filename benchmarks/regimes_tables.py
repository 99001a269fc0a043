"""Tables of `benchmarks/regimes.py`: one sitting's, several joined, and what exits cost against a single one.

Joined ones are results/regimes/NAME.json, and stand in the pages that have a region for them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from study_runs import AgainstSingle, against_single, minus, same_sets, taxed
from study_tables import difference, models, whole

from eeasr_modules.exits import ExitTable

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results/regimes"
PAGES = [RESULTS / "README.md"]
SINGLE = "last_only"  # the regime of a single exit
LEFT_OUT = (
    *("downsampled x2, exits", "averaged x2, exits", "downsampled x3, exits", "resampled x2, exits"),
    *("layer removal, exits", "confidence-weighted", "teacher"),
)
MACS_SHARE = 0.7  # of the single-exit model's, at most


def folder_name(regime: str) -> str:
    """Run folder of a regime.

    Example
    -------
    >>> folder_name("layer removal, exits")
    'layer_removal_exits'
    """
    return regime.replace(", ", "_").replace(" ", "_").replace("-", "_")


def as_markdown(results: dict[str, dict], about: str, *, missing: list[str]) -> str:
    """One table for each test set of a sitting: a row per regime, a column per exit; cost is that of the last exit."""
    lines = [
        f"{about} WER in %, greedy. Cost: billions of multiply-accumulates per second of audio up to the last exit. "
        "Time: processor seconds of this sitting's training.",
    ]
    layers = sorted({layer for result in results.values() for layer in result["exit_layers"]})
    for name in next(iter(results.values()))["wer_per_exit"]:
        lines += ["", f"## {name}", "", f"| regime | {' | '.join(map(str, layers))} | mean | GMACs/s | time |"]
        lines += ["|" + "---|" * (len(layers) + 4)]
        for regime, result in results.items():
            wer = result["wer_per_exit"][name]
            mean, cost = sum(wer) / len(wer), result["gmacs_per_s"][name][-1]
            shown = per_layer(result["exit_layers"], wer, layers=layers)
            lines.append(f"| {regime} | {shown} | {mean:.2f} | {cost:.3f} | {result['cpu_s']:.0f} |")
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def per_layer(exit_layers: list[int], wers: list[float], *, layers: list[int]) -> str:
    """Cells of a row, empty where there is no exit."""
    wer = dict(zip(exit_layers, wers, strict=True))
    return " | ".join(f"{wer[layer]:.2f}" if layer in wer else "" for layer in layers)


def joined(folders: list[Path], *, order: list[str], against: str, usual: str) -> dict:
    """What several sittings found.

    `runs` is a record for each regime and seed, `taxes` and `differences` are as `taxes_of` and `differences_of` have
    them, `against` is the argument.

    Arguments
    ---------
    folders : list of Path
        `--output` of each sitting.
    order : list of str
        Names of regimes.
    against : str
        The regime whose last exit the cheaper exits of a sitting are compared with, where its run is there too.
    usual : str
        The regime of all exits, whose exits are compared with those at the same layers, likewise.
    """
    runs, pairs, beside = [], {}, {}
    for folder in folders:
        results = json.loads((folder / "regimes.json").read_text(encoding="utf-8"))
        for name, result in results.items():
            result.pop("cpu_s")  # of a sitting: little where a run that was whole was only tested again
            runs.append({"regime": name, **result})
            own, key = folder / folder_name(name), (name, result["seed"])
            if has_tables(own, folder / folder_name(against)) and name != SINGLE:
                pairs[key] = against_single(own, folder / folder_name(against))
            if has_tables(own, folder / folder_name(usual)) and name != usual:
                beside[key] = {one: tables for one, *tables in same_sets(own, folder / folder_name(usual))}
    runs.sort(key=lambda one: (order.index(one["regime"]), one["seed"] != 1234, one["seed"]))
    found = {"taxes": taxes_of(runs, pairs), "differences": differences_of(runs, beside)}
    return {"runs": runs, "against": against, **found}


def has_tables(*runs: Path) -> bool:
    """Whether all these run folders have exit tables."""
    return all((run / "tables").is_dir() for run in runs)


def pooled(runs: list[dict], found: dict[tuple[str, int], dict]) -> Iterator[tuple[str, str, str, list]]:
    """Set, regime, seed as text and what was found of it; of a regime with several seeds, also of all of them."""
    for name in runs[0]["wer_per_exit"]:
        for regime in dict.fromkeys(one["regime"] for one in runs):
            seeds = [one["seed"] for one in runs if one["regime"] == regime and (regime, one["seed"]) in found]
            of_seeds = [found[regime, seed][name] for seed in seeds]
            _check_alike(regime, name, of_seeds)
            yield from ((name, regime, str(seed), [one]) for seed, one in zip(seeds, of_seeds, strict=True))
            if len(seeds) > 1:
                yield name, regime, f"all {len(seeds)}", of_seeds


def _check_alike(regime: str, name: str, of_seeds: list) -> None:
    """ValueError unless all seeds were tested on the same utterances in the same order."""
    tables = [one.table if isinstance(one, AgainstSingle) else one[0] for one in of_seeds]
    if any(list(table.utt_ids) != list(tables[0].utt_ids) for table in tables):
        raise ValueError(f"{regime}: expected the same utterances of {name} from every seed, in one order, got others")


def taxes_of(runs: list[dict], pairs: dict[tuple[str, int], dict[str, AgainstSingle]]) -> list[dict]:
    """Per set, regime and seed, and per regime with all its seeds pooled: its deepest exit within `MACS_SHARE`."""
    found = []
    for name, regime, seed, of_set in pooled(runs, pairs):
        exits = taxed(of_set)
        cheap = [one for one in exits.pop("exits") if one["macs_share"] <= MACS_SHARE]
        if cheap:
            found.append({"set": name, "regime": regime, "seed": seed, **exits, **cheap[-1]})
    return found


def differences_of(runs: list[dict], beside: dict[tuple[str, int], dict[str, list[ExitTable]]]) -> list[dict]:
    """Likewise: WER minus that of the usual regime at the same exits, those at half depth and at the end."""
    found = []
    for name, regime, seed, tables in pooled(runs, beside):
        ours, theirs = tables[0]
        shown = [layer for layer in (theirs.exit_layers[-1] // 2, theirs.exit_layers[-1]) if layer in ours.exit_layers]
        at = {}
        for layer in shown:
            errors, others = (
                sum(table.errors[:, list(table.exit_layers).index(layer)] for table in side)
                for side in zip(*tables, strict=True)
            )
            n_ref_words = ours.n_ref_words * len(tables)  # errors of all seeds over the words of all
            at[str(layer)] = minus(errors, others, n_ref_words=n_ref_words, speakers=ours.speakers)
        found.append({"set": name, "regime": regime, "seed": seed, "layers": at})
    return found


def joined_markdown(found: dict, *, usual: str) -> str:
    """A table per test set: a row per regime, means and pooled comparisons where it has several seeds.

    WER at half depth and at the last exit; minus the usual regime there; the deepest exit within `MACS_SHARE`, fused,
    minus the last exit of `found["against"]`. Per seed and exit: results/regimes/*.json.
    """
    runs = found["runs"]
    parts = []
    for name in runs[0]["wer_per_exit"]:
        middle, last = runs[0]["exit_layers"][-1] // 2, runs[0]["exit_layers"][-1]
        lines = [
            f"| {name} | seeds | layer {middle} | layer {last} | minus {usual} at {last} [95 %] "
            f"| cheap exit, fused | minus last exit of {found['against']} [95 %] |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for regime in dict.fromkeys(one["regime"] for one in runs if one["regime"] not in LEFT_OUT):
            own = [one for one in runs if one["regime"] == regime]
            wer = {
                layer: np.mean([dict(zip(one["exit_layers"], one["wer_per_exit"][name]))[layer] for one in own])
                for layer in (middle, last)
                if all(layer in one["exit_layers"] for one in own)
            }
            beside = pooled_row(found["differences"], name, regime)
            tax = pooled_row(found["taxes"], name, regime)
            cells = [regime, str(len(own)), *(f"{wer[k]:.2f}" if k in wer else "" for k in (middle, last))]
            cells.append(difference(beside["layers"][str(last)]) if beside and str(last) in beside["layers"] else "")
            cells.append(f"{whole(tax['fused']['wer'], _n_words(tax)):.2f} at {tax['layer']}" if tax else "")
            lines.append("| " + " | ".join([*cells, difference(tax["fused"]) if tax else ""]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def pooled_row(rows: list[dict], name: str, regime: str) -> dict | None:
    """Of the rows of a set and regime the one with all seeds, or that of its only seed; None where there is none.

    Example
    -------
    >>> rows = [{"set": "a", "regime": "joint", "seed": "2"}, {"set": "a", "regime": "joint", "seed": "all 2"}]
    >>> pooled_row(rows, "a", "joint")["seed"], pooled_row(rows, "b", "joint")
    ('all 2', None)
    """
    found = [one for one in rows if (one["set"], one["regime"]) == (name, regime)]
    return found[-1] if found else None


def _n_words(tax: dict) -> int | None:
    """Reference words behind a WER, those of all seeds where they are pooled; None for a set that is not shipped."""
    known = models()["shipped"]["sets"].get(tax["set"])
    seeds = int(tax["seed"].split()[1]) if tax["seed"].startswith("all") else 1
    return known and seeds * known["n_ref_words"]


def with_tables(page: str) -> str:
    """A page with each region filled from results/regimes/NAME.json.

    `<!-- regimes: NAME -->` to `<!-- /regimes: NAME -->` shows every test set, `NAME SET` in both places one of
    them, and of regimes those with several seeds.
    """
    for region in re.findall(r"<!-- regimes: (.+) -->", page):
        name, *only = region.split()
        found = only_sets(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")), only)
        begin, end = f"<!-- regimes: {region} -->", f"<!-- /regimes: {region} -->"
        before, after = page.split(begin)[0], page.split(end)[1]
        page = "\n\n".join([f"{before}{begin}", joined_markdown(found, usual="joint"), f"{end}{after}"])
    return page


def only_sets(found: dict, names: list[str]) -> dict:
    """What `joined` found, of these test sets and of regimes with several seeds; all where no set is named.

    Example
    -------
    >>> runs = [{"regime": one, "wer_per_exit": {"a": [9.0], "b": [8.0]}} for one in ("joint", "joint", "layerdrop")]
    >>> taxes = [{"regime": "joint", "set": "a"}, {"regime": "joint", "set": "b"}, {"regime": "layerdrop", "set": "b"}]
    >>> found = only_sets({"runs": runs, "taxes": taxes, "differences": []}, ["b"])
    >>> found["taxes"], [run["wer_per_exit"] for run in found["runs"]]
    ([{'regime': 'joint', 'set': 'b'}], [{'b': [8.0]}, {'b': [8.0]}])
    """
    if not names:
        return found
    times = Counter(run["regime"] for run in found["runs"])
    runs = [run for run in found["runs"] if times[run["regime"]] > 1]
    runs = [{**run, "wer_per_exit": {name: run["wer_per_exit"][name] for name in names}} for run in runs]
    return {**found, "runs": runs} | {
        part: [one for one in found[part] if one["set"] in names and times[one["regime"]] > 1]
        for part in ("taxes", "differences")
    }
