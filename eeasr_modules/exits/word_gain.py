"""Learned optimal stopping, word by word: what going on would still correct in each word of the transcript.

Boosted trees predict, from what a word looks like and how it came about (`word_features`), how many errors a later
exit would remove in the word's place. Summed over the words of an utterance, for a few distances of the later exit,
these are the *word gains*. A ridge regression on word gains per second and a few signals of the utterance predicts
what each later exit would gain per second; from there on it is as in `gain`: the best later exit per layer and
second against one price.

Trees are fitted in parts: each part of the speakers is predicted by trees of the other parts, and the regression is
fitted on these predictions (stacking, Wolpert 1992). The trees of all parts together, averaged, are the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eeasr_modules.exits.fitted import common_exits, described
from eeasr_modules.exits.gain import exit_position, lookahead, weighted_sum
from eeasr_modules.exits.table import ExitTable
from eeasr_modules.exits.trees import Trees
from eeasr_modules.exits.word_features import WORD_SIGNALS, feature_names, word_features
from eeasr_modules.exits.word_gain_fit import fit_word_gain
from eeasr_modules.exits.word_spelling import common_language, word_spelling


@dataclass(frozen=True, eq=False)
class WordGainModel:
    """Predictions of what each later exit would gain, from every word of the transcript.

    Arguments
    ---------
    name : str
        Such as "gain_words".
    signals : tuple of str
        Signals of utterances.
    word_signals : tuple of str
        Signals of words, of `WORD_SIGNALS`; may be empty.
    language : str
        Whose words are looked up.
    exit_layers : tuple of int
        Exits, from 1, rising.
    steps : tuple of int
        How many exits ahead each of the trees looks (the last exit where there are fewer).
    trees : tuple of Trees
        One for each of `steps`.
    weights : np.ndarray of shape (n_exits, n_exits, n_signals + n_steps)
        Of each signal and each word gain per second, for exit k (axis 0) and a later exit j (axis 1).
    intercepts : np.ndarray of shape (n_exits, n_exits)
        Errors removed per second.
    model_digest : str or None
        See `FittedModel`.
    fitted_on : dict
        Of `described`.
    """

    name: str
    signals: tuple[str, ...]
    word_signals: tuple[str, ...]
    language: str
    exit_layers: tuple[int, ...]
    steps: tuple[int, ...]
    trees: tuple[Trees, ...]
    weights: np.ndarray
    intercepts: np.ndarray
    model_digest: str | None = None
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, n_columns = len(self.exit_layers), len(self.signals) + len(self.steps)
        for what, shape in (("weights", (n, n, n_columns)), ("intercepts", (n, n))):
            value = np.asarray(getattr(self, what), dtype=np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{what} of {self.name} must be finite and of shape {shape}, got {value.shape}")
            object.__setattr__(self, what, value)
        if len(self.trees) != len(self.steps):
            raise ValueError(f"{self.name} must have trees for each of {len(self.steps)} steps, got {len(self.trees)}")

    @classmethod
    def fit(cls, tables: Sequence[ExitTable], *, name: str, signals: tuple[str, ...]) -> "WordGainModel":
        """Fit on dev tables.

        Signals of words are used where all tables have them and the name does not end in `_text`.

        Arguments
        ---------
        tables : sequence of ExitTable
            Dev data, all with the same exits, with references.
        name : str
            What the model is called.
        signals : tuple of str
            Stored or derived.

        Returns
        -------
        WordGainModel

        Raises
        ------
        ValueError
            When exits differ, or a table lacks a signal, its references, or any word.
        """
        return cls.fit_scored(tables, name=name, signals=signals)[0]

    @classmethod
    def fit_scored(
        cls, tables: Sequence[ExitTable], *, name: str, signals: tuple[str, ...]
    ) -> tuple["WordGainModel", list[np.ndarray]]:
        """Fit on dev tables, and score them by parts of the model that never saw the speaker.

        Arguments
        ---------
        tables : sequence of ExitTable
            As for `fit`.
        name : str
            As for `fit`.
        signals : tuple of str
            As for `fit`.

        Returns
        -------
        tuple of (WordGainModel, list of np.ndarray of shape (n_utterances, n_exits))
            Scores of each table, 0 in the last column: what a threshold can be chosen by.
        """
        exit_layers, digest = common_exits(tables)
        shared = tuple(one for one in WORD_SIGNALS if all(one in table.word_lists for table in tables))
        word_signals = () if name.endswith("_text") else shared
        fitted = fit_word_gain(tables, signals=signals, word_signals=word_signals)
        model = cls(
            name=name,
            signals=tuple(signals),
            word_signals=word_signals,
            language=common_language(tables),
            exit_layers=exit_layers,
            steps=fitted.steps,
            trees=fitted.trees,
            weights=fitted.weights,
            intercepts=fitted.intercepts,
            model_digest=digest,
            fitted_on=described(tables),
        )
        return model, fitted.scores

    @property
    def needs(self) -> tuple[str, ...]:
        """The signals, the transcript, its seconds, and the exit's layer."""
        return (*self.signals, *self.word_signals, "hypothesis", "duration_s", "exit_layer")

    def start(self, n: int) -> np.ndarray:
        """What the exits passed left: None, of shape (n, 1)."""
        return np.full((n, 1), None, dtype=object)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Best predicted gain per second and layer of going on, of shape (n,), and what this exit leaves."""
        n = len(state)
        k = exit_position(signals["exit_layer"], self.exit_layers)
        features, utterance, passed = word_features(
            [text.split() for text in signals["hypothesis"]],
            state[:, 0],
            exit_index=k,
            scalars={one: signals[one] for one in self.signals},
            word_signals={one: signals[one] for one in self.word_signals},
            spelling=word_spelling(self.language),
        )
        seconds = np.asarray(signals["duration_s"], dtype=np.float64)
        columns = [signals[one] for one in self.signals]
        columns += [np.bincount(utterance, trees.predict(features), minlength=n) / seconds for trees in self.trees]
        gains = weighted_sum(columns, self.weights[k, k + 1 :], self.intercepts[k, k + 1 :])
        left = np.empty((n, 1), dtype=object)
        left[:, 0] = passed
        return lookahead(gains, k, exit_layers=self.exit_layers), left

    def content(self) -> dict[str, Any]:
        """All but the trees."""
        return {
            "signals": list(self.signals),
            "word_signals": list(self.word_signals),
            "language": self.language,
            "steps": list(self.steps),
            "weights": self.weights.tolist(),
            "intercepts": self.intercepts.tolist(),
            "features": list(feature_names(self.signals, self.word_signals)),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The trees."""
        parts = [trees.arrays(f"step_{step}_") for step, trees in zip(self.steps, self.trees)]
        return {name: array for part in parts for name, array in part.items()}

    @classmethod
    def from_content(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "WordGainModel":
        """The model that `content` and `arrays` describe.

        Arguments
        ---------
        content : mapping
            Of `content`, with name, exit_layers, model_digest and fitted_on added by the file.
        arrays : mapping
            Of `arrays`.

        Returns
        -------
        WordGainModel

        Raises
        ------
        ValueError
            When the file's features are not those of this version, or trees are missing.
        """
        signals, word_signals = tuple(content["signals"]), tuple(content["word_signals"])
        if tuple(content["features"]) != feature_names(signals, word_signals):
            raise ValueError(
                f"{content['name']} was fitted on other features of words than this version computes; fit it again"
            )
        steps = tuple(content["steps"])
        return cls(
            name=content["name"],
            signals=signals,
            word_signals=word_signals,
            language=content["language"],
            exit_layers=tuple(content["exit_layers"]),
            steps=steps,
            trees=tuple(Trees.from_arrays(arrays, f"step_{step}_") for step in steps),
            weights=np.array(content["weights"]),
            intercepts=np.array(content["intercepts"]),
            model_digest=content["model_digest"],
            fitted_on=content["fitted_on"],
        )
