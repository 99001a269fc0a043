"""Fitting a word gain model on dev tables; see `eeasr_modules.exits.word_gain` for what is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits.folds import speaker_folds
from eeasr_modules.exits.gain import STRENGTH, lookahead, ridge, signal_of, weighted_sum
from eeasr_modules.exits.table import ExitTable
from eeasr_modules.exits.trees import Trees, mean_of_trees
from eeasr_modules.exits.word_features import FEATURES, word_features
from eeasr_modules.exits.word_labels import word_gains
from eeasr_modules.exits.word_spelling import common_language, word_spelling

N_PARTS = 3
# one word's error can hide several; rare extremes would bend the trees
LEAST_GAIN, MOST_GAIN = -2.0, 3.0
# of the words that stood unchanged among unchanged neighbours and are common, one in four is fitted on, for four
EASY_ZIPF = 3.5
EASY_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class WordGainFit:
    """What is fitted.

    Arguments
    ---------
    steps : tuple of int
        How many exits ahead each of the trees looks.
    trees : tuple of Trees
        One for each of `steps`.
    weights, intercepts : np.ndarray
        Of the regression; see `WordGainModel`.
    scores : list of np.ndarray of shape (n_utterances, n_exits)
        Of each table, by parts of the model that never saw the speaker; 0 in the last column.
    """

    steps: tuple[int, ...]
    trees: tuple[Trees, ...]
    weights: np.ndarray
    intercepts: np.ndarray
    scores: list[np.ndarray]


def fit_word_gain(tables: Sequence[ExitTable], *, signals: Sequence[str], word_signals: Sequence[str]) -> WordGainFit:
    """Trees and regression, fitted on dev tables.

    Arguments
    ---------
    tables : sequence of ExitTable
        With references, all with the same exits.
    signals : sequence of str
        Of utterances.
    word_signals : sequence of str
        Of words.

    Returns
    -------
    WordGainFit
    """
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
            name: np.concatenate([signal_of(table, name) for table in tables])
            for name in (*signals, *word_signals, "duration_s")
        }
        hypotheses = np.concatenate([table.hypotheses for table in tables])
        references = np.concatenate([table.references for table in tables])
        spelling, passed = word_spelling(common_language(tables)), [None] * len(hypotheses)
        features, utterance = [], []
        for k in range(hypotheses.shape[1] - 1):
            at_exit, of_word, passed = word_features(
                [text.split() for text in hypotheses[:, k]],
                passed,
                exit_index=k,
                scalars={name: joined[name][:, k] for name in signals},
                word_signals={name: joined[name][:, k] for name in word_signals},
                spelling=spelling,
            )
            features.append(at_exit)
            utterance.append(of_word)
        if not sum(map(len, features)):
            raise ValueError("word gains need words, and all transcripts of the dev tables are empty")
        return cls(
            part=np.concatenate([speaker_folds(table, N_PARTS, seed=1) for table in tables]),
            errors=np.concatenate([table.errors for table in tables]),
            seconds=joined["duration_s"],
            signals=np.stack([joined[name] for name in signals], axis=2),
            features=features,
            utterance=utterance,
            gains=word_gains(hypotheses, references),
        )


def _steps(n_exits: int) -> tuple[int, ...]:
    """Exits to look ahead: about a sixth, a third and half of them."""
    return tuple(sorted({max(1, round(n_exits * share)) for share in (1 / 6, 1 / 3, 1 / 2)}))


def _fit_trees(rows: _Rows, steps: tuple[int, ...]) -> tuple[tuple[Trees, ...], np.ndarray]:
    """Trees for each step, averaged over parts; word gains (n_utterances, n_exits - 1, n_steps) out of part."""
    n, n_inner = len(rows.part), len(rows.features)
    features = np.concatenate(rows.features)
    part = np.concatenate([rows.part[utterance] for utterance in rows.utterance])
    kept, weights = _thinned(rows)
    fitted, gains = [], np.zeros((n, n_inner, len(steps)))
    for s, step in enumerate(steps):
        later = [min(k + step, n_inner) for k in range(n_inner)]
        target = np.concatenate([gain[:, j] for gain, j in zip(rows.gains, later)])
        target = np.clip(target, LEAST_GAIN, MOST_GAIN)
        of_parts = []
        for one in range(N_PARTS):
            chosen = kept & (part != one)
            if not chosen.any():  # fewer speakers than parts
                chosen = kept
            trees = Trees.fit(features[chosen], target[chosen], weights=weights[chosen])
            for k, (at_exit, utterance) in enumerate(zip(rows.features, rows.utterance)):
                here = rows.part[utterance] == one
                if here.any():
                    gains[:, k, s] += np.bincount(utterance[here], trees.predict(at_exit[here]), minlength=n)
            of_parts.append(trees)
        fitted.append(mean_of_trees(of_parts))
    return tuple(fitted), gains


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
