"""The README's tables: exits and policies of a public wav2vec 2.0, seconds against transformers, and words and seconds
of a checkpoint's own decoder behind the exits against Whisper's.

    python benchmarks/first_page.py

reads results/exit-traces/results.json, results/end_to_end and results/own_decoder/own_decoder.json and writes README.md
between its marks.
"""

import json
import re
from pathlib import Path
from typing import Any

from exit_traces_text import INTERVAL_AT, at_budget, minus_static, points_of, table_text

ROOT = Path(__file__).resolve().parents[1]
TIMES = {"exits float32": "float32", "exits bfloat16": "bfloat16"}


def exits_text(results: dict[str, Any]) -> str:
    """The README's table: WER of every exit of ee40 on test-clean, the bounds, and policies at three quarters of it.

    Arguments
    ---------
    results : dict
        Of `public`.
    """
    one = results["models"]["ee40"]["clean"]
    budget = INTERVAL_AT
    static = next(b["static"] for b in one["budgets"] if b["layers"] == budget)
    rows = []
    for exit_ in one["exits"]:
        if exit_["layer"] >= 8:
            low, high = exit_["wer_interval"]
            rows.append([f"always layer {exit_['layer']}", f"{exit_['layer']:.2f}", f"{exit_['wer']:.2f}"])
            rows[-1] += [f"[{low:.2f}, {high:.2f}]", ""]
    rows.append(["fixed exits mixed at random (static line)", f"{budget:.2f}", f"{static:.2f}", "", "0 %"])
    for text in ("between(entropy)", "between(patience(1))", "between(lexical)", "gain", "gain_words + fusion"):
        point = at_budget(points_of(results, text, "clean"), budget)
        rows.append([f"`{text}`", f"{point['depth']:.2f}", f"{point['wer']:.2f}", f"{minus_static(point)} to that"])
        rows[-1].append(f"{100 * point['gap_closed']:.0f} %")
    a = one["oracles"]["a"]
    rows.append(["oracle, which knows the reference", f"{a['depth']:.2f}", f"{a['wer']:.2f}", "", "100 %"])
    return table_text(["leaving by", "mean depth of 12", "WER (%)", "95 % over 40 speakers", "gap closed"], rows)


def times_text(measured: str) -> str:
    """Times as fast as transformers, from waveform to words, by shape and precision.

    Arguments
    ---------
    measured : str
        results/end_to_end/README.md.
    """
    rows = []
    for line in measured.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 5 and cells[1] in TIMES:
            middle, low, high = re.findall(r"[\d.]+", cells[3])
            rows.append([f"wav2vec 2.0 {cells[0]}", TIMES[cells[1]], f"{middle} x", f"{low} to {high}"])
    return table_text(["shape", "ours in", "as fast as transformers in float32", "quartiles"], rows)


def decoder_text(measured: dict[str, Any]) -> str:
    """WER (Whisper's normaliser) and seconds of each way on each set.

    Arguments
    ---------
    measured : dict
        results/own_decoder/own_decoder.json.
    """
    sets = measured["sets"]
    rows = []
    for way in ("own decoder, exits off", "faster-whisper float32", "faster-whisper int8", "Whisper, transformers"):
        found = [one["ways"][way] for one in sets.values()]
        rows.append([way, *(cell for one in found for cell in (f"{one['wer_whisper']:.1f}", f"{one['ratio'][0]:.2f}"))])
    header = ["way", *(cell for name in sets for cell in (f"WER {name}", "seconds"))]
    return table_text(header, rows)


def with_tables(page: str) -> str:
    """The README with its tables written anew."""
    decoded = json.loads((ROOT / "results/own_decoder/own_decoder.json").read_text(encoding="utf-8"))
    results = json.loads((ROOT / "results/exit-traces/results.json").read_text(encoding="utf-8"))
    pages = (ROOT / f"results/end_to_end/{name}.md" for name in ("README", "large"))
    measured = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    tables = {"exits": exits_text(results), "times": times_text(measured), "decoder": decoder_text(decoded)}
    for name, table in tables.items():
        begin, end = f"<!-- {name}: written by benchmarks/first_page.py -->", f"<!-- /{name} -->"
        page = f"{page.split(begin)[0]}{begin}\n\n{table}\n\n{end}{page.split(end)[1]}"
    return page


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
