"""A score as Markdown, and on disk."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eeasr_modules.common.files import rounded, write_aside
from eeasr_modules.exits.measure.bootstrap import MIN_SPEAKERS


def score_markdown(score: dict[str, Any]) -> str:
    """A score as people read it.

    Returns
    -------
    str
        Markdown, ending with a line break.
    """
    one, exits = score["set"], score["exits"]
    recognised = f"recognised as {one['known_as']}" if one["known_as"] else "not a set that ExitBench knows"
    seconds = "guessed from the references' lengths" if one["duration_is_approximate"] else "as given"
    speakers = f"{one['n_speakers']} speakers" if one["n_speakers"] else "speakers not all known"
    parts = [
        f"# ExitBench: {one['set_name']}",
        f"{one['n_utterances']} utterances, {speakers}, {one['n_ref_words']} words; {recognised}; seconds {seconds}. "
        f"WER in percent, depth in layers, 95 % intervals over {_resampled(one['n_speakers'])}.",
        _dropped(one["n_dropped"]),
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
    """Write `score.json` and `score.md`; each appears only when it is whole.

    Returns
    -------
    list of Path
        The files.
    """
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


def _dropped(n_dropped: int) -> str:
    return f"**{n_dropped} utterances were left out because they were not whole.**" if n_dropped else ""


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
