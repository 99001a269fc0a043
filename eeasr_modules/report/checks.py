"""Which tables may stand in one report, and in which order."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from eeasr_modules.exits import ExitTable, refuse_same_set
from eeasr_modules.exits.table_checks import SET_LABELS


def check_tables(tables: Sequence[ExitTable], *, dev: ExitTable | None, single_exit: Sequence[ExitTable]) -> None:
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
        When there is no table, names are missing or shared, tables differ in their exits or are of different
        models, a table is the calibration data, or a single-exit table has several exits.
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
    for table in tables[1:]:
        _refuse_other_model(tables[0], table, name=repr(names[0]))
    for table in tables if dev is not None else ():
        refuse_same_set(dev.metadata, table)
        _refuse_other_model(dev, table, name="dev")
    for single in single_exit:
        if single.n_exits != 1:
            raise ValueError(
                f"a single-exit table must have one exit, but that of {single.metadata.get('set_name')!r} "
                f"has exits after layers {single.exit_layers.tolist()}"
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


def match_single_exits(
    tables: Sequence[ExitTable], single_exit: Sequence[ExitTable], *, dev: ExitTable | None
) -> tuple[dict[str, ExitTable], dict[str, str]]:
    """Which single-exit table stands beside which set.

    Arguments
    ---------
    tables : sequence of ExitTable
        Test sets.
    single_exit : sequence of ExitTable
        Of models with one exit, found by their set_name.
    dev : ExitTable or None
        Calibration data; its own single-exit table is passed over.

    Returns
    -------
    tuple of (dict of str to ExitTable, dict of str to str)
        By set name, utterances in the set's order; and reasons for those that cannot be compared.
    """
    sets = {table.metadata["set_name"]: table for table in tables}
    matched, left_out = {}, {}
    for single in single_exit:
        name = single.metadata.get("set_name")
        if dev is not None and name == dev.metadata.get("set_name"):
            continue
        reason = "no such set is reported" if name not in sets else _why_not_paired(single, sets[name])
        if reason is None and name in matched:
            reason = "there is more than one"
        if reason is None:
            row_of = {utt_id: row for row, utt_id in enumerate(single.utt_ids)}
            matched[name] = single.select(np.array([row_of[utt_id] for utt_id in sets[name].utt_ids]))
        else:
            left_out[f"single-exit table of {name}"] = reason
    return matched, left_out


def _why_not_paired(single: ExitTable, table: ExitTable) -> str | None:
    words, others = (dict(zip(one.utt_ids, one.n_ref_words)) for one in (single, table))
    if set(words) != set(others):
        return f"it holds other utterances ({len(words)} and {len(others)}, {len(set(words) & set(others))} shared)"
    if words != others:
        return "its references have other numbers of words; collect both with the same normalisation"
    return None


def _refuse_other_model(first: ExitTable, table: ExitTable, *, name: str) -> None:
    other = table.metadata["set_name"]
    if first.exit_layers.tolist() != table.exit_layers.tolist():
        hint = "; give models with one exit by --single-exit" if 1 in (first.n_exits, table.n_exits) else ""
        raise ValueError(
            f"{name} and {other!r} must be of one model, but their exits are after layers "
            f"{first.exit_layers.tolist()} and {table.exit_layers.tolist()}{hint}"
        )
    for key, what in (("model_digest", "model digests"), ("model_name", "models")):
        ours, theirs = first.metadata.get(key), table.metadata.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            raise ValueError(
                f"{name} and {other!r} must be of one model, but their {what} are {ours} and {theirs}; "
                f"collect both with the same checkpoint, or make a report of each"
            )
