"""The command `probe`: does a checkpoint overthink?"""

import argparse
import sys
from pathlib import Path

from eeasr_modules.commands.options import add_command


def add(commands: argparse._SubParsersAction) -> None:
    """Add `probe` to the parser's commands.

    Arguments
    ---------
    commands : argparse._SubParsersAction
        Of the parser of `eeasr`.
    """
    parser = add_command(commands, "probe", _probe, "does a checkpoint overthink: every layer read, trained, tested")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="hub id, folder as transformers saves it, SpeechBrain CTC run"
    )
    parser.add_argument("--encoder", metavar="FOLDER", help="of a SpeechBrain run, offline: its wav2vec2_hub")
    parser.add_argument("--data", required=True, metavar="[CORPUS:]FOLDER", help="to learn from and test on")
    parser.add_argument("--ood", nargs="+", default=[], metavar="[CORPUS:]FOLDER", help="other corpora to test on")
    parser.add_argument(
        "--splits", default="train/dev/test", metavar="A/B/C", help="of --data (default: train/dev/test)"
    )
    parser.add_argument("--ood-splits", default="test", metavar="NAMES", help="of each --ood (default: test)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="heads trained so often; 0: the lens alone")
    parser.add_argument("--epochs", type=int, metavar="N", help="of heads (default: 10)")
    parser.add_argument("--limit", type=int, metavar="N", help="utterances of each split at most")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder for everything")


def _probe(options: argparse.Namespace) -> None:
    from eeasr_modules.compat import ensure_torchaudio

    ensure_torchaudio()
    import eeasr_modules
    from eeasr_modules.report import write_report
    from eeasr_modules.report.render.probe import paired_rows, write_probe
    from eeasr_modules.training.probe import seen, set_up, texts_seen
    from eeasr_modules.training.run_folder import hold, release_all

    if options.seeds < 0:
        raise ValueError(f"--seeds must be 0 (the lens alone) or more, got {options.seeds}")
    parts = options.splits.split("/")
    if len(parts) != 3 or not all(parts):
        raise ValueError(
            f"--splits must be three names with / between them, such as train/dev/test, got {options.splits}"
        )
    out = Path(options.out)
    try:
        hold(out)
        probe = set_up(
            options.checkpoint,
            data=options.data,
            ood=options.ood,
            folder=out,
            root=Path(eeasr_modules.__file__).parents[1],
            splits=[part.split(",") for part in parts],
            ood_splits=options.ood_splits.split(","),
            options=_as_train(options),
            encoder=options.encoder,
        )
        if not probe.has_lens and not options.seeds:
            raise ValueError(
                f"'{options.checkpoint}' has no decoder and no CTC head that spells the texts: give --seeds 1 or more"
            )
        needs = probe.needs(options.seeds)
        print(f"eeasr: {needs}", file=sys.stderr)
        readings = [probe.lens()] if probe.has_lens else []
        readings += [probe.heads(probe.config.seed + i) for i in range(options.seeds)]
    finally:
        release_all()
    for one in readings:
        write_report(
            one.tests,
            one.folder / "report",
            dev=one.dev,
            policies=[str(each.open_policy) for each in one.policies],
            policy=str(one.policies[0].open_policy) if one.policies else None,
            budget=probe.config.exit_budget,
            calibrated={str(each.open_policy): each.policy for each in one.policies},
            command=options.command_line,
        )
    corpora = probe.corpora
    numbers = write_probe(
        out,
        {one.name: (one.dev, one.tests) for one in readings},
        checkpoint=options.checkpoint,
        command=options.command_line,
        overlap={
            one.name: (seen(corpora.train, one.manifests), texts_seen(corpora.train, one.manifests))
            for one in corpora.tests
        },
        needs=needs,
    )
    for row in paired_rows(numbers)[1]:
        print("{}, {}: layer {} minus the last {} (p {}); {} overthought: {}".format(*row))
    print(f"Written: {out}/probe.md, tables.tex, figures.pdf, methods.md; exit tables in {out}/*/tables")


def _as_train(options: argparse.Namespace) -> list[str]:
    """What `train.py` would be given."""
    given = ["--noprogressbar"]
    for name, value in (("n_epochs", options.epochs), ("test_utterances", options.limit), ("device", options.device)):
        given += [f"--{name}", str(value)] if value is not None else []
    if options.limit is not None:
        given += ["--train_utterances", str(options.limit)]
    return given
