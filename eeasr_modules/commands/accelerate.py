"""The command `accelerate`: a model folder that leaves early, from a CTC checkpoint and recordings alone."""

import argparse
import sys

from eeasr_modules.commands.options import add_command


def add(commands: argparse._SubParsersAction) -> None:
    """Add `accelerate` to the parser's commands.

    Arguments
    ---------
    commands : argparse._SubParsersAction
        Of the parser of `eeasr`.
    """
    parser = add_command(
        commands, "accelerate", _accelerate, "make a CTC checkpoint leave early, from recordings alone"
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="CTC checkpoint or model folder, or an id on the hub")
    parser.add_argument("recordings", metavar="RECORDINGS", help="folder of audio, list, or listing with speakers")
    parser.add_argument("--changed", type=float, default=2.0, metavar="PERCENT", help="words changed (default: 2)")
    parser.add_argument("--delta", type=float, default=0.1, metavar="D", help="risk of the promise (default: 0.1)")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="of the heads (default: 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the parts and of training")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="the model folder to make")


def _accelerate(options: argparse.Namespace) -> None:
    from eeasr_modules.training.accelerate import accelerate

    found = accelerate(
        options.checkpoint,
        options.recordings,
        folder=options.out,
        changed=options.changed,
        delta=options.delta,
        n_epochs=options.epochs,
        seed=options.seed,
        device=options.device,
        say=lambda line: print(f"eeasr: {line}", file=sys.stderr),
    )
    print(found.statement)
    print(found.sentence)
