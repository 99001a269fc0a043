"""What policies cost, and the signals of text that they read: microseconds per utterance and exit, in batches of 32.

    python benchmarks/policy_cost.py

Transcripts are frequent English words with some letters wrong (18 words each); most of the words have been met before,
as in a running decoder, because word resources remember. One thread, medians of 30 batches, time of the
processor (a busy machine does not count). Signals of acoustics: benchmarks/signal_cost.py.
"""

import argparse
import os
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

from eeasr_modules.exits import parse_policy  # noqa: E402
from eeasr_modules.exits.tables.table import ExitTable  # noqa: E402
from eeasr_modules.exits.tuning.replay import fit_model  # noqa: E402
from eeasr_modules.exits.words.resources import word_resources  # noqa: E402
from eeasr_modules.exits.words.signals import (  # noqa: E402
    lexical_signals,
    text_signals_at_exit,
    uniform,
)

BATCH, N_BATCHES, N_WORDS = 32, 30, 18
LAYERS = (2, 4, 6, 8, 10, 12)


def synthetic_table(n: int, *, rng: np.random.Generator) -> ExitTable:
    """Sentences of frequent words whose letters later exits get right.

    Arguments
    ---------
    n : int
        Utterances.
    rng : np.random.Generator
        Source of all choices.
    """
    from wordfreq import top_n_list

    words = [word for word in top_n_list("en", 5000) if word.isalpha()]
    letters = list("abcdefghijklmnopqrstuvwxyz")

    def heard(word: str, rate: float) -> str:
        return "".join(rng.choice(letters) if rng.random() < rate else letter for letter in word)

    said = [list(rng.choice(words, N_WORDS)) for _ in range(n)]
    rates = 0.12 * 0.5 ** np.arange(len(LAYERS))
    return ExitTable.from_hypotheses(
        [[" ".join(heard(word, rate) for word in row) for rate in rates] for row in said],
        [" ".join(row) for row in said],
        utt_ids=[f"u{i}" for i in range(n)],
        speakers=[f"s{i % 20}" for i in range(n)],
        exit_layers=LAYERS,
        duration_s=np.full(n, 6.0),
        n_frames=np.full(n, 300),
        signals={"entropy": rates + rng.uniform(0, 0.05, (n, len(LAYERS)))},
    )


def microseconds(work: Callable[[int], object]) -> float:
    """Median time of a batch, per utterance.

    Arguments
    ---------
    work : callable
        Takes the number of the batch; every batch is asked once.
    """
    times = []
    for batch in range(N_BATCHES):
        begun = time.process_time()
        work(batch)
        times.append(time.process_time() - begun)
    return 1e6 * statistics.median(times) / BATCH


def step_time(policy: object, table: ExitTable) -> float:
    """Microseconds per utterance of one `step`, at the fourth exit, after the three before it.

    Arguments
    ---------
    policy : policy or fitted model
        Asked as a decoder asks it.
    table : ExitTable
        At least `N_BATCHES` batches.
    """
    states = {}

    def signals(rows: slice, k: int) -> dict[str, np.ndarray]:
        return {name: values[rows, k] for name, values in needed.items()}

    needed = {name: np.ascontiguousarray(table.signal(name)) for name in policy.needs}
    batches = [slice(i * BATCH, (i + 1) * BATCH) for i in range(N_BATCHES)]
    for i, rows in enumerate(batches):
        state = policy.start(BATCH)
        for k in range(3):
            _, state = policy.step(signals(rows, k), state)
        states[i] = state
    return microseconds(lambda i: policy.step(signals(batches[i], 3), states[i]))


def measure() -> dict[str, float]:
    """Microseconds per utterance and exit, by what is done."""
    table, words = synthetic_table(BATCH * N_BATCHES, rng=np.random.default_rng(0)), word_resources("en")
    batches = [slice(i * BATCH, (i + 1) * BATCH) for i in range(N_BATCHES)]
    lexical_signals(table.hypotheses[:, 4], words=words)  # loads the word list, meets most of the words

    def lexical(name: str) -> Callable[[int], object]:
        return lambda i: lexical_signals(table.hypotheses[batches[i], 3], words=words, names=[name])

    times = {
        "`char_change`, `word_change`, lengths": microseconds(
            lambda i: text_signals_at_exit(table.hypotheses[batches[i], 3], table.hypotheses[batches[i], 2])
        ),
        "`uniform`": microseconds(lambda i: uniform(table.utt_ids[batches[i]], 8)),
        **{f"`{name}`": microseconds(lexical(name)) for name in ("rarity", "rare_share", "char_lm")},
    }
    steps = {text: parse_policy(text) for text in ("entropy(0.1)", "patience(2, 0.1)", "between(4, 10, entropy(0.1))")}
    models = {name: fit_model(name, [table.select(np.arange(600))]) for name in ("lexical", "gain", "gain_words")}
    for text, policy in {**steps, **models}.items():
        times[f"deciding: `{text}`"] = step_time(policy, table)
    return times


def main() -> None:
    """Measure and print Markdown."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = [f"| {name} | {value:.1f} |" for name, value in measure().items()]
    print("\n".join(["| signal, or decision once its signals are there | microseconds |", "|---|---:|", *rows]))


if __name__ == "__main__":
    main()
