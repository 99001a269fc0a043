"""Region fusion: an output rule that puts the better of what the exits said into each place of the transcript.

At every exit, in each region where its transcript disagrees with the one fused so far, the earlier variant stays if
boosted trees predict that it has fewer errors, by more than a margin. The trees are fitted on dev tables, where alone
references are read: twice, first on the regions between consecutive exits, then also on those that arise when fusing
with the first trees (Ross et al. 2011). Each part of the speakers is fused by trees of the other parts; all parts'
trees, averaged, are the model. A fused transcript stands beside the oracles of single exits, not under them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.measure.bootstrap import bootstrap_difference
from eeasr_modules.exits.measure.edits import edit_counts, splice
from eeasr_modules.exits.measure.regions import AtExit, Heard, Keeps, feature_names, pass_exit
from eeasr_modules.exits.policies.files import read_fitted, write_fitted
from eeasr_modules.exits.policies.lexical_gain import exit_position, signal_of
from eeasr_modules.exits.policies.protocol import common_exits, described, kept_in_file, nothing_passed
from eeasr_modules.exits.policies.trees import Trees, mean_of_trees
from eeasr_modules.exits.tables.table import ExitTable, speaker_folds
from eeasr_modules.exits.tuning.replay import needed_signal
from eeasr_modules.exits.words.resources import common_language, word_spelling
from eeasr_modules.exits.words.signals import text_signals

FUSION_FILE = "fusion.json"
N_PARTS = 5
MARGIN = 0.05


@dataclass(frozen=True, eq=False)
class FusionModel:
    """Which variant of a disagreement to keep."""

    signals: tuple[str, ...]  # signals of utterances that the trees see
    language: str  # whose words are looked up
    exit_layers: tuple[int, ...]  # exits, from 1, rising
    trees: Trees  # predict the change of errors when the earlier variant stays
    margin: float = MARGIN  # errors that the earlier variant must be predicted to save
    model_digest: str | None = None  # of the model whose tables it was fitted on; None fuses for any model
    fitted_on: Mapping[str, Any] = field(default_factory=dict)  # of `described`
    name: str = "fusion"  # "fusion"

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

        Returns tuple of (FusionModel, list of ExitTable): the tables as `fused_table` makes them: what policies for
        fused output are calibrated on. ValueError when exits differ, a table lacks a signal or its references, or the
        exits never disagree. `tables`: dev data, all with the same exits, with references. `signals`: stored or
        derived; may be empty.
        """
        exit_layers, digest = common_exits(tables)
        language = common_language(tables)
        trees, fused = fit_fusion(tables, signals=signals, margin=MARGIN, n_parts=n_parts)
        model = cls(tuple(signals), language, exit_layers, trees, MARGIN, digest, described(tables), name)
        return model, [fused_table(table, texts) for table, texts in zip(tables, fused)]

    @property
    def needs(self) -> tuple[str, ...]:
        """The signals, the transcript, and the exit's layer."""
        return (*self.signals, "hypothesis", "exit_layer")

    def start(self, n: int) -> np.ndarray:
        """What the exits passed left: nothing."""
        return nothing_passed(n)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fuse this exit's transcripts; to be asked at every exit that is passed, the last one too.

        Returns the fused transcripts (n,), of str, and what this exit leaves (n, 1), both object arrays. `signals` (n,)
        each, by name as `needs` has them; `state` (n, 1): what the exit before left.
        """
        k = exit_position(signals["exit_layer"], self.exit_layers)
        scalars = np.array([signals[name] for name in self.signals], dtype=np.float64).reshape(-1, len(state)).T
        heard, _ = pass_exit(
            list(signals["hypothesis"]),
            list(state[:, 0]),
            exit_index=k,
            scalars=scalars,
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

        ValueError when the file's features are not those of this version, or trees are missing.
        """
        signals = tuple(content["signals"])
        return cls(
            signals=signals,
            language=content["language"],
            trees=Trees.from_arrays(arrays, ""),
            margin=float(content["margin"]),
            **kept_in_file(content, feature_names(signals)),
        )


def read_fusion(folder: str | Path, *, model_digest: str | None = None, digest: str | None = None) -> FusionModel:
    """The fusion beside a model's policies, as `write_fitted` left it; a digest that is None is not asked for.

    FileNotFoundError when a file is not there. ValueError when it is of another version, another file, or was fitted on
    another model.
    """
    made_by = FusionModel.from_content
    return read_fitted(folder, "fusion", model_digest=model_digest, digest=digest, made_by=made_by)


@dataclass(frozen=True, eq=False)
class KeptFusion:
    """What came of fitting the fusion of a model folder."""

    model: FusionModel  # fitted
    fused: list[ExitTable]  # the dev tables, each speaker fused by trees that never saw the speaker
    digest: str | None  # of the file that was written; None where none was
    lines: list[str]  # what there is to know


def keep_fusion(
    folder: str | Path,
    tables: Sequence[ExitTable],
    *,
    model_digest: str,
    others: Sequence[ExitTable] = (),
    anyway: bool = False,
) -> KeptFusion:
    """Fit the fusion of a model folder, and put it there if it wins on speakers that its trees never saw.

    ValueError when a table is of another model, or as for `FusionModel.fit_fused`. `tables`: dev data of that model,
    with references. `others`: of speech that it is to serve; of whose corpora there is no dev data is said. `anyway`:
    whether to write it also where the interval over speakers of what it wins reaches 0.
    """
    for table in tables:
        theirs = table.metadata.get("model_digest")
        if theirs != model_digest:
            raise ValueError(
                f"the table of {table.metadata.get('set_name')} was heard by model {theirs}, but '{folder}' is model "
                f"{model_digest}: collect it again (train.py --test_only)"
            )
    model, fused = FusionModel.fit_fused(tables)
    joined, last, n_ref_words, speakers = (
        np.concatenate(parts)
        for parts in (
            [one.errors[:, -1] for one in fused],
            [one.errors[:, -1] for one in tables],
            [one.n_ref_words for one in tables],
            [one.speakers for one in tables],
        )
    )
    rng = np.random.default_rng(0)
    won = bootstrap_difference(joined, last, n_ref_words=n_ref_words, speakers=speakers, rng=rng)
    digest = write_fitted(folder, model) if anyway or won.high < 0 else None
    path, sets = Path(folder) / FUSION_FILE, ", ".join(str(table.metadata.get("set_name")) for table in tables)
    wer = [100 * errors.sum() / n_ref_words.sum() for errors in (joined, last)]
    lines = [
        f"Written: {path} (fitted on {model.fitted_on['n_utterances']} utterances of {sets})"
        if digest
        else f"Not written: {path}, fused words win nothing for sure; take the exit's words, or more dev speech",
        f"WER there, all exits passed, trees of other speakers: fused {wer[0]:.2f} %, last exit {wer[1]:.2f} % "
        f"({won.estimate:+.2f} [{won.low:+.2f}, {won.high:+.2f}])",
    ]
    missing = sorted(_corpora(others) - _corpora(tables))
    if missing:
        lines.append(f"No dev speech of {', '.join(missing)}: fused words may win nothing there; fit with such speech")
    return KeptFusion(model, fused, digest, lines)


def _corpora(tables: Sequence[ExitTable]) -> set[str]:
    """Corpora of tables; their metadata separates several by commas."""
    return {name.strip() for table in tables for name in str(table.metadata.get("corpus") or "").split(",")} - {""}


def fuse(table: ExitTable, model: FusionModel) -> np.ndarray:
    """The fused transcript of every exit: what would be emitted if the utterance stopped there.

    Returns np.ndarray of str objects, of shape (n_utterances, n_exits). ValueError when the exits are not the model's,
    or a signal is missing.
    """
    signals = {name: needed_signal(table, name, policy="fusion") for name in model.needs}
    fused, state = np.empty(table.hypotheses.shape, dtype=object), model.start(table.n_utterances)
    for k in range(table.n_exits):
        fused[:, k], state = model.step({name: values[:, k] for name, values in signals.items()}, state)
    return fused


def fused_table(table: ExitTable, hypotheses: np.ndarray, *, output: str = "fused") -> ExitTable:
    """The same table with fused transcripts: their errors are counted, and their text signals computed, anew.

    Acoustic signals stay; signals of words, which belong to the exits' own transcripts, do not.

    ValueError when the table has no references to count errors by.
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
        metadata={**table.metadata, "output": output},
    )


MOST_CHANGE = 3.0
TREE_KNOBS = {"n_trees": 100, "learning_rate": 0.08, "min_samples_leaf": 60}


def fit_fusion(
    tables: Sequence[ExitTable], *, signals: Sequence[str], margin: float, n_parts: int
) -> tuple[Trees, list[np.ndarray]]:
    """Trees fitted on dev tables with references, and the tables fused by trees that never saw the speaker.

    An earlier variant must be predicted to save `margin` errors.

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
