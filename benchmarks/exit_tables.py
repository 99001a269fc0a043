"""How fast exit tables are worked through, at the size of two test sets and far above.

    python benchmarks/exit_tables.py [--repeats 5] [--large]

Synthetic tables (no audio, no transcripts worth reading), one thread; prints a Markdown table of medians (seconds that
passed, and seconds of the processor: other work may run beside) and the peak memory of the process. `--large` adds
100,000 utterances with 24 exits.
"""

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from eeasr_modules.exits import choose, exit_costs, oracle_c, parse_policy, policy_curve, replay, static_line  # noqa: E402
from eeasr_modules.exits.tables.table import ExitTable  # noqa: E402

MANY = 1000  # thresholds


def synthetic_table(n: int, n_exits: int, *, rng: np.random.Generator) -> ExitTable:
    """A table whose later exits make fewer errors and are surer.

    Arguments
    ---------
    n : int
        Utterances.
    n_exits : int
        Exits, after every layer or, with six, every second.
    rng : np.random.Generator
        Source of all numbers.

    Returns
    -------
    ExitTable
        Without readable transcripts.
    """
    layers = np.arange(1, n_exits + 1) * (2 if n_exits == 6 else 1)
    words = rng.integers(3, 40, n)
    rate = 0.4 * 0.85 ** np.arange(n_exits)
    wrong = np.minimum(rng.poisson(words[:, None] * rate), words[:, None])
    seconds = 0.5 + 0.33 * words
    texts = np.full((n, n_exits), "word", dtype=object)
    change = np.clip(rate * rng.gamma(2.0, 0.5, (n, n_exits)), 0.0, 1.0)
    return ExitTable(
        utt_ids=np.array([f"u{i}" for i in range(n)]),
        speakers=np.array([f"s{i % 73}" for i in range(n)]),
        exit_layers=layers,
        hypotheses=texts,
        n_ref_words=words,
        n_sub=wrong,
        n_del=np.zeros_like(wrong),
        n_ins=rng.binomial(2, 0.02, wrong.shape),
        n_ref_chars=5 * words,
        n_char_errors=2 * wrong,
        duration_s=seconds,
        n_frames=(50 * seconds).astype(np.int64),
        cost_layers=seconds[:, None] * layers,
        signals={"entropy": change * rng.uniform(0.8, 1.2, change.shape), "char_change": change},
    )


def jobs(table: ExitTable) -> dict[str, Callable[[], object]]:
    """What is timed, by name.

    Arguments
    ---------
    table : ExitTable
        To work through.
    """
    weights = {"n_ref_words": table.n_ref_words, "weights": table.duration_s}
    errors, costs = table.errors, exit_costs(table)
    return {
        "oracle C": lambda: oracle_c(errors, costs, **weights),
        "static line": lambda: static_line(errors, costs, **weights),
        "replay, one threshold": lambda: replay(parse_policy("entropy(0.1)"), table),
        f"entropy, {MANY} thresholds": lambda: policy_curve(parse_policy("entropy"), table, n_thresholds=MANY),
        f"patience(2), {MANY} thresholds": lambda: policy_curve(parse_policy("patience(2)"), table, n_thresholds=MANY),
        "between(entropy), 200 thresholds and all windows": lambda: choose(
            table, parse_policy("between(entropy)"), budget=0.7
        ),
    }


def seconds_of(job: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median wall and processor time of a job after one run that does not count.

    Arguments
    ---------
    job : callable
        Without arguments.
    repeats : int
        Runs; with 1 the first counts.
    """
    if repeats > 1:
        job()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter(), time.process_time()
        job()
        times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return tuple(statistics.median(column) for column in zip(*times))


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    sizes = [(5559, 6), *([(100_000, 24)] if options.large else [])]
    print("| utterances x exits | what | seconds | of the processor |\n|---|---|---:|---:|")
    for n, n_exits in sizes:
        begun = time.perf_counter(), time.process_time()
        table = synthetic_table(n, n_exits, rng=np.random.default_rng(0))
        times = time.perf_counter() - begun[0], time.process_time() - begun[1]
        print(f"| {n} x {n_exits} | making and checking the table | {times[0]:.3f} | {times[1]:.3f} |")
        for name, job in jobs(table).items():
            times = seconds_of(job, options.repeats if n < 50_000 else 1)
            print(f"| {n} x {n_exits} | {name} | {times[0]:.3f} | {times[1]:.3f} |", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    print(f"\nPeak memory: {peak:.2f} GiB.")


if __name__ == "__main__":
    main()
