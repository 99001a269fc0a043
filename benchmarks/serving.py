"""Requests that come at once: seconds of each, from one shared recogniser and from transformers.

    python benchmarks/serving.py [AUDIO ...] [--model eeasr_modules/shipped/base] [--policies entropy] [--clients 8]
                                 [--rounds 5] [--threads 1] [--out results/serving]

AUDIO as for `eeasr transcribe`; without it the test sentences of recipes/Spoken, so anybody can run it. So many threads
send one recording after the other, each as an array, to one shared recogniser: the forward of transformers with the
last head, ours at full depth, the same one request at a time, ours at the model's first policy and at others. Rounds
are interleaved, their order turns. Writes `serving.json` and, between marks, README.md's table.
"""

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # as train.py does

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from eeasr_modules.common.files import rounded, write_aside  # noqa: E402
from eeasr_modules.models.device import isa, processor  # noqa: E402
from eeasr_modules.report.render.markdown import markdown_table  # noqa: E402
from eeasr_modules.runtime import EarlyExitASR  # noqa: E402
from eeasr_modules.runtime.benchmark.ways import Stock, greedy  # noqa: E402
from eeasr_modules.runtime.files.inputs import read_material  # noqa: E402

BEGIN, END = "<!-- requests: written by benchmarks/serving.py -->", "<!-- /requests -->"


def ways_of(model: str, policies: list[str | None]) -> dict[str, Callable[[np.ndarray], object]]:
    """What answers a request, by name; None is the model's own first policy."""
    first = EarlyExitASR.from_pretrained(model)
    layers = first.engine.model.exit_layers
    full, turn = EarlyExitASR.from_pretrained(model, policy=f"static({layers[-1]})"), threading.Lock()
    forward = Stock(full.engine.model, n_layers=layers[-1])

    def stock(wav: np.ndarray) -> list[str]:
        with torch.inference_mode():
            hidden, n_frames = forward(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))
            return greedy(full.engine, hidden, n_frames, exit_index=len(layers) - 1)

    def in_turn(wav: np.ndarray) -> object:
        with turn:
            return full.transcribe(wav)

    ways = {"transformers, full depth": stock, "ours, full depth": full.transcribe}
    ways["ours, full depth, one at a time"] = in_turn
    for text in policies:
        asr = EarlyExitASR.from_pretrained(model, policy=text) if text else first
        ways[f"ours, `{asr.policy}`"] = asr.transcribe
    return ways


def served(answer: Callable[[np.ndarray], object], wavs: list[np.ndarray], *, n_clients: int) -> dict[str, float]:
    """Percentiles of a request's milliseconds, and requests per second.

    Raises
    ------
    Exception
        The first that a client met.
    """
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for wav in wavs:
        waiting.put(wav)
    taken: list[float] = []
    failed: list[Exception] = []

    def send() -> None:
        try:
            while True:
                wav = waiting.get_nowait()
                start = time.perf_counter()
                answer(wav)
                taken.append(time.perf_counter() - start)
        except queue.Empty:
            return
        except Exception as err:  # told to the caller: a thread's own error is lost
            failed.append(err)

    clients = [threading.Thread(target=send) for _ in range(n_clients)]
    start = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    total = time.perf_counter() - start
    if failed:
        raise failed[0]
    p50, p95 = 1000 * np.percentile(taken, [50, 95])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "requests_per_s": len(taken) / total}


def table(found: dict) -> str:
    """A row per way: medians over rounds, least to most in brackets.

    Arguments
    ---------
    found : dict
        What serving.json holds.
    """
    rows = []
    for way, rounds in found["ways"].items():
        cells = [[one[key] for one in rounds] for key in ("p50_ms", "p95_ms", "requests_per_s")]
        digits = (0, 0, 1)
        rows.append([way])
        for values, n in zip(cells, digits, strict=True):
            rows[-1].append(f"{np.median(values):.{n}f} ({min(values):.{n}f} to {max(values):.{n}f})")
    shown = markdown_table(["answered by", "p50 ms", "p95 ms", "requests/s"], rows)
    return f"{found['about']}\n\n{shown}"


def with_table(page: str, found: dict) -> str:
    """The page, its region written anew."""
    return f"{page.split(BEGIN)[0]}{BEGIN}\n\n{table(found)}\n\n{END}{page.split(END)[1]}"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", metavar="AUDIO", default=[str(ROOT / "recipes/Spoken/corpus/audio/test")])
    parser.add_argument("--model", default=str(ROOT / "eeasr_modules/shipped/base"))
    parser.add_argument("--policies", nargs="*", default=["entropy"], help="beside the model's own first one")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch, for each request")
    parser.add_argument("--out", type=Path, default=ROOT / "results/serving")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ways = ways_of(options.model, [None, *options.policies])
    wavs = [wav.numpy() for wav in read_material(options.inputs, sample_rate=16000).wavs]
    found: dict[str, list] = {way: [] for way in ways}
    names = list(ways)
    for answer in ways.values():
        served(answer, wavs[:16], n_clients=options.clients)  # warm
    for turn in range(options.rounds):
        for way in names[turn % len(names) :] + names[: turn % len(names)]:
            found[way].append(served(ways[way], wavs, n_clients=options.clients))
    seconds = sum(map(len, wavs)) / 16000
    about = (
        f"{date.today().isoformat()}, {os.cpu_count()} cores of {processor()} ({isa()}), torch {torch.__version__}, "
        f"transformers {transformers.__version__}: {Path(options.model).name}, float32, "
        f"{options.clients} clients, torch's threads {options.threads}; {len(wavs)} requests of "
        f"{seconds / len(wavs):.1f} s on average, {options.rounds} interleaved rounds, medians (least to most)."
    )
    content = rounded({"about": about, "ways": found})
    print(table(content))
    write_aside(options.out / "serving.json", json.dumps(content, indent=1) + "\n")
    page = options.out / "README.md"
    write_aside(page, with_table(page.read_text(encoding="utf-8"), content))


if __name__ == "__main__":
    main()
