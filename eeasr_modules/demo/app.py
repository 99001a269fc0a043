"""The page: Gradio's components around `hearing` and `page_parts`, on this machine only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from pathlib import Path

from eeasr_modules.data.waveform import fault
from eeasr_modules.demo.hearing import Hearing, listen, stops
from eeasr_modules.demo.page_parts import exits_table, progress_line, stops_table
from eeasr_modules.runtime.recogniser import EarlyExitASR

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

    Arguments
    ---------
    asr : EarlyExitASR
        Read from disk when something is first heard.

    Raises
    ------
    ImportError
        When gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as err:
        raise ImportError("the demo needs gradio: pip install 'eeasr[demo]'") from err

    def hear(path: str | None, reference: str, budget: float) -> Iterator[tuple[str, str, str, Hearing | None]]:
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

    def decide(hearing: Hearing | None, reference: str, budget: float) -> tuple[str, str]:
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
    """Show the page at 127.0.0.1, without telemetry and requests to elsewhere.

    Arguments
    ---------
    asr : EarlyExitASR
        The model.
    port : int or None
        None takes a free one from 7860 up.
    open_browser : bool
        Open it there.
    block : bool
        Wait until it is stopped; False gives the page's address at once.

    Returns
    -------
    str
        The address.
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
