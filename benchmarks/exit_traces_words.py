"""The costly parts of benchmarks/exit_traces.py: policies that read words, and fusion, each fold kept on disk."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.common.files import write_aside
from eeasr_modules.exits import ExitTable
from eeasr_modules.exits.policies.protocol import KINDS, Fitted
from eeasr_modules.exits.tables.table import speaker_folds
from eeasr_modules.exits.tuning.replay import RecordedScores, scores_of

N_FOLDS = 10  # of fusion


def kept_arrays(path: Path, work: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from a file, or worked out and put there.

    Arguments
    ---------
    path : Path
        An `.npz`.
    work : callable
        Gives the arrays by name.
    """
    if not path.is_file():
        file = io.BytesIO()
        np.savez_compressed(file, **work())
        write_aside(path, file.getvalue())
        print(f"{path.stem} is there", flush=True)
    with np.load(path) as stored:
        return dict(stored)


def word_scores(
    table: ExitTable, name: str, others: dict[str, ExitTable], *, folder: Path, fits: int
) -> dict[str, np.ndarray]:
    """Scores of a word form for every utterance, by trees that never saw its speaker.

    Arguments
    ---------
    table : ExitTable
        Fitted on.
    name : str
        A key of `KINDS` whose class has `fit_scored`.
    others : dict of str to ExitTable
        Further tables to score: the same speakers heard by other models, or, with `fits` 1, other speakers.
    folder : Path
        Where scores are kept.
    fits : int
        1: one fit on all speakers, whose own cross-fitting scores them. More: a fit for each fold of speakers, which
        scores that fold in all tables.

    Returns
    -------
    dict of str to np.ndarray of shape (n_utterances, n_exits)
        "own", and by other table.
    """
    fold = speaker_folds(table, fits) if fits > 1 else np.zeros(table.n_utterances, dtype=np.int64)

    def fit(i: int) -> dict[str, np.ndarray]:
        rest = table.select(fold != i) if fits > 1 else table
        model, (kept_back,) = KINDS[name].load().fit_scored([rest], name=name, signals=KINDS[name].signals)
        if fits == 1:
            return {"own": kept_back, **{key: scores_of(model, one) for key, one in others.items()}}
        return {key: scores_of(model, one.select(fold == i)) for key, one in {"own": table, **others}.items()}

    parts = [kept_arrays(folder / f"fold-{i}-of-{fits}.npz", partial(fit, i)) for i in range(fits)]
    if fits == 1:
        return parts[0]
    scores = {key: np.empty((table.n_utterances, table.n_exits)) for key in parts[0]}
    for i, part in enumerate(parts):
        for key, values in part.items():
            scores[key][fold == i] = values
    return scores


def with_scores(table: ExitTable, name: str, scores: np.ndarray) -> tuple[ExitTable, Fitted]:
    """A table that holds a word form's scores, and the open policy that reads them.

    Arguments
    ---------
    table : ExitTable
        What was recorded.
    name : str
        Of the word form.
    scores : np.ndarray of shape (n_utterances, n_exits)
        Of `word_scores`.
    """
    layers = tuple(int(layer) for layer in table.exit_layers)
    return table.with_signals({f"score of {name}": scores}), Fitted(name, None, RecordedScores(name, layers))


def fused_errors(table: ExitTable, *, folder: Path) -> dict[str, np.ndarray]:
    """Word errors of the fused transcript of every exit, and of its oracle; every speaker fused by a model of others.

    Arguments
    ---------
    table : ExitTable
        With references.
    folder : Path
        Where the errors are kept.

    Returns
    -------
    dict of str to np.ndarray of shape (n_utterances, n_exits)
        "fused" and "best path".
    """

    def work() -> dict[str, np.ndarray]:
        from best_path import lattice_errors

        from eeasr_modules.exits.measure.fusion import FusionModel

        _, (fused,) = FusionModel.fit_fused([table], n_parts=N_FOLDS)
        return {"fused": fused.errors, "best path": lattice_errors(table)}

    return kept_arrays(folder / "fused.npz", work)


def measure_fusion(
    table: ExitTable,
    choices: dict[str, list[list[int]]],
    *,
    folder: Path,
    points_of: Callable[..., list[dict[str, Any]]],
    budgets: tuple[float, ...],
) -> dict[str, Any]:
    """Fused transcripts of every exit, and of the exits that policies chose.

    Arguments
    ---------
    table : ExitTable
        What was recorded.
    choices : dict of str to (n_budgets, n_utterances)
        Exits by policy and budget, chosen without knowing that the output is fused.
    folder : Path
        As for `fused_errors`.
    points_of : callable
        `exit_traces.points_of`.
    budgets : tuple of float
        Of the choices.
    """
    errors = fused_errors(table, folder=folder)
    rows, n_words = np.arange(table.n_utterances), table.n_ref_words.sum()
    points = {}
    for text, chosen in choices.items():
        index = np.array(chosen)
        points[f"{text} + fusion"] = points_of(table, index, budgets, errors["fused"][rows, index])
    last = np.full((1, table.n_utterances), table.n_exits - 1)
    return {
        "wer_per_exit": {what: (100.0 * one.sum(axis=0) / n_words).tolist() for what, one in errors.items()},
        "full_depth": points_of(table, last, (float(table.exit_layers[-1]),), errors["fused"][rows, last])[0],
        "points": points,
    }
