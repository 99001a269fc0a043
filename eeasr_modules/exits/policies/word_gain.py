"""Learned optimal stopping, word by word: what going on would still correct in each word of the transcript.

Boosted trees predict, from what a word looks like and how it came about (`words.features`), how many errors a later
exit would remove in the word's place. Summed over an utterance these are the *word gains*; a ridge regression on them
and a few signals predicts what each later exit would gain per second, and from there on it is as in `gain`. Fitted on
dev tables, where alone references are read: each part of the speakers is predicted by trees of the other parts
(stacking, Wolpert 1992); the trees of all parts, averaged, are the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eeasr_modules.exits.measure.edits import reference_slots, slot_owners
from eeasr_modules.exits.policies.lexical_gain import STRENGTH, exit_position, lookahead, ridge, signal_of, weighted_sum
from eeasr_modules.exits.policies.protocol import common_exits, described, kept_in_file, nothing_passed
from eeasr_modules.exits.policies.trees import Bins, Trees, mean_of_trees
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds
from eeasr_modules.exits.words.resources import common_language, word_spelling
from eeasr_modules.exits.words.signals import FEATURES, WORD_SIGNALS, feature_names, word_features


@dataclass(frozen=True, eq=False)
class WordGainModel:
    """Predictions of what each later exit would gain, from every word of the transcript."""

    name: str  # such as "gain_words"
    signals: tuple[str, ...]  # signals of utterances
    word_signals: tuple[str, ...]  # signals of words, of `WORD_SIGNALS`; may be empty
    language: str  # whose words are looked up
    exit_layers: tuple[int, ...]  # exits, from 1, rising
    steps: tuple[int, ...]  # how many exits ahead each of the trees looks (the last exit where there are fewer)
    trees: tuple[Trees, ...]  # one for each of `steps`
    # (n_exits, n_exits, n_signals + n_steps), of each signal and each word gain per second, for exit k (axis 0) and a
    # later exit j (axis 1)
    weights: np.ndarray
    intercepts: np.ndarray  # (n_exits, n_exits), errors removed per second
    model_digest: str | None = None  # see `FittedModel`
    fitted_on: Mapping[str, Any] = field(default_factory=dict)  # of `described`

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

        ValueError when exits differ, or a table lacks a signal, its references, or any word.
        """
        return cls.fit_scored(tables, name=name, signals=signals)[0]

    @classmethod
    def fit_scored(
        cls, tables: Sequence[ExitTable], *, name: str, signals: tuple[str, ...]
    ) -> tuple["WordGainModel", list[np.ndarray]]:
        """Fit on dev tables, and score them by parts of the model that never saw the speaker.

        Returns tuple of (WordGainModel, list of np.ndarray of shape (n_utterances, n_exits)): scores of each table, 0
        in the last column: what a threshold can be chosen by.
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
        """What the exits passed left: nothing."""
        return nothing_passed(n)

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

        ValueError when the file's features are not those of this version, or trees are missing.
        """
        signals, word_signals = tuple(content["signals"]), tuple(content["word_signals"])
        steps = tuple(content["steps"])
        return cls(
            signals=signals,
            word_signals=word_signals,
            language=content["language"],
            steps=steps,
            trees=tuple(Trees.from_arrays(arrays, f"step_{step}_") for step in steps),
            weights=np.array(content["weights"]),
            intercepts=np.array(content["intercepts"]),
            **kept_in_file(content, feature_names(signals, word_signals)),
        )


def word_gains(hypotheses: np.ndarray, references: Sequence[str]) -> list[np.ndarray]:
    """Errors that going on to each later exit removes in the place of each word.

    Both transcripts are aligned with the reference, and the difference of their errors in each of its slots goes to
    the word that owns the slot. Summed over the words of an utterance this is the difference of its errors, unless
    its transcript is empty.

    Returns list of np.ndarray of shape (n_words, n_exits): for each exit but the last, the words of all utterances one
    after the other; 0 for exits before it. `hypotheses` (n_utterances, n_exits); `references` (n_utterances,).

    Example
    -------
    >>> word_gains(np.array([["the kat sat", "the cat sat"]], dtype=object), ["the cat sat"])
    [array([[0., 0.],
           [0., 1.],
           [0., 0.]])]
    """
    n_exits = hypotheses.shape[1]
    gains: list[list[np.ndarray]] = [[] for _ in range(n_exits - 1)]
    for texts, reference in zip(hypotheses, references):
        reference_words = reference.split()
        slots = [reference_slots(reference_words, text.split()) for text in texts]
        errors = np.stack([one.errors for one in slots], axis=1)  # (n_slots, n_exits)
        for k in range(n_exits - 1):
            removed = errors[:, k, None] - errors
            removed[:, :k] = 0.0
            of_words = np.zeros((len(slots[k].of_word), n_exits))
            if len(of_words):
                np.add.at(of_words, slot_owners(slots[k]), removed)
            gains[k].append(of_words)
    return [np.concatenate(rows) if rows else np.zeros((0, n_exits)) for rows in gains]


N_PARTS = 3
# one word's error can hide several; rare extremes would bend the trees
LEAST_GAIN, MOST_GAIN = -2.0, 3.0
# of the words that stood unchanged among unchanged neighbours and are common, one in four is fitted on, for four
EASY_ZIPF = 3.5
EASY_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class WordGainFit:
    """What is fitted."""

    steps: tuple[int, ...]  # how many exits ahead each of the trees looks
    trees: tuple[Trees, ...]  # one for each of `steps`
    # weights, intercepts: of the regression; see `WordGainModel`
    weights: np.ndarray
    intercepts: np.ndarray
    # (n_utterances, n_exits), of each table, by parts of the model that never saw the speaker; 0 in the last column
    scores: list[np.ndarray]


def fit_word_gain(tables: Sequence[ExitTable], *, signals: Sequence[str], word_signals: Sequence[str]) -> WordGainFit:
    """Trees and regression, fitted on dev tables."""
    rows = _Rows.of(tables, signals=signals, word_signals=word_signals)
    exit_layers = tables[0].exit_layers
    steps = _steps(len(exit_layers))
    trees, gains = _fit_trees(rows, steps)
    columns = _columns(rows, gains)
    scores = np.zeros(rows.errors.shape)
    for part in range(N_PARTS):
        held_out = rows.part == part
        weights, intercepts = _fit_ridge(rows, columns, ~held_out)
        for k in range(len(exit_layers) - 1):
            later = weighted_sum(columns[k][held_out].T, weights[k, k + 1 :], intercepts[k, k + 1 :])
            scores[held_out, k] = lookahead(later, k, exit_layers=exit_layers)
    weights, intercepts = _fit_ridge(rows, columns, np.ones(len(rows.part), dtype=bool))
    ends = np.cumsum([table.n_utterances for table in tables])[:-1]
    return WordGainFit(steps, trees, weights, intercepts, np.split(scores, ends))


@dataclass(frozen=True, eq=False)
class _Rows:
    """All utterances of the dev tables, one after the other, and by exit all their words."""

    part: np.ndarray  # (n_utterances,)
    errors: np.ndarray  # (n_utterances, n_exits)
    seconds: np.ndarray  # (n_utterances, n_exits)
    signals: np.ndarray  # (n_utterances, n_exits, n_signals)
    features: list[np.ndarray]  # per exit but the last (n_words, n_features)
    utterance: list[np.ndarray]  # per exit but the last (n_words,)
    gains: list[np.ndarray]  # per exit but the last (n_words, n_exits)

    @classmethod
    def of(cls, tables: Sequence[ExitTable], *, signals: Sequence[str], word_signals: Sequence[str]) -> "_Rows":
        for table in tables:
            if table.references is None:
                raise ValueError(
                    f"word gains are fitted on references, and the table of {table.metadata.get('set_name')} has none"
                )
        joined = {
            name: np.concatenate([signal_of(table, name) for table in tables]) for name in (*signals, "duration_s")
        }
        common_language(tables)
        words = np.concatenate([_words_of(table, tuple(signals), tuple(word_signals)) for table in tables])
        features, gains = ([np.concatenate(words[:, k, what]) for k in range(words.shape[1])] for what in (0, 1))
        if not sum(map(len, features)):
            raise ValueError("word gains need words, and all transcripts of the dev tables are empty")
        n_words = np.array([[len(one) for one in row] for row in words[:, :, 0]], dtype=np.int64)
        return cls(
            part=np.concatenate([speaker_folds(table, N_PARTS, seed=1) for table in tables]),
            errors=np.concatenate([table.errors for table in tables]),
            seconds=joined["duration_s"],
            signals=np.stack([joined[name] for name in signals], axis=2),
            features=features,
            utterance=[np.repeat(np.arange(len(words)), n) for n in n_words.T],
            gains=gains,
        )


def _words_of(table: ExitTable, signals: tuple[str, ...], word_signals: tuple[str, ...]) -> np.ndarray:
    """Features and gains of the words, arrays as objects of shape (n_utterances, n_exits - 1, 2).

    Made once of a whole table; those of its folds of speakers are taken from them.
    """

    def work() -> np.ndarray:
        found = np.empty((table.n_utterances, table.n_exits - 1, 2), dtype=object)
        passed, gains = [None] * table.n_utterances, word_gains(table.hypotheses, table.references)
        for k in range(table.n_exits - 1):
            words = [text.split() for text in table.hypotheses[:, k]]
            features, _, passed = word_features(
                words,
                passed,
                exit_index=k,
                scalars={name: signal_of(table, name)[:, k] for name in signals},
                word_signals={name: signal_of(table, name)[:, k] for name in word_signals},
                spelling=word_spelling(common_language([table])),
            )
            ends = np.cumsum([len(one) for one in words])[:-1]
            for what, rows in enumerate((features, gains[k])):
                for i, own in enumerate(np.split(rows, ends)):
                    found[i, k, what] = own
        return found

    return table.once(f"words by {signals} and {word_signals}", work)


def _steps(n_exits: int) -> tuple[int, ...]:
    """Exits to look ahead: about a sixth, a third and half of them."""
    return tuple(sorted({max(1, round(n_exits * share)) for share in (1 / 6, 1 / 3, 1 / 2)}))


def _fit_trees(rows: _Rows, steps: tuple[int, ...]) -> tuple[tuple[Trees, ...], np.ndarray]:
    """Trees for each step, averaged over parts; word gains (n_utterances, n_exits - 1, n_steps) out of part."""
    n, n_inner = len(rows.part), len(rows.features)
    features = np.concatenate(rows.features)
    part = np.concatenate([rows.part[utterance] for utterance in rows.utterance])
    kept, weights = _thinned(rows)
    targets = []
    for step in steps:
        later = [min(k + step, n_inner) for k in range(n_inner)]
        target = np.concatenate([gain[:, j] for gain, j in zip(rows.gains, later)])
        targets.append(np.clip(target, LEAST_GAIN, MOST_GAIN))
    fitted, gains = [[] for _ in steps], np.zeros((n, n_inner, len(steps)))
    for one in range(N_PARTS):
        chosen = kept & (part != one)
        if not chosen.any():  # fewer speakers than parts
            chosen = kept
        bins = Bins.of(features[chosen], weights=weights[chosen])
        for s, target in enumerate(targets):
            trees = Trees.fit(bins, target[chosen], weights=weights[chosen])
            for k, (at_exit, utterance) in enumerate(zip(rows.features, rows.utterance)):
                here = rows.part[utterance] == one
                if here.any():
                    gains[:, k, s] += np.bincount(utterance[here], trees.predict(at_exit[here]), minlength=n)
            fitted[s].append(trees)
    return tuple(map(mean_of_trees, fitted)), gains


def _thinned(rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
    """Which words are fitted on, and their weights; by what they look like, never by what they would gain."""
    at = {name: FEATURES.index(name) for name in FEATURES}
    easy = []
    for features in rows.features:
        disturbed = features[:, [at["changed_before"], at["changed_after"], at["dropped_before"]]].any(axis=1)
        common = features[:, at["zipf"]] > EASY_ZIPF
        easy.append(common & ~disturbed & (features[:, at["exits_unchanged"]] >= 1))
    easy = np.concatenate(easy)
    kept = ~easy | (np.random.default_rng(0).random(len(easy)) < EASY_SHARE)
    return kept, np.where(easy, 1.0 / EASY_SHARE, 1.0)


def _columns(rows: _Rows, gains: np.ndarray) -> list[np.ndarray]:
    """Per exit but the last what the regression sees, of shape (n_utterances, n_signals + n_steps)."""
    return [
        np.concatenate([rows.signals[:, k], gains[:, k] / rows.seconds[:, k, None]], axis=1)
        for k in range(gains.shape[1])
    ]


def _fit_ridge(rows: _Rows, columns: list[np.ndarray], chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = rows.errors.shape[1]
    weights, intercepts = np.zeros((n, n, columns[0].shape[1])), np.zeros((n, n))
    if not chosen.any():
        chosen = np.ones(len(chosen), dtype=bool)
    for k, x in enumerate(columns):
        seconds = rows.seconds[chosen, k]
        removed = (rows.errors[chosen, k, None] - rows.errors[chosen, k + 1 :]) / seconds[:, None]
        weights[k, k + 1 :], intercepts[k, k + 1 :] = ridge(
            x[chosen], removed, sample_weights=seconds, strength=STRENGTH
        )
    return weights, intercepts
