"""Pass a trained model on: its folder and its exit tables, without the texts of recordings that are others'.

    python -m eeasr_modules.training.publish.release RUN FOLDER

copies `RUN/model` to FOLDER and the tables of `RUN/tables` to `FOLDER/tables`: what every exit heard, error counts,
signals, and for every word whether it is wrong, but no references.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.tables.parquet import read_table, write_table
from eeasr_modules.exits.tables.table import ExitTable


def wrong_words(hypothesis: str, reference: str) -> np.ndarray:
    """1 for every word of the hypothesis that is inserted or stands for another one, else 0; shape (n_words,).

    Example
    -------
    >>> wrong_words("A BAT SAT DOWN", "A CAT SAT").tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    words = hypothesis.split()
    flags = np.zeros(len(words), dtype=np.float32)
    for step in Levenshtein.editops(reference.split(), words):
        if step.tag != "delete":
            flags[step.dest_pos] = 1.0
    return flags


def shippable(table: ExitTable) -> ExitTable:
    """The table without references, with the word list `word_wrong` in their place."""
    if table.references is None:
        return table
    flags = np.empty(table.hypotheses.shape, dtype=object)
    for row, reference in enumerate(table.references):
        for e, hypothesis in enumerate(table.hypotheses[row]):
            flags[row, e] = wrong_words(hypothesis, reference)
    return replace(table, word_lists={**table.word_lists, "word_wrong": flags}).without_references()


def ship(run: str | Path, folder: str | Path) -> list[Path]:
    """Copy the model folder of a run and its tables, references taken out.

    Arguments
    ---------
    run : str or Path
        A run folder, finished.
    folder : str or Path
        Where; what it held before is replaced.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    FileNotFoundError
        If the run has no model or no tables.
    """
    run, folder = Path(run), Path(folder)
    tables = sorted((run / "tables").glob("*.parquet"))
    if not (run / "model" / "config.json").is_file() or not tables:
        raise FileNotFoundError(f"expected a finished run with model/ and tables/*.parquet in '{run}', found none")
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(run / "model", aside)
    for path in tables:
        write_table(shippable(read_table(path)), aside / "tables" / path.name)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0, or 2 after one sentence."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if len(argv) != 2:
        print("usage: python -m eeasr_modules.training.publish.release RUN FOLDER", file=sys.stderr)
        return 2
    try:
        for path in ship(*argv):
            print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    except (FileNotFoundError, ValueError) as err:
        print(f"ship: error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
