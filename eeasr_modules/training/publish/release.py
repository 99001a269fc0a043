"""Pass a trained model on: its folder and its exit tables, without the texts of recordings that are others'.

    python -m eeasr_modules.training.publish.release RUN FOLDER [--exit_excess 0.5]

copies `RUN/model` to FOLDER and the tables of `RUN/tables` to `FOLDER/tables`: what every exit heard, error counts,
signals, and for every word whether it is wrong, but no references. `--exit_excess` makes the first policy that which is
the cheapest on dev at most so many WER points above the last exit; a budget still buys what it bought.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.policies.files import read_policies, write_policies
from eeasr_modules.exits.tables.parquet import read_table, write_table
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.calibration import Calibrated, within_wer
from eeasr_modules.exits.tuning.replay import replay
from eeasr_modules.exits.tuning.watches import drift_reference


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


def at_excess(calibrated: Calibrated, dev: ExitTable, excess: float) -> Calibrated:
    """Of the policies that calibration tried the cheapest at most so many WER points above the last exit on dev.

    ValueError when the policy has a certificate, which would not hold for another threshold, or dev is another set.
    """
    name = dev.metadata.get("set_name")
    if calibrated.promise is not None or name != calibrated.calibrated_on["set_name"]:
        what = "has a certificate" if calibrated.promise is not None else f"was not calibrated on {name}"
        raise ValueError(f"{calibrated.policy} {what}: give exit_excess in the YAML and calibrate again")
    best = within_wer(calibrated.grid, dev.wer_per_exit[-1] + excess, calibrated.open_policy)
    policy = calibrated.grid.policies[best]
    return replace(
        calibrated,
        policy=policy,
        rule=f"exit_excess {excess:g}",
        dev_cost=float(calibrated.grid.cost[best]),
        dev_wer=float(calibrated.grid.wer[best]),
        drift=drift_reference(dev, policy),
    )


def on_card(card: str, first: Calibrated, tables: Sequence[ExitTable]) -> str:
    """The model card with what its first policy reaches on the test tables, before its limits."""
    dev, rows = first.calibrated_on["set_name"], []
    for table in tables:
        taken, at = replay(first.policy, table), np.arange(table.n_utterances)
        wer = 100 * table.errors[at, taken].sum() / table.n_ref_words.sum()
        depth = np.average(table.exit_layers[taken], weights=table.duration_s)
        rows.append(f"| {table.metadata['set_name']} | {wer:.2f} | {table.wer_per_exit[-1]:.2f} | {depth:.2f} |")
    said = f"The first policy of `policy.json` is `{first.policy}` ({first.rule.replace('_', ' ')} on {dev}):"
    found = "\n".join([said, "", "| set | WER | at the last exit | mean depth |", "|---|---:|---:|---:|", *rows])
    return card.replace("\n## Limits\n", f"\n{found}\n\n## Limits\n")


def ship(run: str | Path, folder: str | Path, *, excess: float | None = None) -> list[Path]:
    """Copy the model folder of a run and its tables, references taken out.

    Arguments
    ---------
    run : str or Path
        A run folder, finished.
    folder : str or Path
        Where; what it held before is replaced.
    excess : float or None
        See `at_excess`; None leaves the policies as they are.

    Raises
    ------
    FileNotFoundError
        If the run has no model or no tables.
    ValueError
        See `at_excess`.
    """
    run, folder = Path(run), Path(folder)
    tables = sorted((run / "tables").glob("*.parquet"))
    if not (run / "model" / "config.json").is_file() or not tables:
        raise FileNotFoundError(f"expected a finished run with model/ and tables/*.parquet in '{run}', found none")
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(run / "model", aside)
    if excess is not None:
        first, *others = read_policies(aside / "policy.json")
        dev = read_table(run / "tables" / f"{first.calibrated_on['set_name']}.parquet")
        first = at_excess(first, dev, excess)
        write_policies(aside / "policy.json", [first, *others])
        tests = [one for one in map(read_table, tables) if one.metadata["set_name"] != dev.metadata["set_name"]]
        if (card := aside / "README.md").is_file():
            card.write_text(on_card(card.read_text(encoding="utf-8"), first, tests), encoding="utf-8")
    for path in tables:
        write_table(shippable(read_table(path)), aside / "tables" / path.name)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0, or 2 after one sentence."""
    parser = argparse.ArgumentParser(prog="release", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a finished run's folder")
    parser.add_argument("folder", help="where to; what it held before is replaced")
    parser.add_argument("--exit_excess", type=float, metavar="POINTS", help="of the first policy above the last exit")
    options = parser.parse_args(argv)
    try:
        for path in ship(options.run, options.folder, excess=options.exit_excess):
            print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    except (FileNotFoundError, ValueError) as err:
        print(f"ship: error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
