"""Tables with words in them: each exit spells fewer words wrong than the one before."""

import numpy as np

from eeasr_modules.exits.measure.fusion import fused_table
from eeasr_modules.exits.tables.table import ExitTable

WORDS = [
    *("the", "a", "of", "and", "to", "in", "he", "was", "that", "it", "his", "her", "with", "as", "had", "for", "she"),
    *("not", "at", "but", "be", "on", "they", "have", "him", "which", "little", "house", "water", "morning", "night"),
    *("people", "letter", "country", "garden", "window", "soldier", "evening", "question"),
]


def misspelled(word: str, rng: np.random.Generator) -> str:
    """A word with one letter replaced."""
    at = int(rng.integers(len(word)))
    return word[:at] + "qxzjkv"[int(rng.integers(6))] + word[at + 1 :]


def sentence_table(
    seed: int = 0, *, n: int = 80, layers=(2, 4, 6, 8), n_speakers: int = 12, name: str = "dev", entropy: bool = True
) -> ExitTable:
    """A table whose utterances differ in how soon their words come out right; entropy follows the errors."""
    rng = np.random.default_rng(seed)
    references, hypotheses = [], []
    for _ in range(n):
        said = [WORDS[int(i)] for i in rng.integers(len(WORDS), size=int(rng.integers(4, 14)))]
        hardness = rng.uniform(0, 1, len(said)) * rng.uniform(0.3, 1.3)
        wrong = [misspelled(word, rng) for word in said]
        rows = []
        for k in range(len(layers)):
            bad = hardness > (k + 1) / (len(layers) + 0.5)
            rows.append(" ".join(w if b else s for s, w, b in zip(said, wrong, bad)))
        references.append(" ".join(said))
        hypotheses.append(rows)
    duration = [0.4 * len(text.split()) for text in references]
    wrong_words = np.array(
        [[sum(a != b for a, b in zip(r.split(), h.split())) for h in row] for r, row in zip(references, hypotheses)]
    )
    noise = rng.gamma(2.0, 0.05, wrong_words.shape)
    return ExitTable.from_hypotheses(
        hypotheses,
        references,
        utt_ids=[f"s{i % n_speakers}-{i}" for i in range(n)],
        speakers=[f"s{i % n_speakers}" for i in range(n)],
        exit_layers=layers,
        duration_s=duration,
        n_frames=[int(50 * one) for one in duration],
        signals={"entropy": 0.05 * wrong_words + noise} if entropy else None,
        metadata={"set_name": name, "set_label": "in_domain", "seed": 5, "n_layers": layers[-1]},
    )


def unsettled_table(seed: int, n: int, **options) -> ExitTable:
    """A table whose later exits spoil some words that were right before: what fusion mends."""
    table, rng = sentence_table(seed, n=n, **options), np.random.default_rng(seed)
    texts = table.hypotheses.copy()
    for row in texts:
        for k in (1, 2, 3):
            row[k] = " ".join(misspelled(w, rng) if rng.uniform() < 0.08 else w for w in row[k].split())
    return fused_table(table, texts, output="exits")
