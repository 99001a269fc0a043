"""Which tables may stand in one report, and in which order."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from eeasr_modules.exits import ExitTable, refuse_same_set
from eeasr_modules.exits.table_checks import SET_LABELS


def check_tables(
    tables: Sequence[ExitTable], *, dev: ExitTable | None, single_exit: Sequence[ExitTable]
) -> None:
    """Refuse tables that cannot be reported together.

    Arguments
    ---------
    tables : sequence of ExitTable
        Test sets.
    dev : ExitTable or None
        Calibration data.
    single_exit : sequence of ExitTable
        Of models with one exit.

    Raises
    ------
    ValueError
        When there is no table, names are missing or shared, a table is the calibration data or of another
        model, or a single-exit table has several exits or belongs to no set.
    """
    if not tables:
        raise ValueError("a report needs at least one exit table of a test set, got none")
    names = [table.metadata.get("set_name") for table in tables]
    if not all(names):
        raise ValueError("every table of a report needs a set_name in its metadata, and one has none")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"every table of a report needs its own set_name, but {twice[0]!r} comes {names.count(twice[0])} "
            f"times; put models or repetitions into reports of their own"
        )
    for table in tables if dev is not None else ():
        refuse_same_set(dev.metadata, table)
        _refuse_other_model(dev, table)
    for single in single_exit:
        if single.n_exits != 1:
            raise ValueError(
                f"a single-exit table must have one exit, but that of {single.metadata.get('set_name')!r} "
                f"has exits after layers {single.exit_layers.tolist()}"
            )
        if not any(_same_set(single, table) for table in tables):
            raise ValueError(
                f"the single-exit table of {single.metadata.get('set_name')!r} belongs to none of the "
                f"reported sets: {', '.join(names)}"
            )


def ordered(tables: Sequence[ExitTable]) -> list[ExitTable]:
    """In domain first, then shifted, then out of domain, then unknown; else as given.

    Arguments
    ---------
    tables : sequence of ExitTable
        Test sets.

    Returns
    -------
    list of ExitTable
    """
    return sorted(tables, key=lambda table: SET_LABELS.index(table.metadata.get("set_label", "unknown")))


def single_exit_of(table: ExitTable, single_exit: Sequence[ExitTable]) -> ExitTable | None:
    """The single-exit table of a set.

    Arguments
    ---------
    table : ExitTable
        The set.
    single_exit : sequence of ExitTable
        To look in.

    Returns
    -------
    ExitTable or None

    Raises
    ------
    ValueError
        When there are several.
    """
    found = [single for single in single_exit if _same_set(single, table)]
    if len(found) > 1:
        raise ValueError(
            f"expected at most one single-exit table of {table.metadata['set_name']!r}, got {len(found)}"
        )
    return found[0] if found else None


def paired_errors(single: ExitTable, table: ExitTable) -> np.ndarray:
    """Errors of the single exit, in the order of the other table's utterances.

    Arguments
    ---------
    single : ExitTable
        One exit.
    table : ExitTable
        The same utterances.

    Returns
    -------
    np.ndarray of shape (n_utterances,)

    Raises
    ------
    ValueError
        When utterances or their reference words differ.
    """
    row_of = {utt_id: row for row, utt_id in enumerate(single.utt_ids)}
    if set(row_of) != set(table.utt_ids):
        n_shared = len(set(row_of) & set(table.utt_ids))
        raise ValueError(
            f"the single-exit table of {table.metadata['set_name']!r} must hold the same utterances: it has "
            f"{single.n_utterances}, the other {table.n_utterances}, and they share {n_shared}"
        )
    rows = np.array([row_of[utt_id] for utt_id in table.utt_ids])
    if (single.n_ref_words[rows] != table.n_ref_words).any():
        raise ValueError(
            f"the single-exit table of {table.metadata['set_name']!r} counts other reference words; "
            f"collect both with the same normalisation"
        )
    return single.errors[rows, -1]


def _same_set(one: ExitTable, other: ExitTable) -> bool:
    return one.metadata.get("set_name") == other.metadata["set_name"]


def _refuse_other_model(dev: ExitTable, table: ExitTable) -> None:
    name = table.metadata["set_name"]
    if dev.exit_layers.tolist() != table.exit_layers.tolist():
        raise ValueError(
            f"dev and {name!r} must be of one model, but their exits are after layers "
            f"{dev.exit_layers.tolist()} and {table.exit_layers.tolist()}"
        )
    ours, theirs = dev.metadata.get("model_digest"), table.metadata.get("model_digest")
    if ours is not None and theirs is not None and ours != theirs:
        raise ValueError(
            f"dev and {name!r} must be of one model, but their model digests are {ours} and {theirs}; "
            f"collect both with the same checkpoint"
        )
