"""The command `eeasr`; its commands are in `eeasr_modules.commands`."""

import argparse
import shlex
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    `argv`: without the program's name; None takes those of the process. Returns: 0; 1 when some recordings could not be
    transcribed; 2 after one sentence on standard error; 130 when interrupted.
    """
    from eeasr_modules.compat import wait_passively

    argv = list(sys.argv[1:] if argv is None else argv)
    wait_passively()
    try:
        parser, commands = _parser()
        if argv and not argv[0].startswith("-") and argv[0] not in commands:
            raise ValueError(f"unknown command {argv[0]!r}; known: {', '.join(commands)}")
        options = parser.parse_args(argv)
        options.command_line = shlex.join(["eeasr", *argv])
        return options.run(options) or 0
    except KeyboardInterrupt:
        print("eeasr: stopped", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError, ImportError) as err:
        message = err.args[0] if isinstance(err, KeyError) and err.args else err
        print(f"eeasr: error: {message}", file=sys.stderr)
        return 2


def _parser():
    """The parser and the names of its commands."""
    from eeasr_modules import __version__
    from eeasr_modules.commands import models, recordings, tables
    from eeasr_modules.commands.options import Parser, add_command

    parser = Parser(prog="eeasr", description="Early exit for speech recognition.")
    parser.add_argument("--version", action="version", version=f"eeasr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (tables, recordings, models):
        module.add(commands)
    completion = add_command(commands, "completion", _completion, "print a script that completes commands on Tab")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return parser, list(commands.choices)


def _completion(options: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError as err:
        raise ValueError("completion needs the package shtab: pip install shtab") from err
    print(shtab.complete(_parser()[0], shell=options.shell))


if __name__ == "__main__":
    sys.exit(main())
