"""The commands that README.md and the recipes' READMEs show exist and take the options they are given."""

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("README.md"), *sorted((ROOT / "recipes").rglob("README.md"))]


def code_of(text):
    """Lines inside code fences and inline code of a Markdown text, continued lines joined.

    Example
    -------
    >>> code_of("Run `make env` then\\n```bash\\n$ make an4 \\\\\\n  DATA=x  # slow\\n```\\n")
    ['make an4 DATA=x', 'make env']
    """
    fence = re.compile(r"^```[^\n]*\n(.*?)^```", re.S | re.M)
    blocks = [re.sub(r"\s*\\\n\s*", " ", block).splitlines() for block in fence.findall(text)]
    lines = [line for block in blocks for line in block] + re.findall(r"`([^`\n]+)`", fence.sub("", text))
    return [re.sub(r"\s+# .*$", "", line).strip().removeprefix("$ ") for line in lines]


def commands(*start):
    """(document, words) of every shown command that begins with these words."""
    found = []
    for document in DOCUMENTS:
        for line in code_of(document.read_text("utf-8")):
            try:
                words = shlex.split(line)
            except ValueError:  # a quotation mark in prose, not a command
                continue
            if tuple(words[: len(start)]) == start:
                found.append(("/".join(document.parts[-2:]), words[len(start) :]))
    return found


def options(words):
    """Long options among the words of a command, without values."""
    return [word.split("=")[0] for word in words if word.startswith("--")]


@cache
def makefile():
    """Targets and settings of the Makefile."""
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z][\w-]*):", text, re.M)), set(re.findall(r"^([A-Z]+) \?=", text, re.M))


@cache
def train_options():
    """What `train.py` takes beside YAML keys: SpeechBrain's run options and its own."""
    from speechbrain.core import RunOptions

    own = ast.walk(ast.parse((ROOT / "train.py").read_text("utf-8")))
    text = [node.value for node in own if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {f"--{name}" for name in RunOptions().as_dict()} | {t for t in text if t.startswith("--")}


def known_to_train(option):
    config = pytest.importorskip("eeasr_modules.training.config", reason="training.config is not there yet")
    name = option.removeprefix("--")
    return name in config.KEYS or config.OTHER_KEY.fullmatch(name) or option in train_options()


def needs(name):
    if not (ROOT / name).exists():
        pytest.skip(f"{name} is not there yet")


def test_every_make_command_names_a_target_and_settings_that_exist():
    needs("README.md")
    check_make_commands()


def check_make_commands():
    targets, settings = makefile()
    settings |= {"TORCH_INDEX", "ALLOW_CUDA"}  # read by constraints/install.sh
    wrong = []
    for document, words in commands("make"):
        named = [word for word in words if "=" not in word]
        given = [word.split("=")[0] for word in words if "=" in word]
        wrong += [f"{document}: make {word}" for word in named if word not in targets]
        wrong += [f"{document}: make ... {word}=" for word in given if word not in settings]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_make_command_is_seen(tmp_path, monkeypatch):
    document = tmp_path / "README.md"
    document.write_text('Run `make tea` or\n\n```\n$ make an4 DATA=x \\\n    SUGAR=2\n```\nand `make "nothing`.\n')
    monkeypatch.setattr(sys.modules[__name__], "DOCUMENTS", [document])
    with pytest.raises(AssertionError) as caught:
        check_make_commands()
    assert re.findall(r": (make .*)", str(caught.value).split("assert not")[0]) == [
        "make ... SUGAR=",
        "make tea",
    ]


def test_what_make_gives_to_train_py_in_args_is_known_to_it():
    needs("train.py")
    wrong = [
        f"{document}: {option}"
        for document, words in commands("make")
        if words and words[0].startswith("an4")
        for word in words
        if word.startswith("ARGS=")
        for option in options(shlex.split(word.removeprefix("ARGS=")))
        if not known_to_train(option)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_training_command_names_a_yaml_and_options_that_exist():
    needs("train.py")
    wrong = []
    for document, words in commands("python", "train.py"):
        if words and not words[0].startswith("-") and not (ROOT / words[0]).is_file():
            wrong.append(f"{document}: no {words[0]}")
        wrong += [f"{document}: {option}" for option in options(words) if not known_to_train(option)]
    assert not wrong, "\n".join(wrong)


@cache
def help_of(subcommand):
    """Return code and text of `eeasr SUBCOMMAND --help`."""
    command = [sys.executable, "-c", "from eeasr_modules.cli import main; raise SystemExit(main())"]
    done = subprocess.run([*command, subcommand, "--help"], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_every_eeasr_command_exists_and_takes_its_options():
    needs("README.md")
    needs("eeasr_modules/cli.py")
    wrong = []
    for document, words in commands("eeasr"):
        if not words or words[0].startswith("-"):
            continue
        code, text = help_of(words[0])
        if code != 0:
            wrong.append(f"{document}: eeasr {words[0]}")
        wrong += [f"{document}: eeasr {words[0]} {o}" for o in options(words) if not re.search(rf"{o}\b", text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_lead_to_files(document):
    text = document.read_text("utf-8")
    links = [*re.findall(r"\]\(([^)#\s]+)", text), *re.findall(r'src="([^"]+)"', text)]
    wrong = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert wrong == []
