"""A training step alone and beside a second training on the same cores, with waiting threads that spin or sleep.

    python benchmarks/beside.py [--rounds 5] [--seconds 8]       measure, save, write the table
    python benchmarks/beside.py --write                          the table again, from what was saved

Two trainings of the shipped model's shape (random weights, noise) run for each way of waiting, each with as many
threads as there are cores, in processes of their own. A round times, for each way, one of them alone and both together;
the others stand. Ways are libgomp's own (OMP_WAIT_POLICY unset: threads spin for a while) and PASSIVE, this project's
default.
Saves `results/beside/beside.json` and writes the table in `docs/benchmark.md`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eeasr_modules.compat import ensure_torchaudio  # noqa: E402
from eeasr_modules.report.render.markdown import markdown_table, number  # noqa: E402

SAVED = ROOT / "results" / "beside" / "beside.json"
PAGE = ROOT / "docs" / "benchmark.md"
BEGIN, END = "<!-- beside: written by benchmarks/beside.py -->", "<!-- /beside -->"
WAYS = {"unset": None, "PASSIVE": "PASSIVE"}
QUIET = 0.5  # load below which nothing else ran
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def train(threads: int) -> None:
    """A worker: trains for the seconds that each line on standard input names, and prints ms of its steps."""
    import torch  # before `ensure_torchaudio`, which sets PASSIVE where nothing is: the environment alone decides here

    ensure_torchaudio()
    from eeasr_modules.models import MultiExit
    from eeasr_modules.training.objectives import exit_ctc_losses

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = MultiExit(json.loads((ROOT / "eeasr_modules/shipped/base/config.json").read_text(encoding="utf-8"))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    wavs, n_samples = torch.randn(4, 32000), torch.full((4,), 32000)
    tokens, n_tokens = torch.randint(1, 29, (4, 20)), torch.full((4,), 20)

    def step() -> float:
        start = time.perf_counter()
        log_probs, n_frames = model(wavs, n_samples)
        exit_ctc_losses(log_probs, n_frames, tokens, n_tokens, blank_index=0).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return 1000 * (time.perf_counter() - start)

    step()
    print(json.dumps({"ready": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability()}), flush=True)
    for line in sys.stdin:
        end, times = time.perf_counter() + float(line), [step()]
        while time.perf_counter() < end:
            times.append(step())
        print(json.dumps(times[1:] or times), flush=True)


class Training:
    """A second process that trains when it is told to.

    Arguments
    ---------
    way : str
        A key of `WAYS`.
    threads : int
        Of torch.
    """

    def __init__(self, way: str, threads: int):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment["OMP_NUM_THREADS"] = str(threads)
        if WAYS[way] is not None:
            environment["OMP_WAIT_POLICY"] = WAYS[way]
        command = [sys.executable, __file__, "--train", str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self.said = json.loads(self.process.stdout.readline())

    def start(self, seconds: float) -> None:
        """Let it train."""
        print(seconds, file=self.process.stdin, flush=True)

    def times(self) -> list[float]:
        """Milliseconds of the steps since `start`, once it is through."""
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.wait()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """What is saved: the machine, and each round's medians in milliseconds."""
    before = os.getloadavg()[0]
    pairs = {way: [Training(way, options.threads) for _ in range(2)] for way in WAYS}
    rounds = []
    for number_of in range(options.rounds):
        print(f"round {number_of + 1} of {options.rounds} ...", file=sys.stderr)
        rounds.append({way: _alone_and_beside(pair, options.seconds) for way, pair in pairs.items()})
    said = pairs["PASSIVE"][0].said
    for pair in pairs.values():
        for one in pair:
            one.stop()
    return {
        "date": str(date.today()),
        "cpu": _cpu(),
        "isa": said["isa"],
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "torch": said["ready"],
        "cores": os.cpu_count(),
        "threads": options.threads,
        "load_before": round(before, 2),
        "seconds": options.seconds,
        "rounds": rounds,
    }


def _alone_and_beside(pair: list[Training], seconds: float) -> dict[str, float]:
    pair[0].start(seconds)
    alone = pair[0].times()
    for one in pair:
        one.start(seconds)
    beside = [ms for one in pair for ms in one.times()]
    return {"alone_ms": round(statistics.median(alone), 1), "beside_ms": round(statistics.median(beside), 1)}


def _cpu() -> dict[str, Any]:
    """Name of the processor, and those of `FLAGS` that it has; empty where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"name": "unknown", "flags": []}
    said = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = said.get("flags", "").split()
    return {"name": said.get("model name", "unknown"), "flags": [flag for flag in FLAGS if flag in flags]}


def text(saved: dict[str, Any]) -> str:
    """Everything between the page's two marks, from what was saved."""
    cpu, load = saved["cpu"], saved["load_before"]
    busy = f"Other work ran on the machine, load {load:g}, so *alone* was beside that."
    said = (
        f"{saved['date']}, {saved['cores']} cores of {cpu['name']}, torch {saved['torch']}, {saved['threads']} threads "
        f"a process; medians of {len(saved['rounds'])} interleaved rounds (least to most). "
        + (busy if load >= QUIET else "The machine did nothing else.")
    )
    header = ["OMP_WAIT_POLICY", "alone, ms a step", "beside a second training, ms a step", "beside / alone"]
    return "\n\n".join([BEGIN, said, markdown_table(header, [_row(way, saved["rounds"]) for way in WAYS]), END])


def _row(way: str, rounds: list[dict]) -> list[str]:
    alone, beside = ([one[way][part] for one in rounds] for part in ("alone_ms", "beside_ms"))
    ratios = [b / a for a, b in zip(alone, beside, strict=True)]
    return [way, *(_spread(values, digits) for values, digits in ((alone, 0), (beside, 0), (ratios, 2)))]


def _spread(values: list[float], digits: int) -> str:
    middle, *ends = (number(value, digits) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({' to '.join(ends)})"


def written(page: str, saved: dict[str, Any]) -> str:
    """The page with its region renewed.

    Raises
    ------
    ValueError
        If the page lacks the two marks.
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"expected the marks '{BEGIN}' and '{END}' in {PAGE.name}: put them back")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return before + text(saved) + after


def main() -> None:
    """Measure, save and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--write", action="store_true", help="only write the table again")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train)
        return
    if not options.write:
        SAVED.parent.mkdir(parents=True, exist_ok=True)
        SAVED.write_text(json.dumps(measured(options), indent=1) + "\n", encoding="utf-8")
    saved = json.loads(SAVED.read_text(encoding="utf-8"))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), saved), encoding="utf-8")
    print(text(saved))


if __name__ == "__main__":
    main()
