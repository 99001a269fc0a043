"""Small exit tables of made-up speech: later layers make fewer errors, signals know a little about them."""

import numpy as np
import pytest

from eeasr_modules.exits import ExitTable

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero"]
EXITS = (2, 4, 6, 8)


def spoken_table(
    name="test",
    *,
    seed=0,
    n=60,
    n_speakers=10,
    layers=EXITS,
    label="in_domain",
    signals=("entropy",),
    macs=True,
    references=True,
    digest="model-a",
):
    """An exit table of random digits, each exit with its own errors."""
    rng = np.random.default_rng(seed)
    spoken = [[WORDS[i] for i in rng.integers(len(WORDS), size=rng.integers(2, 9))] for _ in range(n)]
    hard = rng.gamma(2.0, 0.5, n)
    rate = np.minimum(0.9, hard[:, None] * 0.6 * np.exp(-np.array(layers) / 3.0) + 0.04)  # (n, exits)
    wrong = lambda words, p: " ".join(w if rng.random() > p else WORDS[rng.integers(10)] for w in words)  # noqa: E731
    hypotheses = [[wrong(words, p) for p in row] for words, row in zip(spoken, rate)]
    seconds = np.array([0.5 + 0.4 * len(words) for words in spoken])
    up_to = 1e7 * seconds[:, None] * (3.0 + np.array(layers))
    table = ExitTable.from_hypotheses(
        hypotheses,
        [" ".join(words) for words in spoken],
        utt_ids=[f"{name}-{i}" for i in range(n)],
        speakers=[f"speaker{i % n_speakers}" for i in range(n)],
        exit_layers=layers,
        duration_s=seconds,
        n_frames=(25 * seconds).astype(int),
        signals={signal: rate + 0.05 * rng.normal(size=rate.shape) for signal in signals},
        cost_macs=up_to if macs else None,
        head_macs=1e6 * seconds[:, None] * np.ones(len(layers)) if macs else None,
        metadata={
            "set_name": name,
            "set_label": label,
            "manifest_digest": f"manifest of {name}",
            "model_digest": digest,
            "n_layers": layers[-1],
            "seed": 7,
        },
    )
    return table if references else table.without_references()


@pytest.fixture(scope="session")
def make_table():
    """The maker of tables."""
    return spoken_table
