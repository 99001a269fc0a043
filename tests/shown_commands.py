"""The commands that documents show: indented and fenced blocks in full, and those named in running text."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *(path for name in ("docs", "recipes", "results") for path in (ROOT / name).rglob("*.md"))}
)
PROGRAMS = ("eeasr", "python", "make", "torchrun", "pip")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.S | re.M)
SETTING = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Shown:
    """A command.

    Arguments
    ---------
    document : str
        Where it is shown.
    words : tuple of str
        The program first.
    is_whole : bool
        It stands in a block, to be copied; else in running text, where arguments may be missing.
    """

    document: str
    words: tuple[str, ...]
    is_whole: bool

    def __str__(self):
        return f"{self.document}: {shlex.join(self.words)}"


def shown(text, document=""):
    """Every command of a Markdown text.

    Arguments
    ---------
    text : str
        Of the document.
    document : str
        Its name.

    Example
    -------
    >>> text = "Run `make env`:\\n\\n    ls | eeasr score -  # slow\\n    x = 1\\n\\n```\\n$ make \\\\\\n  an4\\n```\\n"
    >>> [(one.words, one.is_whole) for one in shown(text)]
    [(('eeasr', 'score', '-'), True), (('make', 'an4'), True), (('make', 'env'), False)]
    """
    fenced = [body for _, language, body in FENCE.findall(text) if language not in ("python", "yaml", "json")]
    prose = FENCE.sub("\n", text)
    block = r"(?:^[ \t]*\n)((?:^ {4,}\S.*\n|^[ \t]*\n)+)"
    blocks = re.findall(block, prose + "\n", re.M)
    lines = [line for one in [*blocks, *fenced] for line in _joined(one).splitlines()]
    named = re.findall(r"`([^`\n]+)`", re.sub(block, "\n", prose + "\n", flags=re.M))
    found = [(line, True) for line in lines] + [(line, False) for line in named]
    return [Shown(document, words, whole) for line, whole in found for words in _commands(line)]


def _joined(block):
    return re.sub(r"\s*\\\n\s*", " ", block)


def _commands(line):
    """The commands of a line of shell: without settings before them, pipes and what is written where."""
    try:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    except ValueError:  # an apostrophe in prose, or the first line of `python -c "`
        return
    here = []
    for word in [*words, "|"]:
        if word not in ("|", "&&", ";", ">"):
            here.append(word)
            continue
        while here and SETTING.fullmatch(here[0]):
            here = here[1:]
        if here and here[0] in PROGRAMS:
            yield tuple(here)
        here = []


def all_shown(*start):
    """Commands of every document that begin with these words.

    Arguments
    ---------
    *start : str
        Such as "python", "train.py".
    """
    found = [one for path in DOCUMENTS for one in shown(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())]
    return [one for one in found if one.words[: len(start)] == start]
