"""What an exit table must fulfil; `ExitTable` runs these checks on construction."""

from dataclasses import fields
from typing import Any

import numpy as np

SET_LABELS = ("in_domain", "shifted", "ood", "unknown")
PER_UTTERANCE = {"n_ref_words": np.int64, "n_ref_chars": np.int64, "n_frames": np.int64, "duration_s": np.float64}
PER_EXIT = {"n_sub": np.int64, "n_del": np.int64, "n_ins": np.int64, "n_char_errors": np.int64}
PER_EXIT |= {"cost_layers": np.float64, "cost_macs": np.float64, "head_macs": np.float64, "decoder_macs": np.float64}
OPTIONAL = ("cost_macs", "head_macs", "decoder_macs")
AVERAGED_COUNTS = ("n_sub", "n_del", "n_ins", "n_char_errors")
AVERAGED = ("hypotheses", *AVERAGED_COUNTS)


def coerced(table: Any) -> dict[str, Any]:
    """Every field of a table as an array of its type, with its shape checked.

    ValueError when a shape does not agree with the numbers of utterances and exits.
    """
    exit_layers = np.asarray(table.exit_layers, dtype=np.int64)
    n, e = len(table.utt_ids), len(exit_layers)
    values: dict[str, Any] = {
        "exit_layers": exit_layers,
        "utt_ids": np.array([str(x) for x in table.utt_ids], dtype=object),
        "speakers": np.array(["" if x is None else str(x) for x in table.speakers], dtype=object),
        "hypotheses": np.asarray(table.hypotheses, dtype=object),
    }
    shapes = {"utt_ids": (n,), "speakers": (n,), "exit_layers": (e,), "hypotheses": (n, e)}
    for kinds, shape in ((PER_UTTERANCE, (n,)), (PER_EXIT, (n, e))):
        for name, dtype in kinds.items():
            value = getattr(table, name)
            if value is None and name in OPTIONAL:
                continue
            values[name], shapes[name] = np.asarray(value, dtype=dtype), shape
    if table.references is not None:
        values["references"], shapes["references"] = np.asarray(table.references, dtype=object), (n,)
    if table.emitted is not None:
        values["emitted"], shapes["emitted"] = np.asarray(table.emitted, dtype=object), (n, e)
    for name, shape in shapes.items():
        if values[name].shape != shape:
            raise ValueError(f"{name} must have shape {shape} (utterances, exits), got {values[name].shape}")
    signals = {name: np.asarray(value, dtype=np.float64) for name, value in table.signals.items()}
    for name, value in signals.items():
        if value.shape != (n, e):
            raise ValueError(f"signal {name} must have shape {(n, e)} (utterances, exits), got {value.shape}")
    extras = {"word_lists": _coerced_word_lists(table, (n, e)), "averaged": _coerced_averaged(table, (n, e))}
    return {**values, **extras, "signals": signals, "metadata": dict(table.metadata)}


def _coerced_word_lists(table: Any, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Object arrays of float32 arrays, whatever nesting they come in."""
    word_lists = {}
    for name, rows in table.word_lists.items():
        if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
            raise ValueError(f"word list {name} must have shape {shape} (utterances, exits), each a list of numbers")
        lists = np.empty(shape, dtype=object)
        for i, row in enumerate(rows):
            for k, values in enumerate(row):
                lists[i, k] = np.asarray(values, dtype=np.float32)
        word_lists[name] = lists
    return word_lists


def _coerced_averaged(table: Any, shape: tuple[int, int]) -> dict[str, np.ndarray] | None:
    if table.averaged is None:
        return None
    if set(table.averaged) != set(AVERAGED):
        raise ValueError(f"averaged must hold {', '.join(AVERAGED)}, got {', '.join(table.averaged) or 'nothing'}")
    kinds = {"hypotheses": object}
    averaged = {name: np.asarray(table.averaged[name], dtype=kinds.get(name, np.int64)) for name in AVERAGED}
    for name, values in averaged.items():
        if values.shape != shape:
            raise ValueError(f"averaged {name} must have shape {shape} (utterances, exits), got {values.shape}")
    return averaged


def check_table(table: Any) -> None:
    """Refuse a table whose names, numbers or metadata are not as `ExitTable` says.

    ValueError naming the rule and the first place where it does not hold.
    """
    _check_names(table)
    _check_numbers(table)
    _check_metadata(table)


def _check_names(table: Any) -> None:
    layers = table.exit_layers
    if table.n_utterances == 0 or table.n_exits == 0:
        raise ValueError(
            f"an exit table needs at least one utterance and one exit, got {table.n_utterances} and {table.n_exits}"
        )
    if layers[0] < 1 or (np.diff(layers) <= 0).any():
        raise ValueError(f"exit_layers must rise and start at 1 or above, got {layers.tolist()}")
    if len(set(table.utt_ids)) != table.n_utterances:
        seen: set[str] = set()
        twice = next(x for x in table.utt_ids if x in seen or seen.add(x))
        raise ValueError(f"utt_ids must be unique, but {twice!r} occurs more than once")
    reserved = {f.name for f in fields(table)} | {"utt_id", "speaker", "reference", "hypothesis", "exit_layer"}
    reserved |= {"averaged_hypothesis", *(f"averaged_{name}" for name in AVERAGED_COUNTS)}
    clash = sorted(reserved & set(table.signals))
    if clash:
        raise ValueError(f"signal names must differ from the table's own columns, got {', '.join(clash)}")
    clash = sorted((reserved | set(table.signals)) & set(table.word_lists))
    if clash:
        raise ValueError(f"names of word lists must differ from columns and signals, got {', '.join(clash)}")


def _check_numbers(table: Any) -> None:
    for name in ("n_ref_words", "n_ref_chars", "n_frames", "n_sub", "n_del", "n_ins", "n_char_errors"):
        _require(getattr(table, name) >= 0, table, f"{name} must not be negative")
    _require(np.isfinite(table.duration_s) & (table.duration_s > 0), table, "duration_s must be above 0 and finite")
    _require(
        table.n_sub + table.n_del <= table.n_ref_words[:, None], table, "n_sub + n_del must not exceed n_ref_words"
    )
    expected = table.duration_s[:, None] * table.exit_layers
    _require(np.isclose(table.cost_layers, expected, rtol=1e-6), table, "cost_layers must be exit_layer * duration_s")
    for name in OPTIONAL:
        value = getattr(table, name)
        if value is not None:
            _require(np.isfinite(value) & (value >= 0), table, f"{name} must be finite and not negative")
    if table.cost_macs is not None:
        _require(np.diff(table.cost_macs, axis=1) >= 0, table, "cost_macs must not fall from an exit to the next")
    for name, value in table.signals.items():
        _require(np.isfinite(value), table, f"signal {name} must be finite")
    _check_word_lists(table)
    if table.averaged is not None:
        for name in AVERAGED_COUNTS:
            _require(table.averaged[name] >= 0, table, f"averaged {name} must not be negative")
    if table.n_ref_words.sum() == 0:
        raise ValueError("the references hold no words at all, so no word error rate can be computed")


def _check_word_lists(table: Any) -> None:
    """As many finite numbers as the transcript has words."""
    if not table.word_lists:
        return
    shape = table.hypotheses.shape
    n_words = np.array([len(text.split()) for text in table.hypotheses.ravel()]).reshape(shape)
    for name, lists in table.word_lists.items():
        shapes = [values.shape for values in lists.ravel()]
        fits = np.array([one == (n,) for one, n in zip(shapes, n_words.ravel(), strict=True)]).reshape(shape)
        _require(fits, table, f"word list {name} must hold a number for each word of the transcript")
        if not np.isfinite(np.concatenate(lists.ravel())).all():
            finite = np.array([np.isfinite(values).all() for values in lists.ravel()]).reshape(shape)
            _require(finite, table, f"word list {name} must be finite")


def _require(holds: np.ndarray, table: Any, rule: str) -> None:
    if holds.all():
        return
    where = np.argwhere(~holds)[0]
    place = f"utterance {table.utt_ids[where[0]]!r}"
    if len(where) > 1:
        place += f" at exit {where[1]} (from 0)"
    raise ValueError(f"{rule}, but it does not hold for {place} ({int((~holds).sum())} such entries)")


def _check_metadata(table: Any) -> None:
    label = table.metadata.get("set_label", "unknown")
    if label not in SET_LABELS:
        raise ValueError(f"set_label must be one of {', '.join(SET_LABELS)}, got {label!r}")
    if table.n_layers < table.exit_layers[-1]:
        raise ValueError(
            f"n_layers must be at least the last exit's layer {table.exit_layers[-1]}, got {table.n_layers}"
        )
    declared = table.metadata.get("exit_layers")
    if declared is not None and list(declared) != table.exit_layers.tolist():
        raise ValueError(
            f"metadata says exit_layers {list(declared)}, but the table's are {table.exit_layers.tolist()}"
        )
