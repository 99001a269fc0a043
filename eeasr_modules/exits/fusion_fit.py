"""Fitting a fusion model on dev tables; see `eeasr_modules.exits.fusion` for what is fitted.

References are read here, and nowhere else when fusing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.folds import speaker_folds
from eeasr_modules.exits.gain import signal_of
from eeasr_modules.exits.region_features import Heard
from eeasr_modules.exits.region_fusion import AtExit, Keeps, pass_exit
from eeasr_modules.exits.table import ExitTable
from eeasr_modules.exits.trees import Trees, mean_of_trees
from eeasr_modules.exits.word_alignment import splice
from eeasr_modules.exits.word_spelling import word_spelling

MOST_CHANGE = 3.0
TREE_KNOBS = {"n_trees": 100, "learning_rate": 0.08, "min_samples_leaf": 60}


def fit_fusion(
    tables: Sequence[ExitTable], *, signals: Sequence[str], margin: float, n_parts: int
) -> tuple[Trees, list[np.ndarray]]:
    """Trees fitted on dev tables, and the tables fused by trees that never saw the speaker.

    Arguments
    ---------
    tables : sequence of ExitTable
        With references.
    signals : sequence of str
        Of utterances.
    margin : float
        Errors that an earlier variant must be predicted to save.
    n_parts : int
        Parts of speakers.

    Returns
    -------
    trees : Trees
        Those of all parts, averaged.
    fused : list of np.ndarray of shape (n_utterances, n_exits)
        Transcripts of each table.
    """
    walks = [_Walk.of(table, signals=signals) for table in tables]
    parts = [speaker_folds(table, n_parts) for table in tables]
    never = [_LabelledRegions.of(walk, lambda features, _: np.zeros(len(features), dtype=bool)) for walk in walks]
    first = _fit_parts(never, parts, n_parts)
    own = [_LabelledRegions.of(walk, _keeps_of_parts(first, part, margin)) for walk, part in zip(walks, parts)]
    trees = _fit_parts([*never, *own], [*parts, *parts], n_parts)
    fused = [walk.run(_keeps_of_parts(trees, part, margin))[0] for walk, part in zip(walks, parts)]
    return mean_of_trees(trees), fused


@dataclass(frozen=True, eq=False)
class _Walk:
    """A table, ready to be fused again and again."""

    table: ExitTable
    scalars: np.ndarray  # (n_utterances, n_exits, n_signals)
    language: str

    @classmethod
    def of(cls, table: ExitTable, *, signals: Sequence[str]) -> "_Walk":
        if table.references is None:
            raise ValueError(
                f"fusion is fitted on references, and the table of {table.metadata.get('set_name')} has none"
            )
        columns = [signal_of(table, name) for name in signals]
        scalars = np.stack(columns, axis=2) if columns else np.zeros((*table.hypotheses.shape, 0))
        return cls(table, scalars, str(table.metadata.get("language", "en")))

    def run(self, keeps: Keeps) -> tuple[np.ndarray, list[tuple[AtExit, list[Heard | None]]]]:
        """Fused transcripts (n_utterances, n_exits), and at each exit its regions and what was heard before."""
        heard: list[Heard | None] = [None] * self.table.n_utterances
        fused, passed = np.empty(self.table.hypotheses.shape, dtype=object), []
        for k in range(self.table.n_exits):
            before = heard
            heard, at_exit = pass_exit(
                list(self.table.hypotheses[:, k]),
                before,
                exit_index=k,
                scalars=self.scalars[:, k],
                spelling=word_spelling(self.language),
                keeps=keeps,
            )
            fused[:, k] = [" ".join(one.words) for one in heard]
            passed.append((at_exit, before))
        return fused, passed


@dataclass(frozen=True, eq=False)
class _LabelledRegions:
    """Regions of a walk, with what the trees are to predict."""

    features: np.ndarray  # (n_regions, n_features)
    utterance: np.ndarray  # (n_regions,)
    change: np.ndarray  # (n_regions,)

    @classmethod
    def of(cls, walk: _Walk, keeps: Keeps) -> "_LabelledRegions":
        references = [reference.split() for reference in walk.table.references]
        features, utterance, change = [], [], []
        for at_exit, before in walk.run(keeps)[1]:
            for i, found in enumerate(at_exit.found):
                words = at_exit.words[i]
                errors = Levenshtein.distance(references[i], words) if found else 0
                for region in found:
                    spliced = splice(words, before[i].words, [region])
                    change.append(Levenshtein.distance(references[i], spliced) - errors)
            if len(at_exit.features):
                features.append(at_exit.features)
                utterance.append(at_exit.utterance)
        if not features:
            raise ValueError("fusion needs exits that disagree, and all transcripts of the dev table are equal")
        return cls(np.concatenate(features), np.concatenate(utterance), np.array(change, dtype=np.float64))


def _fit_parts(rows: Sequence[_LabelledRegions], parts: Sequence[np.ndarray], n_parts: int) -> list[Trees]:
    """Trees for each part of speakers, fitted on the others."""
    features = np.concatenate([one.features for one in rows])
    change = np.clip(np.concatenate([one.change for one in rows]), -MOST_CHANGE, MOST_CHANGE)
    part = np.concatenate([of_utterance[one.utterance] for one, of_utterance in zip(rows, parts)])
    fitted = []
    for held_out in range(n_parts):
        chosen = part != held_out
        chosen = chosen if chosen.any() else ~chosen
        fitted.append(Trees.fit(features[chosen], change[chosen], **TREE_KNOBS))
    return fitted


def _keeps_of_parts(trees: Sequence[Trees], part: np.ndarray, margin: float) -> Keeps:
    """Each utterance decided by the trees that never saw its speaker."""

    def decide(features: np.ndarray, utterance: np.ndarray) -> np.ndarray:
        predicted, of_row = np.zeros(len(features)), part[utterance]
        for one in np.unique(of_row):
            predicted[of_row == one] = trees[one].predict(features[of_row == one])
        return predicted < -margin

    return decide
