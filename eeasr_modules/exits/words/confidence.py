"""How probable it is that a recognised word is right: a map from what an exit says, fitted per exit on dev.

A head's own confidence in a word is the mean probability of its best tokens: 0.8 of a misspelled word, and something
else at every exit. The map is a logistic regression per exit on the log odds of that confidence, on whether word lists
have the word, and on the same of the utterance as a whole (Platt 1999, "Probabilistic outputs for support vector
machines", with more than one input). Its outputs are comparable across exits: `results/words`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eeasr_modules.common.files import write_aside
from eeasr_modules.exits.measure.edits import matched_words
from eeasr_modules.exits.words.resources import WordResources, word_resources

MAP_FILE = "confidence.json"
SCHEMA_VERSION = 1
FEATURES = (
    "log odds of the word's confidence",
    "word is known",
    "log odds of a known word",
    "mean log odds of the utterance",
    "share of known words in the utterance",
    "that share for a known word",
    "that share squared",
    "log of the number of words",
)
LEAST_CONFIDENCE = 1e-4  # and 1 minus it: log odds stay finite
LEAST_OF_A_KIND = 20  # right words, and wrong ones, at every exit


@dataclass(frozen=True, eq=False)
class ConfidenceMap:
    """From confidences to probabilities that words are right. ValueError when shapes do not fit."""

    exit_layers: tuple[int, ...]  # the model's exits
    weights: np.ndarray  # (n_exits, n_features), of `FEATURES`, per exit
    offsets: np.ndarray  # (n_exits,), log odds where all features are 0
    language: str = "en"  # of the word lists
    model_digest: str = ""  # of the model it was fitted for
    # n_utterances, n_words: it was fitted on; words of all exits
    n_utterances: int = 0
    n_words: int = 0

    def __post_init__(self):
        expected = (len(self.exit_layers), len(FEATURES))
        if self.weights.shape != expected or self.offsets.shape != expected[:1]:
            raise ValueError(
                f"a confidence map of {expected[0]} exits needs weights of shape {expected} and as many offsets as "
                f"exits, got {self.weights.shape} and {self.offsets.shape}: fit it again (eeasr confidence)"
            )

    def probabilities(self, words: Sequence[str], confidences: Sequence[float], *, exit_layer: int) -> np.ndarray:
        """How probable it is that each word of one utterance at an exit is right; shape (n_words,), 0 to 1.

        `confidences` are the mean probabilities of their best tokens. ValueError when the exit is none of the model's.
        """
        if exit_layer not in self.exit_layers:
            raise ValueError(f"the confidence map has the exits {[*self.exit_layers]}, got layer {exit_layer}")
        e = self.exit_layers.index(exit_layer)
        values = word_confidence_features(words, confidences, resources=word_resources(self.language))
        return 1 / (1 + np.exp(-(values @ self.weights[e] + self.offsets[e])))

    def write(self, path: str | Path) -> None:
        """Write it as JSON, aside and renamed."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "model_digest": self.model_digest,
            "language": self.language,
            "n_utterances": self.n_utterances,
            "n_words": self.n_words,
            "features": FEATURES,
            "exit_layers": self.exit_layers,
            "offsets": np.round(self.offsets, 6).tolist(),
            "weights": np.round(self.weights, 6).tolist(),
        }
        write_aside(path, json.dumps(content, indent=1) + "\n")


def read_confidence_map(path: str | Path) -> ConfidenceMap:
    """The map that `ConfidenceMap.write` left. ValueError when it holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION or tuple(content["features"]) != FEATURES:
            raise ValueError(f"its schema_version is {content['schema_version']}, this program reads {SCHEMA_VERSION}")
        return ConfidenceMap(
            tuple(content["exit_layers"]),
            np.array(content["weights"], dtype=np.float64),
            np.array(content["offsets"], dtype=np.float64),
            language=content["language"],
            model_digest=content["model_digest"],
            n_utterances=content["n_utterances"],
            n_words=content["n_words"],
        )
    except (ValueError, KeyError, TypeError) as err:
        raise ValueError(f"'{path}' is not a confidence map ({err!r}): fit it again (eeasr confidence)") from err


def word_confidence_features(
    words: Sequence[str], confidences: Sequence[float], *, resources: WordResources
) -> np.ndarray:
    """What the map reads of one utterance; shape (n_words, n_features), in the order of `FEATURES`."""
    inside = np.clip(np.asarray(confidences, dtype=np.float64), LEAST_CONFIDENCE, 1 - LEAST_CONFIDENCE)
    odds = np.log(inside / (1 - inside))
    known = np.array([resources.is_seen(word) for word in words], dtype=np.float64)
    n = len(words)
    share = np.full(n, known.mean() if n else 0.0)
    mean_odds = np.full(n, odds.mean() if n else 0.0)
    length = np.full(n, np.log(max(n, 1)))
    return np.stack([odds, known, known * odds, mean_odds, share, share * known, share**2, length], axis=1)


def fit_confidence_map(
    heard: Sequence[Sequence[tuple[Sequence[str], Sequence[float]]]],
    references: Sequence[str],
    *,
    exit_layers: Sequence[int],
    language: str = "en",
    model_digest: str = "",
) -> ConfidenceMap:
    """A map fitted on utterances whose words are known.

    ValueError when an exit has too few right or wrong words to learn from. `heard` (n_utterances, n_exits): words and
    their confidences.
    """
    from sklearn.linear_model import LogisticRegression

    resources = word_resources(language)
    weights, offsets, n_words = [], [], 0
    for e, layer in enumerate(exit_layers):
        values = [word_confidence_features(*exits[e], resources=resources) for exits in heard]
        flags = [matched_words(said.split(), exits[e][0])[1] for exits, said in zip(heard, references, strict=True)]
        features, right = np.concatenate(values), np.concatenate(flags)
        n_right, n_wrong = int(right.sum()), int((~right).sum())
        if min(n_right, n_wrong) < LEAST_OF_A_KIND:
            raise ValueError(
                f"the exit after layer {layer} has {n_right} right and {n_wrong} wrong words, a map needs "
                f"{LEAST_OF_A_KIND} of each: give more utterances with references"
            )
        fit = LogisticRegression(C=1.0, max_iter=3000).fit(features, right)
        weights.append(fit.coef_[0])
        offsets.append(fit.intercept_[0])
        n_words += len(right)
    return ConfidenceMap(
        tuple(int(layer) for layer in exit_layers),
        np.array(weights),
        np.array(offsets),
        language=language,
        model_digest=model_digest,
        n_utterances=len(heard),
        n_words=n_words,
    )
