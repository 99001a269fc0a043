"""What the commands of `eeasr` share: how options are read, and how a wrong one is told."""

import argparse
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage lines."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong.

        ValueError always; `main` prints it.
        """
        raise ValueError(f"{message} (see {self.prog} --help)")


def add_command(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], int | None], about: str
) -> Parser:
    """The parser of a new command."""
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(run=run)
    return parser


def add_model_choice(parser: Parser) -> None:
    """Add the options that say how a model listens: policy, budget, device, precision, front end."""
    parser.add_argument("--policy", metavar="TEXT", help="such as entropy(0.12), or a calibrated one's name")
    parser.add_argument(
        "--budget", type=float, metavar="B", help="mean cost allowed: a share of full depth up to 1, layers above 1"
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--precision", default="float32", metavar="NAME", help="float32, bfloat16, float16 (GPU) or int8 (CPU)"
    )
    parser.add_argument(
        "--front-end", "--front_end", default="fast", metavar="NAME", help="fast (on CPUs, same output) or stock"
    )


def add_words(parser: Parser) -> None:
    """Add the option that says whose words are said."""
    parser.add_argument(
        "--words",
        choices=("exit", "fused"),
        help="of the exit that is taken, or the fusion of all exits passed, fitted by eeasr fusion (default: what "
        "the policy was certified for, else exit)",
    )


def numbers(option: str, text: str) -> list[float]:
    """Numbers with commas between them. ValueError when one is not a number.

    Example
    -------
    >>> numbers("--budgets", "7,8.5")
    [7.0, 8.5]
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as err:
        raise ValueError(f"{option} must be numbers with commas between them, such as 7,8,9, got {text!r}") from err


def whole_number(option: str, text: str) -> int:
    """A whole number from 1, one of several with commas between them. ValueError when it is none.

    Example
    -------
    >>> whole_number("--batch", "8")
    8
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(
            f"{option} must be whole numbers from 1 with commas between them, such as 1,8,32, got {text!r}"
        )
    return number
