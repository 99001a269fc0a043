"""The command `eeasr`: exit tables in, reports out. What a command needs is imported inside it."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage lines."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Arguments
    ---------
    argv : sequence of str, or None
        Without the program's name; None takes those of the process.

    Returns
    -------
    int
        0, 2 after one sentence on standard error, 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, commands = _parser()
        if argv and not argv[0].startswith("-") and argv[0] not in commands:
            raise ValueError(f"unknown command {argv[0]!r}; known: {', '.join(commands)}")
        options = parser.parse_args(argv)
        options.command_line = shlex.join(["eeasr", *argv])
        options.run(options)
    except KeyboardInterrupt:
        print("eeasr: stopped", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError) as err:
        message = err.args[0] if isinstance(err, KeyError) and err.args else err
        print(f"eeasr: error: {message}", file=sys.stderr)
        return 2
    return 0


def _parser() -> tuple[_Parser, list[str]]:
    """The parser and the names of its commands."""
    from eeasr_modules import __version__

    parser = _Parser(prog="eeasr", description="Early exit for speech recognition.")
    parser.add_argument("--version", action="version", version=f"eeasr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_analyze(commands)
    _add_import_transcripts(commands)
    return parser, list(commands.choices)


def _add_analyze(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "analyze", _analyze, "make a report from exit tables")
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="exit tables of test sets (.parquet)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for report.md and what it shows")
    parser.add_argument("--dev", metavar="TABLE", help="exit table that thresholds are chosen on")
    parser.add_argument("--policies", metavar="TEXT", help='policies to compare, such as "between(entropy)"')
    parser.add_argument("--policy", metavar="TEXT", help="the one to stress (default: the best on dev)")
    parser.add_argument(
        "--budget",
        type=float,
        default=0.75,
        metavar="B",
        help="mean cost allowed: a share of full depth up to 1, layers above 1 (default: 0.75)",
    )
    parser.add_argument(
        "--single-exit", nargs="+", default=[], metavar="TABLE", help="same sets, model trained with one exit"
    )


def _analyze(options: argparse.Namespace) -> None:
    from eeasr_modules.exits import parse_policies, parse_policy, read_table
    from eeasr_modules.report import DEFAULT_POLICIES, closing_lines, write_report

    policies = parse_policies(options.policies or DEFAULT_POLICIES)
    policy = parse_policy(options.policy) if options.policy else None
    summary = write_report(
        [read_table(path) for path in options.tables],
        options.out,
        dev=read_table(options.dev) if options.dev else None,
        policies=[str(one) for one in policies],
        policy=None if policy is None else str(policy),
        budget=options.budget,
        single_exit=[read_table(path) for path in options.single_exit],
        command=options.command_line,
    )
    print("\n".join(closing_lines(summary)))


def _add_import_transcripts(commands: argparse._SubParsersAction) -> None:
    about = "make an exit table from recorded transcripts of each exit"
    parser = _command(commands, "import-transcripts", _import_transcripts, about)
    parser.add_argument("folder", metavar="FOLDER", help="the recordings")
    parser.add_argument("--format", required=True, help="how they are laid out: exit-traces")
    parser.add_argument("--split", required=True, help="which part, such as clean")
    parser.add_argument("--model", default="ee40", help="which model's subfolder (default: ee40)")
    parser.add_argument("-o", "--output", required=True, metavar="TABLE", help="the table to write (.parquet)")


def _import_transcripts(options: argparse.Namespace) -> None:
    from eeasr_modules.exits import import_transcripts, write_table

    table = import_transcripts(options.folder, options.split, model=options.model, format=options.format)
    write_table(table, options.output)
    layers = ", ".join(map(str, table.exit_layers))
    print(f"{options.output}: {table.n_utterances} utterances, exits after layers {layers}")


def _command(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], None], about: str
) -> _Parser:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
