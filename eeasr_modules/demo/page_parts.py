"""The demo's tables as HTML: transcripts with changed words marked, and where policies stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from eeasr_modules.demo.hearing import Hearing, Stop, word_error_rates
from eeasr_modules.exits.word_alignment import align_words


def marked_words(text: str, before: str | None) -> str:
    """The transcript with the words marked that the exit before did not have in their place.

    Arguments
    ---------
    text : str
        Of this exit.
    before : str or None
        Of the exit before; None marks nothing.

    Example
    -------
    >>> marked_words("THE CAT SAT", "THE BAT SAT")
    'THE <mark>CAT</mark> SAT'
    """
    words = text.split()
    if before is None or not words:
        return escape(text)
    same = align_words(before.split(), words).same if before.split() else [False] * len(words)
    return " ".join(
        escape(word) if kept else f"<mark>{escape(word)}</mark>" for word, kept in zip(words, same, strict=True)
    )


def exits_table(hearing: Hearing, *, reference: str = "", stop: Stop | None = None) -> str:
    """Every exit's transcript, and with a reference its word error rate and the oracle's stop.

    Arguments
    ---------
    hearing : Hearing
        So far.
    reference : str
        What was said, as typed; "" for none.
    stop : Stop or None
        Of the model's own policy, whose exit is marked where it is one.
    """
    rates, oracle, note = None, None, ""
    if reference.strip() and hearing.is_done:
        try:
            rates, oracle = word_error_rates(hearing.texts, reference)
        except ValueError as err:
            note = f'<p class="note">{escape(str(err))}</p>'
    rows = []
    for k, (layer, text) in enumerate(zip(hearing.exit_layers, hearing.texts, strict=True)):
        reached = k < hearing.n_reached or hearing.n_done > 0
        before = hearing.texts[k - 1] if k else None
        shown = (marked_words(text, before) or '<span class="none">nothing heard</span>') if reached else "…"
        badges = ""
        if stop is not None and stop.exit_layer == layer:
            badges += ' <span class="badge">the policy stops here</span>'
        if oracle == k:
            badges += ' <span class="badge oracle">the oracle stops here</span>'
        rate = "" if rates is None else f"<td>{rates[k]:.0f} %</td>"
        rows.append(f'<tr><th scope="row">{layer}</th><td>{shown}{badges}</td>{rate}</tr>')
    head = '<th scope="col">layer</th><th scope="col">transcript (changed words marked)</th>'
    head += "" if rates is None else '<th scope="col">WER</th>'
    table = f'<table class="exits"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'{note}<div class="wide" tabindex="0" role="region" aria-label="Exit by exit">{table}</div>'


def stops_table(found: Sequence[Stop]) -> str:
    """Where each policy stops and what that saves."""
    rows = []
    for one in found:
        name = f'<th scope="row"><code>{escape(one.policy)}</code></th>'
        if math.isnan(one.exit_layer):
            rows.append(f'<tr>{name}<td colspan="3">{escape(one.why_not)}</td></tr>')
            continue
        rows.append(
            f"<tr>{name}<td>{one.exit_layer:.4g}</td><td>{100 * one.layers_saved:.0f} %</td>"
            f"<td>{escape(one.text) or 'nothing heard'}</td></tr>"
        )
    head = "".join(
        f'<th scope="col">{title}</th>' for title in ("policy", "stops after layer", "layers saved", "and says")
    )
    table = f'<table class="stops"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="wide" tabindex="0" role="region" aria-label="Where policies stop">{table}</div>'


def progress_line(hearing: Hearing) -> str:
    """One sentence on how far the recording is."""
    seconds = f"{hearing.duration_s:.1f} s"
    if hearing.is_done:
        return f"Heard {seconds} by {len(hearing.exit_layers)} exits."
    layer = hearing.exit_layers[hearing.n_reached - 1]
    piece = f", piece {hearing.n_done + 1} of {hearing.n_pieces}" if hearing.n_pieces > 1 else ""
    return f"Listening to {seconds}{piece}: layer {layer} of {hearing.exit_layers[-1]}"
