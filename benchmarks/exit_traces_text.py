"""What benchmarks/exit_traces.py measured, as tables and sentences: README.md and what documents quote."""

from collections.abc import Iterable, Sequence
from typing import Any

SHOWN = (7.0, 8.0, 9.0, 10.0)  # budgets in layers
SHIFTED_AT = (8.0, 9.0)
INTERVAL_AT = 9.0
# One of each kind; the others are in results.json.
SHOWN_POLICIES = (
    "entropy",
    "between(entropy)",
    "between(patience(1))",
    "between(lexical)",
    "gain",
    "gain_words",
    "gain_words + fusion",
)
SINGLE_EXIT = "nonee12"


def readme_text(results: dict[str, Any]) -> str:
    """The results as a page.

    Arguments
    ---------
    results : dict
        Of `public`.
    """
    parts = [
        "# Exit policies on public exit traces",
        "Do rules that read one utterance beat fixed exits, and by how much? Per-exit transcripts of a public "
        "six-exit wav2vec2-base (`ee40`, exits after layers 2 to 12) on LibriSpeech "
        "test-clean (2,620 utterances, 40 speakers) and test-other (2,939, 33). Made by",
        "    python benchmarks/exit_traces.py TRACES --cache CACHE",
        "Everything is cross-fitted over ten folds of speakers: fits, thresholds, floors and ceilings come from other "
        "speakers than those they are measured on. WER in percent; depth in layers, weighted by seconds guessed from "
        "the references' lengths; in brackets the gap closed: 0 % on the static line, 100 % on oracle C; intervals are "
        "95 % over speakers. Differences of 0.03 (clean), 0.05 (other) are noise, as the policies' hyper-parameters "
        "were looked at here. The cost of text models and of fusion is not in the depth. More models, policies, "
        "budgets, what each signal knows: results.json.",
        "## Exits and bounds",
        bounds_text(results),
        "## Policies",
    ]
    for name in ("clean", "other"):
        parts += [f"### test-{name}: WER (gap closed) at a mean depth of", policies_text(results, name)]
    parts += ["![WER against mean depth, test-clean](frontier_clean.png)"]
    if results["fusion"]:
        parts += ["## Fusion of the exits passed", fusion_text(results)]
    parts += ["## Fitted and calibrated on one set, used on the other", shift_text(results)]
    if any(one["clean"]["elsewhere"] for one in results["policies"].values()):
        parts += ["## Fitted on ee40, used unchanged on other models", universal_text(results)]
    return "\n\n".join(parts) + "\n"


def _universal(results: dict[str, Any]) -> list[tuple]:
    """(policy, model, set, pairs of points of ee40's and of the native fit at `SHOWN`)."""
    return [
        (text, model, name, [(at_budget(points, b), at_budget(results["native"][model][text][name], b)) for b in SHOWN])
        for text, by_set in results["policies"].items()
        if text == "gain_words_text"
        for name, one in by_set.items()
        for model, points in one["elsewhere"].items()
    ]


def bounds_text(results: dict[str, Any]) -> str:
    """The six exits, their oracles and overthinking.

    Arguments
    ---------
    results : dict
        Of `public`.
    """
    rows = []
    for name, one in results["models"]["ee40"].items():
        a, b, over = one["oracles"]["a"], one["oracles"]["b"], one["overthinking"]
        wers = [exit["wer"] for exit in one["exits"]]
        last = one["exits"][-1]["wer_interval"]
        single = results["models"][SINGLE_EXIT][name]["exits"][-1]["wer"]
        rows.append([name, _wers(wers), f"[{last[0]:.2f}, {last[1]:.2f}]"])
        rows[-1] += [f"{point['wer']:.2f} at {point['depth']:.2f}" for point in (a, b)]
        rows[-1] += [f"{100 * over[kind]:.1f} %" for kind in ("better", "destructive")]
        rows[-1] += [f"{single:.2f}", f"{wers[-1] - single:+.2f}"]
    header = [
        "set",
        "WER per exit",
        "last [95 %]",
        "oracle A",
        "oracle B",
        "inner better",
        "destructive",
        "single exit",
        "exit tax",
    ]
    note = (
        "*Single exit*: the same encoder trained with its last exit alone; the exit tax is the last exit minus that. "
        "On other no choice among exits repays it."
    )
    return table_text(header, rows) + "\n\n" + note


def policies_text(results: dict[str, Any], name: str) -> str:
    """WER and gap closed of one policy of each kind, and one budget's distance from the static line with its interval.

    Arguments
    ---------
    results : dict
        Of `public`.
    name : str
        "clean" or "other".
    """
    one = results["models"]["ee40"][name]
    lines = {key: {b["layers"]: b[key] for b in one["budgets"]} for key in ("static", "oracle_c")}
    rows = [["static line", *[f"{lines['static'][b]:.2f}" for b in SHOWN], ""]]
    rows += [["oracle C", *[f"{lines['oracle_c'][b]:.2f}" for b in SHOWN], ""]]
    for text in [one for one in SHOWN_POLICIES if one in policy_names(results)]:
        points = points_of(results, text, name)
        rows.append(
            [f"`{text}`", *[_cell(at_budget(points, b)) for b in SHOWN], minus_static(at_budget(points, INTERVAL_AT))]
        )
    return table_text(["policy", *[f"{b:g}" for b in SHOWN], f"minus static line at {INTERVAL_AT:g} [95 %]"], rows)


def minus_static(point: dict[str, Any]) -> str:
    """WER above the static line at the depth that was spent, with its interval."""
    low, high = point["above_static_interval"]
    return f"{point['above_static']:+.2f} [{low:+.2f}, {high:+.2f}]"


def fusion_text(results: dict[str, Any]) -> str:
    """Fused transcripts of every exit.

    Arguments
    ---------
    results : dict
        Of `public`.
    """
    rows = []
    for name, one in results["fusion"].items():
        rows += [[f"{name}: {what}", _wers(wers)] for what, wers in one["wer_per_exit"].items()]
    note = (
        "A fused transcript is no exit's own, so it may cross oracle C; its own bound is the best path through the "
        "variants."
    )
    return table_text(["", "WER after layers 2 to 12"], rows) + "\n\n" + note


def shift_text(results: dict[str, Any]) -> str:
    """Policies of one set on the other.

    Arguments
    ---------
    results : dict
        Of `public`.
    """
    rows = []
    for text in [one for one in ("between(entropy)", "gain_words") if one in results["shift"]]:
        by_pair = results["shift"][text]
        for pair, points in by_pair.items():
            shown = [at_budget(points, budget) for budget in SHIFTED_AT]
            rows.append([f"`{text}`, {pair}", *[f"{_cell(point)} @ {point['depth']:.2f}" for point in shown]])
    return table_text(["policy, sets", *[f"{b:g}" for b in SHIFTED_AT]], rows)


def universal_text(results: dict[str, Any]) -> str:
    """Share of the gap that ee40's policies keep on other models, of what natively fitted ones close.

    Arguments
    ---------
    results : dict
        Of `public`.
    """
    rows = []
    for text, model, name, pairs in _universal(results):
        ours, native = (sum(pair[k]["gap_closed"] for pair in pairs) / len(pairs) for k in (0, 1))
        rows.append([f"`{text}`, {model}, {name}", *[f"{100 * gap:.0f} %" for gap in (ours, native)]])
        rows[-1].append(f"{100 * ours / native:.0f} %")
    return table_text(["policy, model, set", "gap closed, ee40's", "native", "kept"], rows)


def table_text(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table.

    Arguments
    ---------
    header : sequence
        Of the columns; numbers stand right in all but the first.
    rows : iterable of sequences
        Cells.
    """
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def policy_names(results: dict[str, Any]) -> list[str]:
    """Policies in the order measured, fused ones last."""
    fused = list(results["fusion"].get("clean", {}).get("points", {}))
    return [*results["policies"], *fused]


def points_of(results: dict[str, Any], text: str, name: str) -> list[dict[str, Any]] | None:
    """WER, depth and cost of the policy `text` on the set `name`, one per budget; None where it was not measured."""
    if text in results["policies"]:
        return results["policies"][text][name]["points"]
    return results["fusion"].get(name, {}).get("points", {}).get(text)


def at_budget(points: Sequence[dict[str, Any]], budget: float) -> dict[str, Any]:
    """The point of `points_of` at a budget in layers."""
    return next(point for point in points if point["budget"] == budget)


def _cell(point: dict[str, Any]) -> str:
    gap = point["gap_closed"]
    return f"{point['wer']:.2f}" + ("" if gap is None else f" ({100 * gap:.0f})")


def _wers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
