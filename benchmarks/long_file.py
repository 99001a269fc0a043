"""Peak memory of transcribing long recordings, beside a stock forward of one piece.

    python benchmarks/long_file.py [--minutes 10,120] [--layer 4] [--precision float32] [--only-long]
        [--model FOLDER]

A wav2vec2-base shape of random weights (its words mean nothing), made audio: noise whose loudness comes and goes, as
16-bit wav. Each row is a process of its own, one thread, and its largest resident memory as the kernel counted it:
transformers' forward of one piece of 30 s; `eeasr transcribe` of 30 s at full depth; and of recordings of so many
minutes whose chunks all leave after `--layer`, so that hours take minutes (`--only-long`: these alone). Prints
Markdown; Linux only. Another model, such as eeasr_modules/shipped/base, shows sooner whether memory grows with length.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

SAMPLE_RATE = 16000
PIECE_S = 30.0
STOCK = """
import sys
from eeasr_modules.compat import ensure_torchaudio
ensure_torchaudio()
import soundfile, torch
from transformers import Wav2Vec2Config, Wav2Vec2Model
torch.set_num_threads(1)
model = Wav2Vec2Model(Wav2Vec2Config()).eval()
wav = torch.from_numpy(soundfile.read(sys.argv[1], dtype="float32")[0])[None]
with torch.inference_mode():
    print(model(wav).last_hidden_state.shape)
"""


def make_audio(path: Path, seconds: float) -> None:
    """Write noise whose loudness comes and goes every few seconds, block by block.

    Arguments
    ---------
    path : Path
        A wav.
    seconds : float
        Length.
    """
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, subtype="PCM_16") as file:
        for start in range(0, int(seconds), 10):
            times = start + np.arange(SAMPLE_RATE * min(10, int(seconds) - start)) / SAMPLE_RATE
            file.write(0.1 * np.sin(times * np.pi / 3.7) ** 2 * rng.standard_normal(len(times)))


def measured(command: list[str]) -> tuple[float, float, float]:
    """GiB at most, seconds of CPU time and seconds of a process.

    Arguments
    ---------
    command : list of str
        Run from the repository's root.

    Raises
    ------
    RuntimeError
        If it fails, with the end of what it said.
    """
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{command[:4]} ended with {process.returncode}: {said.read()[-2000:].decode()}")
    return used.ru_maxrss / 2**20, used.ru_utime + used.ru_stime, time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    from serving import base_shaped

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", default="10,120")
    parser.add_argument("--layer", type=int, default=4)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--only-long", action="store_true")
    parser.add_argument("--model", help="a folder, in place of the base shape of random weights")
    options = parser.parse_args()
    print("| what | audio | peak resident GiB | CPU s per second of audio |")
    print("|---|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or base_shaped(folder)
        wav, out = Path(folder) / "long.wav", Path(folder) / "out.jsonl"

        def row(what: str, seconds: float, command: list[str]) -> None:
            make_audio(wav, seconds)
            gib, cpu_s, _ = measured([sys.executable, *command])
            print(f"| {what} | {seconds / 60:g} min | {gib:.2f} | {cpu_s / seconds:.3f} |", flush=True)
            out.unlink(missing_ok=True)

        transcribe = ["-m", "eeasr_modules.cli", "transcribe", model, str(wav), "-o", str(out)]
        transcribe += ["--precision", options.precision]
        if not options.only_long:
            row("stock forward, 12 layers", PIECE_S, ["-c", STOCK, str(wav)])
            row("`eeasr transcribe`, 12 layers", PIECE_S, [*transcribe, "--policy", "static(12)"])
        for minutes in map(float, options.minutes.split(",")):
            what = f"`eeasr transcribe`, leaving after layer {options.layer}"
            row(what, 60 * minutes, [*transcribe, "--policy", f"static({options.layer})"])


if __name__ == "__main__":
    main()
