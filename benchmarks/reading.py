"""Memory and time that reading takes at any sample rate, against 44.1 kHz.

    python benchmarks/reading.py [--seconds 10,60] [--repeats 7] [--record]

Noise as WAV files (16 bit, mono) of each rate. Processor milliseconds per second of audio: of resampling to 16 kHz once
its filter is made, and of reading the file, all in all; medians of interleaved repeats, one thread, and ratios to
44.1 kHz. Above 48 kHz there is more to read in a second, so there the ratio is per sample. The filter is made once per
rate and process. Extra memory: what a fresh process takes at its peak while it reads, without the waveform that comes
out. Linux only. Prints Markdown; `--record` also writes results/reading/README.md.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402

ensure_torchaudio()

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402

from eeasr_modules.data import audio as resampling  # noqa: E402
from eeasr_modules.data.audio import read_audio  # noqa: E402
from eeasr_modules.report.render.markdown import markdown_table  # noqa: E402

BASE = 44100
RATES = [BASE, 4000, 4001, 8000, 11025, 11127, 22050, 22255, 32000, 44056, 44101, 47999, 48000]
RATES += [96000, 96001, 192000, 200003, 383999, 384000]
PEAK = """
import re, sys
import scipy.sparse, torch
from eeasr_modules.data.audio import read_audio
def kb(name): return int(re.search(name + r":\s+(\d+)", open("/proc/self/status").read())[1])
read_audio(sys.argv[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = kb("VmRSS")
wav = read_audio(sys.argv[2])
print((kb("VmHWM") - before) / 1024 - wav.numel() * wav.element_size() / 2**20)
"""


def milliseconds(work) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


def forget_filters() -> None:
    """Let the next call make its filter anew."""
    resampling._kernel.cache_clear()
    resampling._matrix.cache_clear()


def measured(paths: dict[int, Path], *, seconds: float, repeats: int) -> dict[int, tuple[float, float, float]]:
    """Rate -> milliseconds of making the filter, and per second of audio of resampling and of reading."""
    waves = {rate: torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for rate, path in paths.items()}
    found = {rate: ([], [], []) for rate in paths}
    for _ in range(repeats):
        for rate, path in paths.items():
            forget_filters()
            short = waves[rate][:100]
            first = milliseconds(lambda short=short, rate=rate: resampling.resample(short, rate, 16000))
            again = milliseconds(lambda short=short, rate=rate: resampling.resample(short, rate, 16000))
            whole = milliseconds(lambda rate=rate: list(resampling.resampled([waves[rate]], rate, 16000)))
            read = milliseconds(lambda path=path: read_audio(path))
            for times, one in zip(found[rate], (first - again, whole / seconds, read / seconds), strict=True):
                times.append(one)
    return {rate: tuple(map(statistics.median, times)) for rate, times in found.items()}


def extra_mb(path: Path, folder: Path) -> float:
    """Growth of a fresh process' peak memory while it reads a file, without what comes out."""
    warm = folder / "warm.wav"
    soundfile.write(warm, np.zeros(BASE), BASE)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PEAK, str(warm), str(path)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)


def table_of(seconds: float, repeats: int) -> str:
    """Markdown for recordings of one length."""
    rng, rows = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for rate in RATES:
            paths[rate] = Path(folder) / f"{rate}.wav"
            soundfile.write(paths[rate], 0.1 * rng.standard_normal(int(seconds * rate)), rate, subtype="PCM_16")
        times = measured(paths, seconds=seconds, repeats=repeats)
        for rate in sorted(RATES):
            first, resampled, read = times[rate]
            more = max(1.0, rate / 48000)
            ratios = [one / times[BASE][k] / more for k, one in ((1, resampled), (2, read))]
            memory = extra_mb(paths[rate], Path(folder))
            cells = [f"{first:.1f}", f"{resampled:.2f}", f"{ratios[0]:.2f}", f"{read:.2f}", f"{ratios[1]:.2f}"]
            rows.append([f"{rate:,}", *cells, f"{max(0.0, memory):.0f}"])
    header = ["Hz", "filter ms", "resampling ms/s", "to 44.1 kHz", "reading ms/s", "to 44.1 kHz", "extra MB"]
    return markdown_table(header, rows)


def main() -> None:
    """Measure, print, and perhaps record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", default="10,60", help="of audio, lengths apart by commas")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = []
    for seconds in map(float, options.seconds.split(",")):
        parts.append(f"## Recordings of {seconds:g} s\n\n{table_of(seconds, options.repeats)}\n")
    text = "\n".join(parts)
    print(text)
    if options.record:
        about = " ".join(
            __doc__.split("\n\n", 2)[2].replace("Prints Markdown; `--record` also writes", "Written to").split()
        )
        page = ROOT / "results" / "reading" / "README.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        head = (
            "# Reading at any sample rate\n\n    python benchmarks/reading.py --record\n\n"
            f"{about}\n\nMade with torch {torch.__version__} on {platform.machine()}.\n\n"
        )
        page.write_text(head + text, encoding="utf-8")


if __name__ == "__main__":
    main()
