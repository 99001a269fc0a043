"""A page on a training that is under way: losses and word error rates of every exit, epoch by epoch."""

import io
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

_NUMBER = r"[-+0-9.eE]+|nan|inf"
# Whoever reads or listens can hold it still: the box is remembered over reloads of this page in this window.
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@@NAME@@: training</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px system-ui, sans-serif; margin: 1.5em auto; max-width: 62em; padding: 0 1em; }
figure { margin: 1em 0; } svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .3em .7em; text-align: right; border-top: 1px solid #aaa; white-space: nowrap; }
pre { overflow-x: auto; } :focus-visible { outline: 3px solid #0a5aa8; }
</style></head><body><main>
<h1>@@NAME@@</h1>
<p>@@WHERE@@ <label><input type="checkbox" id="renew" checked> renew every @@SECONDS@@ s</label></p>
<h2>Word error rate on validation (%)</h2>
<div class="wide" tabindex="0" role="region" aria-label="Word error rate of every exit">@@TABLE@@</div>
@@PICTURES@@
@@SAID@@
</main><script>
const box = document.getElementById("renew"), key = "eeasr-still";
try { box.checked = !sessionStorage.getItem(key); } catch (error) { /* a browser that keeps nothing of files */ }
box.addEventListener("change", () => {
  try {
    if (box.checked) sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, "1");
  } catch (error) { /* as above */ }
});
setInterval(() => box.checked && location.reload(), 1000 * @@SECONDS@@);
</script></body></html>
"""


def read_train_log(path: Path | str) -> list[dict[str, float]]:
    """Epochs of a `train_log.txt`, later lines of an epoch in place of earlier ones.

    Arguments
    ---------
    path : Path or str
        As SpeechBrain's `FileTrainLogger` writes it.

    Returns
    -------
    list of dict of str to float
        Such as `{"epoch": 3.0, "lr": 0.001, "train loss": 1.5, "valid WER_8": 64.2}`, in order of epochs.

    Raises
    ------
    FileNotFoundError
        Without the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a training's log at '{path}', found none: its first epoch writes it")
    epochs = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        found = {name.strip(): float(value) for name, value in re.findall(rf"([A-Za-z][\w ]*): ({_NUMBER})", line)}
        if "epoch" in found:
            epochs[found["epoch"]] = found
    return [epochs[epoch] for epoch in sorted(epochs)]


def live_page(run: Path | str, *, refresh_s: int = 15) -> str:
    """The page as HTML that reloads itself.

    Arguments
    ---------
    run : Path or str
        The run folder.
    refresh_s : int
        Seconds between reloads.

    Raises
    ------
    FileNotFoundError
        When the run has no log yet.
    """
    run = Path(run)
    epochs = read_train_log(run / "train_log.txt")
    if not epochs:
        raise FileNotFoundError(f"'{run / 'train_log.txt'}' holds no epoch yet")
    last, layers = epochs[-1], _layers(epochs)
    curves = [
        ("Word error rate on validation (%)", [(f"layer {n}", f"valid WER_{n}") for n in layers]),
        ("Validation loss (nats per token)", [(f"layer {n}", f"valid loss_{n}") for n in layers]),
        ("Training loss (nats per token)", [(f"layer {n}", f"train loss_{n}") for n in layers]),
    ]
    pictures = "".join(
        f'<figure role="img" aria-label="{escape(title)}, a line for each exit">{_draw(epochs, title, lines)}</figure>'
        for title, lines in curves
    )
    rates = "".join(f"<td>{last.get(f'valid WER_{n}', float('nan')):.2f}</td>" for n in layers)
    heads = "".join(f'<th scope="col">layer {n}</th>' for n in layers)
    samples = run / "samples.txt"
    said = ""
    if samples.is_file():
        text = samples.read_text(encoding="utf-8")
        said = "<h2>Transcripts after the last epoch</h2>"
        said += f'<pre tabindex="0" role="region" aria-label="Transcripts">{escape(text[text.rfind("epoch ") :])}</pre>'
    table = f"<table><thead><tr>{heads}</tr></thead><tbody><tr>{rates}</tr></tbody></table>"
    parts = {
        "WHERE": f"After epoch {last['epoch']:.0f}; learning rate {last.get('lr', 0):.3g}.",
        "SECONDS": str(refresh_s),
        "TABLE": table,
        "PICTURES": pictures,
        "NAME": escape(run.name),
        "SAID": said,  # last: marks in it are not looked for
    }
    page = _PAGE
    for name, part in parts.items():
        page = page.replace(f"@@{name}@@", part)
    return page


def write_live_page(run: Path | str, *, refresh_s: int = 15) -> Path:
    """Write the page to `live.html` in the run folder; arguments and errors as of `live_page`."""
    path = Path(run) / "live.html"
    aside = path.with_name("live.html.tmp")
    aside.write_text(live_page(run, refresh_s=refresh_s), encoding="utf-8")
    os.replace(aside, path)
    return path


def _layers(epochs: Sequence[dict[str, float]]) -> list[int]:
    found = {int(name.removeprefix("valid WER_")) for one in epochs for name in one if name.startswith("valid WER_")}
    return sorted(found)


def _draw(epochs: Sequence[dict[str, float]], title: str, lines: Sequence[tuple[str, str]]) -> str:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for k, (label, name) in enumerate(lines):
        points = [(one["epoch"], one[name]) for one in epochs if name in one]
        if points:
            colour = colormaps["viridis"](0.9 * k / max(1, len(lines) - 1))
            axes.plot(*zip(*points, strict=True), color=colour, marker="os^D"[k % 4], markersize=3.5, label=label)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Title": title})
    return text.getvalue()[text.getvalue().index("<svg") :]
