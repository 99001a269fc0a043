"""Fused words, live: in place of the words of the exit that is taken, the fusion of all exits passed up to there.

The model is the one that replay fuses exit tables with, asked at every exit through the same `step`. Decisions stay
those of the policy, which reads what each exit says for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eeasr_modules.exits.measure.fusion import FUSION_FILE, FusionModel, read_fusion
from eeasr_modules.exits.measure.regions import Heard
from eeasr_modules.exits.policies.files import write_fitted
from eeasr_modules.exits.policies.protocol import Policy, reach_of
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.calibration import Calibrated
from eeasr_modules.models.weights import model_digest
from eeasr_modules.runtime.sources import find_source
from eeasr_modules.runtime.transcript import Word, spell_words

WORDS = ("exit", "fused")
REFUSED_BY_EXPORT = "an exported model says the words of the exit it takes: leave out --words fused, or use transcribe"


def fusion_of(folder: Path | None, name: str, *, policy: Policy, calibrated: Sequence[Calibrated]) -> FusionModel:
    """The fusion of a model folder, for a policy.

    Arguments
    ---------
    folder : Path or None
        Of the model; None for a checkpoint.
    name : str
        The model's, for messages.
    policy : Policy
        That decides.
    calibrated : sequence of Calibrated
        The folder's policies.

    Returns
    -------
    FusionModel

    Raises
    ------
    ValueError
        When the folder has no `fusion.json`, one of other weights, or the policy was certified for its own words.
    """
    if folder is None or not (folder / FUSION_FILE).is_file():
        raise ValueError(
            f"fused words need a {FUSION_FILE} in the folder of '{name}', there is none: fit it on exit tables of dev "
            "with eeasr fusion MODEL TABLE"
        )
    if any(one.promise and one.promise["certified"] and str(one.policy) == str(policy) for one in calibrated):
        raise ValueError(
            f"{policy} was certified for the words of the exit it takes, and fused words are others: take the exit's "
            "words, or a policy without a certificate"
        )
    return read_fusion(folder, model_digest=model_digest(folder))


def fit_fused_words(folder: str | Path, tables: Sequence[ExitTable], *, others: Sequence[ExitTable] = ()) -> list[str]:
    """Fit the fusion of a model folder and put it there.

    Arguments
    ---------
    folder : str or Path
        Of the model.
    tables : sequence of ExitTable
        Dev data of that model, with references.
    others : sequence of ExitTable
        Of speech that it is to serve; of whose corpora there is no dev data is said.

    Returns
    -------
    list of str
        What there is to know, in lines. Each speaker's fused errors are those of trees that never saw the speaker.

    Raises
    ------
    FileNotFoundError
        When a file of the model is missing.
    ValueError
        When a table is of another model or without references, the exits never disagree, or the deepest one is the
        checkpoint's own decoder, whose words cannot be fused.
    """
    find_source(folder).refuse_own_decoder("eeasr fusion")
    digest = model_digest(folder)
    for table in tables:
        theirs = table.metadata.get("model_digest")
        if theirs != digest:
            raise ValueError(
                f"the table of {table.metadata.get('set_name')} was heard by model {theirs}, but '{folder}' is model "
                f"{digest}: collect it again (train.py --test_only)"
            )
    model, fused = FusionModel.fit_fused(tables)
    write_fitted(folder, model)
    n_words = max(1, sum(int(one.n_ref_words.sum()) for one in tables))
    last, joined = (100 * sum(int(one.errors[:, -1].sum()) for one in them) / n_words for them in (tables, fused))
    sets = ", ".join(str(table.metadata.get("set_name")) for table in tables)
    lines = [
        f"Written: {Path(folder) / FUSION_FILE} (fitted on {model.fitted_on['n_utterances']} utterances of {sets})",
        f"WER there, all exits passed: fused {joined:.2f} %, last exit {last:.2f} %"
        + ("" if joined < last else ": fused words are no better, leave them out"),
    ]
    missing = sorted(_corpora(others) - _corpora(tables))
    if missing:
        lines.append(f"No dev speech of {', '.join(missing)}: fused words may win nothing there; fit with such speech")
    return lines


def _corpora(tables: Sequence[ExitTable]) -> set[str]:
    """Corpora of tables; their metadata separates several by commas."""
    return {name.strip() for table in tables for name in str(table.metadata.get("corpus") or "").split(",")} - {""}


def check_fusion(fusion: FusionModel, *, policy: Policy, exit_layers: Sequence[int], searches: bool) -> None:
    """Raise in one sentence where words cannot be fused.

    Arguments
    ---------
    fusion : FusionModel
        Fitted.
    policy : Policy
        That decides.
    exit_layers : sequence of int
        The model's.
    searches : bool
        Whether a beam or an attention decoder gives the words.

    Raises
    ------
    ValueError
        When exits differ, there is a search, or the policy emits the words of an exit of its own choice.
    """
    if tuple(exit_layers) != tuple(fusion.exit_layers):
        raise ValueError(
            f"fusion was fitted on exits {list(fusion.exit_layers)}, the model has {list(exit_layers)}: fit it again"
        )
    if searches:
        raise ValueError("fusion was fitted on greedy words: leave out the beam or attention decoding, or fused words")
    if reach_of(policy):
        raise ValueError(f"{policy} chooses whose words are said, and so do fused words: take one of them")


def fused_words(
    heard: Heard, paths: Sequence[np.ndarray], *, spellings: Sequence[str], blank_index: int, frame_s: float
) -> tuple[Word, ...]:
    """The words of a fusion, each where and as sure as the exit that said it last has it.

    Arguments
    ---------
    heard : Heard
        At the exit where the utterance stopped.
    paths : sequence of np.ndarray of shape (2, frames)
        Of the exits passed: best token of each frame, and its probability.
    spellings : sequence of str
        What each token adds to a transcript.
    blank_index : int
        Index of blank.
    frame_s : float
        Seconds of a frame.

    Returns
    -------
    tuple of Word
        None begins before the one before it: exits place a word some frames apart.
    """
    spelled = {
        k: spell_words(
            paths[k][0].astype(np.int64), paths[k][1], spellings=spellings, blank_index=blank_index, frame_s=frame_s
        )
        for k in {k for k, _ in heard.origins}
    }
    words, begin = [], 0.0
    for k, at in heard.origins:
        word = spelled[k][at]
        begin = max(begin, word.start_s)
        words.append(replace(word, start_s=begin, end_s=max(begin, word.end_s)))
    return tuple(words)
