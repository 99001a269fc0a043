"""From shell to text: `eeasr transcribe` of one short recording, in a process of its own, beside a pipeline's.

    python benchmarks/cold_start.py RECORDING [--checkpoint FOLDER] [--repeats 5] [--out results/cold-start/README.md]

Ways take turns; the first round fills the disk's cache and does not count. Wall clock from the process's start to its
end, and its largest memory. "import torch" is what nothing here goes below. `--checkpoint`: of transformers, such as
the one that the shipped model's encoder is of, run by `pipeline("automatic-speech-recognition")`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import wait_passively  # noqa: E402

wait_passively()

from eeasr_modules.common.files import write_aside  # noqa: E402
from eeasr_modules.models.device import isa, processor  # noqa: E402
from eeasr_modules.report.render.markdown import markdown_table  # noqa: E402

PIPELINE = """
import sys, soundfile
from eeasr_modules.compat import ensure_torchaudio
ensure_torchaudio()  # without it transformers does not start beside a torch for CPUs
from transformers import pipeline
wav, rate = soundfile.read(sys.argv[2], dtype="float32")
print(pipeline("automatic-speech-recognition", sys.argv[1])({"raw": wav, "sampling_rate": rate})["text"])
"""


def run(argv: list[str]) -> tuple[float, float]:
    """Seconds and MB of one process; its threads are one, and what it compiled before is kept, as installed.

    Raises
    ------
    ValueError
        If it fails.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise ValueError(f"{argv[:3]} must run, it ended with status {status}: {said.strip()[-300:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Measure and print, or write with `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording")
    parser.add_argument("--checkpoint")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    shipped = str(ROOT / "eeasr_modules" / "shipped" / "base")
    ways = {
        "import torch": ["-c", "import torch"],
        "eeasr transcribe": ["-m", "eeasr_modules.cli", "transcribe", shipped, options.recording],
    }
    if options.checkpoint:
        ways["pipeline of transformers"] = ["-c", PIPELINE, options.checkpoint, options.recording]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, argv in ways.items():
            measured = run(argv)
            if repeat:
                found[name].append(measured)
    rows = []
    for name, values in found.items():
        seconds, memory = zip(*values)
        middle = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        rows.append([name, middle, f"{statistics.median(memory):.0f}"])
    import soundfile
    import torch

    heard = soundfile.info(options.recording).duration
    table = markdown_table(["way", "seconds, wall (range)", "largest memory, MB"], rows)
    about = f"{date.today()}, {processor()} ({isa()}), torch {torch.__version__}, one thread, {heard:.1f} s of audio, "
    about += f"{options.repeats} rounds."
    command = "    python benchmarks/cold_start.py RECORDING --checkpoint FOLDER"
    text = "\n\n".join(["# From shell to text", command, about, table]) + "\n"
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_aside(options.out, text)


if __name__ == "__main__":
    main()
