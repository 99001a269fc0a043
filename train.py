"""Train a multi-exit recogniser, score every exit, compare exit policies, write the report.

    python train.py hparams/an4.yaml [--data_folder FOLDER] [--exit_policy "patience(2, 0.1)"] [--test_only]

Any key of the YAML can be overridden as `--key value`; SpeechBrain's own options (`--device`, `--precision`, ...) work
too. A run that was stopped goes on where it was when the same command is given again.
"""

import os
import sys
from pathlib import Path

# oneDNN keeps compiled code for every shape it meets, 1,024 of them by default; utterances have as many lengths, and
# the test pass of wav2vec2-base grew by 700 MiB over 100 of them (by 110 MiB with 64). Read when torch starts.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

from eeasr_modules.compat import ensure_torchaudio

ensure_torchaudio()


def main(argv: list[str]) -> int:
    """Run everything; 0 when done, 2 when something about the input or the disk was wrong (one sentence says what)."""
    from eeasr_modules.training.run import leaves_nothing, set_up, why_refused
    from eeasr_modules.training.run_folder import release_all, why_not_written

    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    try:
        run = set_up(argv, recipes=Path(__file__).resolve().parent / "recipes")
    except (ValueError, OSError) as err:
        release_all()
        print(f"train.py: error: {err}", file=sys.stderr)
        return 2
    try:
        with leaves_nothing(run.folder, new=run.new):
            return train_and_report(run)
    except Exception as err:
        why = why_not_written(err, folder=run.folder)
        if why is None:
            said = why_refused(err)
            if said is None:
                raise
            print(f"train.py: error: {said}", file=sys.stderr)
            return 2
        print(
            f"train.py: error: the run folder '{run.folder}' cannot be written ({why}): make room there or mend its "
            "permissions; what was finished is whole, and the same command goes on from it",
            file=sys.stderr,
        )
        return 2
    finally:
        release_all()


def train_and_report(run) -> int:
    """Everything after the checks; 0."""
    from eeasr_modules.report import closing_lines, write_report
    from eeasr_modules.training.fit import fit
    from eeasr_modules.training.publish.release import write_card
    from eeasr_modules.training.run import calibrate, collect_all, single_exit_tables

    model = fit(run.config, run.corpora, folder=run.folder, run_opts=run.run_opts)
    dev, tests = collect_all(run, model)
    if not run.is_main:
        return 0
    calibrated, fusion = calibrate(run, dev, tests)
    summary = write_report(
        tests,
        run.folder / "report",
        dev=dev,
        policies=[str(one.open_policy) for one in calibrated],
        policy=str(calibrated[0].open_policy) if calibrated else None,
        budget=run.config.exit_budget,
        calibrated={str(one.open_policy): one.policy for one in calibrated},
        single_exit=single_exit_tables(run.config),
        fusion=fusion,
    )
    write_card(run.folder / "model", run.config, summary)
    print("\n".join(closing_lines(summary)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\ntrain.py: stopped; the same command goes on where this run was", file=sys.stderr)
        sys.exit(130)
