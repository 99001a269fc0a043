"""What ExitBench reads and how it weighs: decisions made elsewhere, and sets recognised by their references."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eeasr_modules.exits.plain_transcripts import NORMALISERS
from eeasr_modules.exits.score_baselines import KNOWN_SETS
from eeasr_modules.exits.table import ExitTable
from eeasr_modules.exits.transcript_files import approximate_duration_s, layer_of, read_rows


@dataclass(frozen=True, eq=False)
class Choices:
    """Somebody's decisions on the utterances of a table.

    Arguments
    ---------
    name : str
        What they are called in the score.
    exit_index : np.ndarray of shape (n_utterances,)
        From 0.
    hypotheses : np.ndarray of shape (n_utterances,), or None
        What was emitted, where it is not the exit's own transcript (fusion).
    """

    name: str
    exit_index: np.ndarray
    hypotheses: np.ndarray | None = None


def read_choices(path: str | Path, table: ExitTable) -> Choices:
    """Decisions from a file of rows `id, exit_layer[, hypothesis]`, TSV or JSON lines.

    Arguments
    ---------
    path : str or Path
        The file.
    table : ExitTable
        Whose utterances were decided.

    Returns
    -------
    Choices
        In the table's order.

    Raises
    ------
    ValueError
        When an utterance is missing, unknown or decided twice, or a layer has no exit.
    """
    rows = {utt_id: i for i, utt_id in enumerate(table.utt_ids)}
    index_of = {int(layer): k for k, layer in enumerate(table.exit_layers)}
    exit_index = np.full(table.n_utterances, -1)
    emitted: dict[int, str] = {}
    for place, row in read_rows(Path(path), needed=("id", "exit_layer")):
        i, layer = rows.get(str(row["id"]).strip(), -1), layer_of(row["exit_layer"], place)
        if i < 0:
            raise ValueError(f"{place}: the table has no utterance {row['id']!r}")
        if layer not in index_of:
            raise ValueError(f"{place}: the table has exits after layers {list(index_of)}, not after {layer}")
        if exit_index[i] >= 0:
            raise ValueError(f"{place} decides {row['id']!r} again; every id stands once")
        exit_index[i] = index_of[layer]
        if row.get("hypothesis") is not None:
            emitted[i] = str(row["hypothesis"])
    if (exit_index < 0).any():
        missing = table.utt_ids[exit_index < 0]
        raise ValueError(f"{path} must decide every utterance, but {len(missing)} are missing, such as {missing[0]!r}")
    if emitted and len(emitted) < table.n_utterances:
        raise ValueError(
            f"{path} must give a hypothesis for every utterance or for none, got {len(emitted)} of {table.n_utterances}"
        )
    hypotheses = np.array([emitted[i] for i in range(len(emitted))], dtype=object) if emitted else None
    return Choices(Path(path).name, exit_index, hypotheses)


def set_digest(table: ExitTable) -> str | None:
    """What a set is recognised by: ids and references, whatever their order, case and punctuation.

    Arguments
    ---------
    table : ExitTable
        With references.

    Returns
    -------
    str or None
        SHA-256 of the sorted lines `id<tab>REFERENCE`; None without references.
    """
    if table.references is None:
        return None
    lines = sorted(f"{utt_id}\t{NORMALISERS['words'](said)}" for utt_id, said in zip(table.utt_ids, table.references))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def bench_table(table: ExitTable) -> ExitTable:
    """The table as ExitBench weights it: on a known set, seconds from the references' lengths.

    Arguments
    ---------
    table : ExitTable
        Anyone's.

    Returns
    -------
    ExitTable
        The same one where the set is not known.
    """
    if set_digest(table) not in KNOWN_SETS:
        return table
    seconds = approximate_duration_s([NORMALISERS["words"](said) for said in table.references])
    return replace(
        table,
        duration_s=seconds,
        cost_layers=seconds[:, None] * table.exit_layers,
        cost_macs=None,
        head_macs=None,
        metadata={**table.metadata, "duration_is_approximate": True},
    )
