"""Region fusion: an output rule that puts the better of what the exits said into each place of the transcript.

At every exit the new transcript is compared with the transcript fused so far. In each region where they disagree the
earlier variant stays if boosted trees predict that it has fewer errors, by more than a margin; everywhere else the
new words are taken. The fused transcript may so have fewer errors than every exit's, for no time of the encoder: it
is reported beside the oracles of single exits, not under them (its own is `lattice_errors`).

A fusion model is fitted on dev tables: the target of a region is how the utterance's errors change when the earlier
variant is put there. The trees are fitted twice, first on the regions between consecutive exits, then also on those
that arise when fusing with the first trees (imitation on the learner's own states, Ross et al. 2011). Each part of
the speakers is fused by trees of the other parts; all parts' trees, averaged, are the model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.choices import needed_signal
from eeasr_modules.exits.edits import edit_counts
from eeasr_modules.exits.fitted import common_exits, described
from eeasr_modules.exits.folds import speaker_folds
from eeasr_modules.exits.gain import exit_position, signal_of
from eeasr_modules.exits.region_features import Heard, feature_names, region_rows
from eeasr_modules.exits.signals_text import text_signals
from eeasr_modules.exits.table import ExitTable
from eeasr_modules.exits.trees import Trees, mean_of_trees
from eeasr_modules.exits.word_alignment import Region, regions, splice
from eeasr_modules.exits.word_features import WordSpelling, word_spelling

N_PARTS = 5
MARGIN = 0.05
MOST_CHANGE = 3.0
TREE_KNOBS = {"n_trees": 100, "learning_rate": 0.08, "min_samples_leaf": 60}


@dataclass(frozen=True, eq=False)
class FusionModel:
    """Which variant of a disagreement to keep.

    Arguments
    ---------
    signals : tuple of str
        Signals of utterances that the trees see.
    language : str
        Whose words are looked up.
    exit_layers : tuple of int
        Exits, from 1, rising.
    trees : Trees
        Predict the change of errors when the earlier variant stays.
    margin : float
        Errors that the earlier variant must be predicted to save.
    model_digest : str or None
        Of the model whose tables it was fitted on; None fuses for any model.
    fitted_on : dict
        Of `described`.
    name : str
        "fusion".
    """

    signals: tuple[str, ...]
    language: str
    exit_layers: tuple[int, ...]
    trees: Trees
    margin: float = MARGIN
    model_digest: str | None = None
    fitted_on: Mapping[str, Any] = field(default_factory=dict)
    name: str = "fusion"

    @classmethod
    def fit(
        cls, tables: Sequence[ExitTable], *, name: str = "fusion", signals: tuple[str, ...] = ("entropy",)
    ) -> "FusionModel":
        """Fit on dev tables.

        Arguments
        ---------
        tables : sequence of ExitTable
            Dev data, all with the same exits, with references.
        name : str
            What the model is called.
        signals : tuple of str
            Stored or derived; may be empty.

        Returns
        -------
        FusionModel

        Raises
        ------
        ValueError
            When exits differ, a table lacks a signal or its references, or the exits never disagree.
        """
        return cls.fit_fused(tables, name=name, signals=signals)[0]

    @classmethod
    def fit_fused(
        cls,
        tables: Sequence[ExitTable],
        *,
        name: str = "fusion",
        signals: tuple[str, ...] = ("entropy",),
        n_parts: int = N_PARTS,
    ) -> tuple["FusionModel", list[ExitTable]]:
        """Fit on dev tables, and fuse them by parts of the model that never saw the speaker.

        Arguments
        ---------
        tables : sequence of ExitTable
            As for `fit`.
        name : str
            As for `fit`.
        signals : tuple of str
            As for `fit`.
        n_parts : int
            Parts of speakers.

        Returns
        -------
        tuple of (FusionModel, list of ExitTable)
            The tables as `fused_table` makes them: what policies for fused output are calibrated on.
        """
        exit_layers, digest = common_exits(tables)
        walks = [_Walk.of(table, signals=signals) for table in tables]
        parts = [speaker_folds(table, n_parts) for table in tables]
        never = [_Regions.of(walk, lambda features, utterance: np.zeros(len(features), dtype=bool)) for walk in walks]
        first = _fit_parts(never, parts, n_parts)
        own = [_Regions.of(walk, _keeps(first, part, MARGIN)) for walk, part in zip(walks, parts)]
        trees = _fit_parts([*never, *own], [*parts, *parts], n_parts)
        fused = []
        for walk, part, table in zip(walks, parts, tables):
            fused.append(fused_table(table, walk.run(_keeps(trees, part, MARGIN))[0]))
        model = cls(
            tuple(signals),
            walks[0].language,
            exit_layers,
            mean_of_trees(trees),
            MARGIN,
            digest,
            described(tables),
            name,
        )
        return model, fused

    @property
    def needs(self) -> tuple[str, ...]:
        """The signals, the transcript, and the exit's layer."""
        return (*self.signals, "hypothesis", "exit_layer")

    def start(self, n: int) -> np.ndarray:
        """What the exits passed left: None, of shape (n, 1)."""
        return np.full((n, 1), None, dtype=object)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fuse this exit's transcripts; to be asked at every exit that is passed, the last one too.

        Arguments
        ---------
        signals : mapping of str to np.ndarray of shape (n,)
            Of `needs`.
        state : np.ndarray of shape (n, 1)
            Of `start` or the exit before.

        Returns
        -------
        tuple of np.ndarray
            Fused transcripts, objects of shape (n,); and the state.
        """
        k = exit_position(signals["exit_layer"], self.exit_layers)
        scalars = np.stack([np.asarray(signals[name], dtype=np.float64) for name in self.signals] or [[]], axis=-1)
        heard, _ = _pass_exit(
            list(signals["hypothesis"]),
            list(state[:, 0]),
            exit_index=k,
            scalars=scalars if self.signals else np.zeros((len(state), 0)),
            spelling=word_spelling(self.language),
            keeps=lambda features, utterance: self.trees.predict(features) < -self.margin,
        )
        fused, left = np.empty(len(state), dtype=object), np.empty((len(state), 1), dtype=object)
        fused[:] = [" ".join(one.words) for one in heard]
        left[:, 0] = heard
        return fused, left

    def content(self) -> dict[str, Any]:
        """All but the trees."""
        return {
            "signals": list(self.signals),
            "language": self.language,
            "margin": self.margin,
            "features": list(feature_names(self.signals)),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The trees."""
        return self.trees.arrays("")

    @classmethod
    def from_content(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "FusionModel":
        """The model that `content` and `arrays` describe.

        Arguments
        ---------
        content : mapping
            Of `content`, with name, exit_layers, model_digest and fitted_on added by the file.
        arrays : mapping
            Of `arrays`.

        Returns
        -------
        FusionModel

        Raises
        ------
        ValueError
            When the file's features are not those of this version, or trees are missing.
        """
        signals = tuple(content["signals"])
        if tuple(content["features"]) != feature_names(signals):
            raise ValueError("fusion was fitted on other features than this version computes; fit it again")
        return cls(
            signals=signals,
            language=content["language"],
            exit_layers=tuple(content["exit_layers"]),
            trees=Trees.from_arrays(arrays, ""),
            margin=float(content["margin"]),
            model_digest=content["model_digest"],
            fitted_on=content["fitted_on"],
            name=content["name"],
        )


def fuse(table: ExitTable, model: FusionModel) -> np.ndarray:
    """The fused transcript of every exit: what would be emitted if the utterance stopped there.

    Arguments
    ---------
    table : ExitTable
        With the signals that the model needs.
    model : FusionModel
        Fitted on other data.

    Returns
    -------
    np.ndarray of str objects, of shape (n_utterances, n_exits)

    Raises
    ------
    ValueError
        When the exits are not the model's, or a signal is missing.
    """
    signals = {name: needed_signal(table, name) for name in model.needs}
    fused, state = np.empty(table.hypotheses.shape, dtype=object), model.start(table.n_utterances)
    for k in range(table.n_exits):
        fused[:, k], state = model.step({name: values[:, k] for name, values in signals.items()}, state)
    return fused


def fused_table(table: ExitTable, hypotheses: np.ndarray) -> ExitTable:
    """The same table with fused transcripts: their errors are counted, and their text signals computed, anew.

    Acoustic signals stay; signals of words, which belong to the exits' own transcripts, do not.

    Arguments
    ---------
    table : ExitTable
        With references.
    hypotheses : np.ndarray of str objects, of shape (n_utterances, n_exits)
        Of `fuse`.

    Returns
    -------
    ExitTable

    Raises
    ------
    ValueError
        When the table has no references to count errors by.
    """
    if table.references is None:
        raise ValueError("errors of fused transcripts are counted on references, and the table has none")
    return replace(
        table,
        hypotheses=hypotheses,
        **edit_counts(hypotheses, table.references),
        signals={**table.signals, **text_signals(hypotheses)},
        word_lists={},
        averaged=None,
        metadata={**table.metadata, "output": "fused"},
    )


# asked with features (n_regions, n_features) and the utterance of each: True where the earlier variant stays
_Keeps = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _pass_exit(
    texts: list[str],
    heard: list[Heard | None],
    *,
    exit_index: int,
    scalars: np.ndarray,
    spelling: WordSpelling,
    keeps: _Keeps,
) -> tuple[list[Heard], "_AtExit"]:
    """Fuse one exit's transcripts with what was heard before."""
    words = [text.split() for text in texts]
    found = [[] if old is None or old.words == new else regions(new, old.words) for new, old in zip(words, heard)]
    rows, of_row = [], []
    for i, here in enumerate(found):
        if here:
            rows += region_rows(words[i], heard[i], here, exit_index=exit_index, scalars=scalars[i], spelling=spelling)
            of_row += [i] * len(here)
    features, utterance = np.array(rows), np.array(of_row, dtype=np.int64)
    kept = iter(keeps(features, utterance)) if rows else iter(())
    after = []
    for new, old, here, text_scalars in zip(words, heard, found, scalars):
        text = (f" {' '.join(new)} ",)
        if old is None:
            after.append(Heard(new, [1] * len(new), text, text_scalars))
            continue
        stays = [next(kept) for _ in here]
        fused, ages = _combine(new, old, here, stays)
        after.append(Heard(fused, ages, old.transcripts + text, text_scalars))
    return after, _AtExit(words, found, features, utterance)


def _combine(new: list[str], old: Heard, found: list[Region], stays: list[bool]) -> tuple[list[str], list[int]]:
    """The fused words, and how many exits each has lasted."""
    words, ages, at, old_at = [], [], 0, 0
    for region, stay in zip([*found, None], [*stays, False]):
        end = len(new) if region is None else region.start
        words += new[at:end]
        ages += [age + 1 for age in old.ages[old_at : old_at + end - at]]
        if region is None:
            break
        if stay:
            words += old.words[region.other_start : region.other_end]
            ages += old.ages[region.other_start : region.other_end]
        else:
            words += new[region.start : region.end]
            ages += [1] * (region.end - region.start)
        at, old_at = region.end, region.other_end
    return words, ages


@dataclass(frozen=True, eq=False)
class _AtExit:
    words: list[list[str]]
    found: list[list[Region]]
    features: np.ndarray
    utterance: np.ndarray


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

    def run(self, keeps: _Keeps) -> tuple[np.ndarray, list[tuple[_AtExit, list[Heard | None]]]]:
        """Fused transcripts (n_utterances, n_exits), and at each exit its regions and what was heard before."""
        heard: list[Heard | None] = [None] * self.table.n_utterances
        fused, passed = np.empty(self.table.hypotheses.shape, dtype=object), []
        for k in range(self.table.n_exits):
            before = heard
            heard, at_exit = _pass_exit(
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
class _Regions:
    """Regions of a walk, with what the trees are to predict."""

    features: np.ndarray  # (n_regions, n_features)
    utterance: np.ndarray  # (n_regions,)
    change: np.ndarray  # (n_regions,)

    @classmethod
    def of(cls, walk: _Walk, keeps: _Keeps) -> "_Regions":
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


def _fit_parts(rows: Sequence[_Regions], parts: Sequence[np.ndarray], n_parts: int) -> list[Trees]:
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


def _keeps(trees: Sequence[Trees], part: np.ndarray, margin: float) -> _Keeps:
    """Each utterance decided by the trees that never saw its speaker."""

    def decide(features: np.ndarray, utterance: np.ndarray) -> np.ndarray:
        predicted, of_row = np.zeros(len(features)), part[utterance]
        for one in np.unique(of_row):
            predicted[of_row == one] = trees[one].predict(features[of_row == one])
        return predicted < -margin

    return decide
