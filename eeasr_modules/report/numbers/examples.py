"""Examples of overthinking: what an inner exit had right and the last exit has wrong, errors marked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits import ExitTable
from eeasr_modules.report.render.tables import plain_name

NOTHING = "*(nothing)*"


@dataclass(frozen=True)
class Example:
    """An utterance on which an inner exit is strictly better than the last.

    Arguments
    ---------
    set_name, utt_id : str
        Which.
    reference : str or None
        What was said; None where the table does not keep it.
    inner_layer, last_layer : int
        The best inner exit (the earliest of equals), and the last.
    inner, last : str
        Their transcripts.
    inner_errors, last_errors : int
        Their word errors.
    """

    set_name: str
    utt_id: str
    reference: str | None
    inner_layer: int
    last_layer: int
    inner: str
    last: str
    inner_errors: int
    last_errors: int


def overthinking_examples(tables: Sequence[ExitTable], *, n: int = 10) -> list[Example]:
    """The clearest cases of overthinking: most errors saved first.

    Arguments
    ---------
    tables : sequence of ExitTable
        The first one gives all it can, then the next.
    n : int
        How many at most.
    """
    found: list[Example] = []
    for table in tables:
        if table.n_exits > 1 and len(found) < n:
            found += _examples_of(table, n - len(found))
    return found


def _examples_of(table: ExitTable, n: int) -> list[Example]:
    inner = np.argmin(table.errors[:, :-1], axis=1)
    fewest, last = table.errors[np.arange(table.n_utterances), inner], table.errors[:, -1]
    # most saved first; of equals the one with fewer errors left, then the table's order
    order = np.lexsort((np.arange(table.n_utterances), fewest, fewest - last))
    rows = [row for row in order if fewest[row] < last[row]][:n]
    return [
        Example(
            set_name=str(table.metadata.get("set_name", "")),
            utt_id=table.utt_ids[row],
            reference=None if table.references is None else table.references[row],
            inner_layer=int(table.exit_layers[inner[row]]),
            last_layer=int(table.exit_layers[-1]),
            inner=table.hypotheses[row, inner[row]],
            last=table.hypotheses[row, -1],
            inner_errors=int(fewest[row]),
            last_errors=int(last[row]),
        )
        for row in rows
    ]


def marked(reference: str, hypothesis: str) -> str:
    """A transcript in Markdown: wrong and added words bold, missing ones struck out.

    Example
    -------
    >>> print(marked("one two three", "one too three four"))
    one **too** three **four**
    >>> print(marked("one two three", "one three"))
    one ~~two~~ three
    """
    expected, words = reference.split(), hypothesis.split()
    shown = []
    for code in Levenshtein.opcodes(expected, words):
        if code.tag == "delete":
            shown += [f"~~{escaped(word)}~~" for word in expected[code.src_start : code.src_end]]
        else:
            mark = "" if code.tag == "equal" else "**"
            shown += [f"{mark}{escaped(word)}{mark}" for word in words[code.dest_start : code.dest_end]]
    return " ".join(shown) or NOTHING


def escaped(word: str) -> str:
    """A word whose characters mean nothing to Markdown.

    Example
    -------
    >>> print(escaped("a*b_c<unk>"))
    a\\*b\\_c\\<unk\\>
    """
    return re.sub(r"([\\`*_{}\[\]<>~|#])", r"\\\1", word)


def examples_text(examples: Sequence[Example]) -> str:
    """Examples as a Markdown list."""
    return "\n".join(_text(i, example) for i, example in enumerate(examples, start=1))


def _text(i: int, example: Example) -> str:
    lines = [f"{i}. {plain_name(example.utt_id)} ({plain_name(example.set_name)})"]
    if example.reference is None:
        inner, last = escaped(example.inner) or NOTHING, marked(example.inner, example.last)
    else:
        lines.append(f"    - said: {escaped(example.reference) or NOTHING}")
        inner = marked(example.reference, example.inner)
        last = marked(example.reference, example.last)
    errors = ((example.inner_layer, example.inner_errors, inner), (example.last_layer, example.last_errors, last))
    lines += [f"    - layer {layer}, {_errors(count)}: {text}" for layer, count, text in errors]
    return "\n".join(lines)


def _errors(count: int) -> str:
    return "1 error" if count == 1 else f"{count or 'no'} errors"
