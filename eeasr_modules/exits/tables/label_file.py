"""The file in which new speech is labelled: rows of utterance id, tab, reference, to be filled in by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from eeasr_modules.common.files import write_aside

NOTHING_SAID = "-"


def read_labels(path: str | Path) -> dict[str, str]:
    """References by utterance id; rows without one are left out.

    Arguments
    ---------
    path : str or Path
        Rows id, tab, reference; a lone "-" for a recording in which nothing is said. A file that is not there has none.

    Returns
    -------
    dict of str to str

    Raises
    ------
    ValueError
        When a row has no tab, or an id comes twice.
    """
    found: dict[str, str] = {}
    path = Path(path)
    if not path.is_file():
        return found
    seen = set()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        utt_id, tab, reference = line.partition("\t")
        if not tab or utt_id in seen:
            what = "came before" if utt_id in seen else "has no tab"
            raise ValueError(
                f"{path}, line {number}, must be an id, a tab and what is said, each id once; {line!r} {what}"
            )
        seen.add(utt_id)
        if reference.strip():
            found[utt_id] = "" if reference.strip() == NOTHING_SAID else " ".join(reference.split())
    return found


def write_labels(path: str | Path, order: Sequence[str], references: Mapping[str, str]) -> None:
    """Write the rows in the order of the draws, then other labels that were there; nothing that was typed is lost.

    Arguments
    ---------
    path : str or Path
        Written aside and renamed.
    order : sequence of str
        Ids that were drawn.
    references : mapping of str to str
        Known ones.
    """
    ids = [*order, *(utt_id for utt_id in references if utt_id not in set(order))]
    rows = [f"{utt_id}\t{(references[utt_id] or NOTHING_SAID) if utt_id in references else ''}\n" for utt_id in ids]
    write_aside(Path(path), "".join(rows))
