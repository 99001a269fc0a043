"""The demo, on this machine only: what every exit makes of one recording, and the page that shows it.

Tables are HTML; around them are Gradio's components, imported when the page is built.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np
import torch

from eeasr_modules.data.audio import AudioReader
from eeasr_modules.data.audio_files import fault
from eeasr_modules.data.text import normalise_english
from eeasr_modules.exits.measure.edits import align_words, count_edits
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.runtime.chunks import chunks
from eeasr_modules.runtime.engine import Engine
from eeasr_modules.runtime.recogniser import EarlyExitASR
from eeasr_modules.runtime.sources import within_budget

ALL_POLICIES_UP_TO_S = 60.0  # of longer recordings the model's own policy alone is asked


@dataclass(frozen=True)
class ExitTranscripts:
    """Transcripts of the exits so far."""

    exit_layers: tuple[int, ...]  # the model's exits
    texts: tuple[str, ...]  # of each exit, of the pieces heard so far; "" for an exit that has not been reached
    n_reached: int  # exits that the piece at hand has reached
    # n_pieces, n_done: pieces that the recording was cut in, and those that every exit has heard
    n_pieces: int
    n_done: int
    duration_s: float
    pieces: tuple[torch.Tensor, ...]  # (samples,): the recording, cut where it is quiet

    @property
    def is_done(self) -> bool:
        """Whether every exit has heard everything."""
        return self.n_done == self.n_pieces


@dataclass(frozen=True)
class Stop:
    """Where one policy would have stopped."""

    policy: str  # as calibrated; its name where it cannot keep the budget
    exit_layer: float  # mean over pieces, by duration; nan without a decision
    text: str  # what it would have said
    layers_saved: float  # share of the encoder's layers that did not run
    why_not: str = ""  # why there is no decision; "" where there is one


def listen(asr: EarlyExitASR, path: str) -> Iterator[ExitTranscripts]:
    """Hear a recording, piece by piece and exit by exit; one `ExitTranscripts` after every exit.

    ValueError when the file is not audio, or holds too little of it.
    """
    engine = asr.engine
    reader = AudioReader(path, engine.sample_rate)
    found = chunks(reader.blocks_of_speech(), sample_rate=engine.sample_rate, longest_s=asr.longest_s, overlap_s=0.0)
    pieces = tuple(chunk.wav for chunk in found)
    layers = tuple(engine.model.exit_layers)
    said: list[list[str]] = [[] for _ in layers]
    hearing = ExitTranscripts(
        layers, ("",) * len(layers), 0, len(pieces), 0, reader.n_samples / engine.sample_rate, pieces
    )
    for done, piece in enumerate(pieces):
        every = engine.every_exit(piece[None], torch.tensor([len(piece)]))
        for k, (_, texts) in enumerate(every):
            said[k].append(texts[0])
            so_far = tuple(" ".join(filter(None, parts)) for parts in said)
            n_done = done + (k == len(layers) - 1)
            hearing = replace(hearing, texts=so_far, n_reached=k + 1, n_done=n_done)
            yield hearing


def stops(asr: EarlyExitASR, hearing: ExitTranscripts, *, budget: float) -> list[Stop]:
    """Where the model's calibrated policies stop on a recording that was heard; the budget is a share of the layers."""
    entries = asr.source.calibrated
    if not entries:
        return [_stop(asr, hearing, asr.policy)]
    found = []
    for entry in entries[: None if hearing.duration_s <= ALL_POLICIES_UP_TO_S else 1]:
        try:
            policy = within_budget(entry, budget, hearing.exit_layers[-1])
        except ValueError as err:
            found.append(Stop(str(entry.open_policy), float("nan"), "", 0.0, str(err)))
            continue
        found.append(_stop(asr, hearing, policy))
    return found


def _stop(asr: EarlyExitASR, hearing: ExitTranscripts, policy: Policy) -> Stop:
    engine = asr.engine
    deciding = Engine(
        engine.model,
        engine.vocabulary,
        policy=policy,
        precision=engine.precision,
        seed=engine.seed,
        language=engine.language,
    )
    names = [f"piece {i}" for i in range(len(hearing.pieces))]
    results = deciding.run_all(hearing.pieces, utt_ids=names, batch_seconds=asr.batch_seconds)
    weights = [len(piece) for piece in hearing.pieces]
    layer = float(np.average([one.decided_layer for one in results], weights=weights))
    text = " ".join(one.text for one in results if one.text)
    return Stop(str(policy), layer, text, 1.0 - layer / hearing.exit_layers[-1])


def word_error_rates(texts: Sequence[str], reference: str) -> tuple[list[float], int]:
    """WER of every exit (percent) and the oracle's exit: the earliest of those with the fewest errors.

    Case and punctuation do not count. ValueError when the reference has no words, or digits, which cannot be compared.

    Example
    -------
    >>> word_error_rates(["HELO", "HELLO THERE", "HELLO THERE"], "Hello there!")
    ([100.0, 0.0, 0.0], 1)
    """
    spoken = normalise_english(reference)
    if not spoken:
        raise ValueError(f"the reference must be words (numbers written out), got {reference.strip()!r}")
    errors = [sum(count_edits(spoken, normalise_english(text, unreadable="remove"))) for text in texts]
    return [100.0 * one / len(spoken.split()) for one in errors], int(np.argmin(errors))


DEFAULT_MODELS = (Path(__file__).resolve().parents[1] / "shipped" / "base", Path("runs/an4/model"))


def default_model() -> Path:
    """The first of `DEFAULT_MODELS` that is there; ValueError without one."""
    for folder in DEFAULT_MODELS:
        if (folder / "config.json").is_file():
            return folder
    raise ValueError("no model comes with this installation: name one, as in: eeasr demo runs/an4/model")


def marked_words(text: str, before: str | None) -> str:
    """The transcript with the words marked that the exit before did not have in their place.

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


def exits_table(hearing: ExitTranscripts, *, reference: str = "", stop: Stop | None = None) -> str:
    """Every exit's transcript, and with a reference its word error rate and the oracle's stop."""
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


def progress_line(hearing: ExitTranscripts) -> str:
    """One sentence on how far the recording is."""
    seconds = f"{hearing.duration_s:.1f} s"
    if hearing.is_done:
        return f"Heard {seconds} by {len(hearing.exit_layers)} exits."
    layer = hearing.exit_layers[hearing.n_reached - 1]
    piece = f", piece {hearing.n_done + 1} of {hearing.n_pieces}" if hearing.n_pieces > 1 else ""
    return f"Listening to {seconds}{piece}: layer {layer} of {hearing.exit_layers[-1]}"


EXAMPLES = {
    "storm.opus": "Thou shalt ascend and come like a storm.",
    "hills.opus": "I will lift up mine eyes unto the hills, from whence cometh my help.",
    "servants.opus": "they will be thy servants for ever.",
}
TITLE = "Early exit, heard"
STYLE = """
.exits, .stops { width: 100%; border-collapse: collapse; }
.exits th, .exits td, .stops th, .stops td { text-align: left; padding: .35em .6em; vertical-align: top; }
.exits tbody tr, .stops tbody tr { border-top: 1px solid #8888; }
.exits mark { background: #ffe08a; color: #1a1a1a; padding: 0 .15em; border-radius: .2em; }
.badge { display: inline-block; background: #1d4ed8; color: #fff; border-radius: .8em; padding: 0 .6em; }
.badge.oracle { background: #166534; }
.none { font-style: italic; }
.exits td:nth-child(3), .stops td:nth-child(-n+3) { white-space: nowrap; }
.wide { overflow-x: auto; }
.stops code { white-space: normal; }
.note { color: #b91c1c; }
.dark .note { color: #fca5a5; }
body:not(.dark) { --neutral-400: #5b5b66; }
:focus-visible { outline: 3px solid #2563eb !important; outline-offset: 2px; }
"""
# Gradio's own contrasts are 1.9 and 2.8 to 1; from 4.5 on they can be read.
COLOURS = {
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_hover_dark": "*primary_800",
    "body_text_color_subdued": "#5b5b66",
    "input_placeholder_color": "#5b5b66",
}
# What is heard is said by a screen reader as well, one exit after the other.
ANNOUNCE = "() => document.querySelector('#progress')?.setAttribute('aria-live', 'polite')"


def build(asr: EarlyExitASR):
    """Gradio's page for one model.

    ImportError when gradio is not installed. ValueError when the model's deepest exit is its checkpoint's own decoder.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    asr.source.refuse_own_decoder("the demo")
    try:
        import gradio
    except ImportError as err:
        raise ImportError("the demo needs gradio: pip install 'eeasr[demo]'") from err

    def hear(path: str | None, reference: str, budget: float) -> Iterator[tuple[str, str, str, ExitTranscripts | None]]:
        if path is None:
            yield "Record something, drop a file, or choose an example.", "", "", None
            return
        hearing = None
        try:
            for hearing in listen(asr, path):
                yield progress_line(hearing), exits_table(hearing), "", None
            if hearing is None:
                raise ValueError(f"'{Path(path).name}' holds no audio")
            found = stops(asr, hearing, budget=budget)
        except Exception as err:  # whatever this recording brings about, the page goes on
            why = fault(err, name=f"'{path}'")
            yield f"Not transcribed: {escape(why.replace(path, Path(path).name))}", "", "", None
            return
        line = progress_line(hearing)
        if not any(hearing.texts):
            line += " No exit heard a word: silence, or no speech that this model knows."
        yield line, exits_table(hearing, reference=reference, stop=found[0]), stops_table(found), hearing

    def decide(hearing: ExitTranscripts | None, reference: str, budget: float) -> tuple[str, str]:
        if hearing is None:
            return "", ""
        found = stops(asr, hearing, budget=budget)
        return exits_table(hearing, reference=reference, stop=found[0]), stops_table(found)

    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        page.load(None, js=ANNOUNCE)
        gradio.Markdown(
            f"# {TITLE}\nThe model `{Path(asr.source.name).name}` transcribes your recording after each of its exits. "
            "A policy stops as soon as the transcript looks final; nothing leaves this machine."
        )
        heard = gradio.State(None)
        with gradio.Row():
            with gradio.Column():
                audio = gradio.Audio(
                    sources=["microphone", "upload"], type="filepath", label="Recording", buttons=["download"]
                )
                reference = gradio.Textbox(label="What was said (optional)", placeholder="type it to see errors")
                budget = gradio.Slider(
                    0.2, 1.0, value=0.75, step=0.05, label="Budget: mean share of the layers that may run"
                )
                button = gradio.Button("Transcribe", variant="primary")
                here = Path(__file__).resolve().parent / "examples"
                examples = gradio.Examples(
                    [[str(here / name), text] for name, text in EXAMPLES.items()],
                    [audio, reference],
                    label="Examples (synthetic voices)",
                )
            with gradio.Column(scale=2):
                line = gradio.Markdown("Record something, drop a file, or choose an example.", elem_id="progress")
                exits = gradio.HTML(label="Exit by exit")
                policies = gradio.HTML(label="Where policies stop")
        everything = [line, exits, policies, heard]
        button.click(hear, [audio, reference, budget], everything)
        examples.load_input_event.then(hear, [audio, reference, budget], everything)
        audio.start_recording(lambda: "", None, reference)  # an example's words are not what is said now
        audio.stop_recording(hear, [audio, reference, budget], everything)
        # `change`, as `release` is for the mouse alone: arrow keys move the slider, too
        budget.change(decide, [heard, reference, budget], [exits, policies], trigger_mode="always_last")
        reference.submit(decide, [heard, reference, budget], [exits, policies])
    return page


def serve(asr: EarlyExitASR, *, port: int | None = None, open_browser: bool = True, block: bool = True):
    """Show the page at 127.0.0.1, without telemetry and requests to elsewhere; gives its address.

    `port`: None takes a free one from 7860 up. `block`: wait until it is stopped; False gives the page's address at
    once.
    """
    page = build(asr)
    import gradio

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, address, _ = page.queue().launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        inbrowser=open_browser,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        footer_links=[],
        allowed_paths=[str(Path(__file__).resolve().parent / "examples")],
        theme=gradio.themes.Default(primary_hue="blue", **fonts).set(**COLOURS),
        css=STYLE,
    )
    if block:
        print(f"eeasr demo: {address} (stop it with Ctrl-C)")
        page.block_thread()
    return address
