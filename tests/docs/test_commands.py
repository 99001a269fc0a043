"""Every command that a document shows is one that exists, and takes what it is given there."""

import argparse
import ast
import re
from functools import cache

import pytest
from shown_commands import ROOT, Shown, all_shown

from eeasr_modules.cli import _parser

TO_BE_WRITTEN = "Notes"  # the corpus of docs/add-a-corpus.md


def wrong(checked):
    """One line for each command that is refused; at least one must have been looked at."""
    assert checked
    return "\n".join(f"{one}\n    {why}" for one, why in checked if why)


def why_not(check, *arguments):
    """What the check says; "" where it has nothing to say."""
    try:
        check(*arguments)
    except (ValueError, OSError, AssertionError) as err:
        return str(err)
    except SystemExit as err:  # --help and --version
        return f"exit status {err.code}" if err.code else ""
    return ""


def parse_eeasr(one):
    """Parse it whole; of a mention, what is there."""
    words = list(one.words[1:])
    parser, names = _parser()
    if one.is_whole:
        parser.parse_args(words)
    elif words and not words[0].startswith(("-", "COMMAND")):
        (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        assert words[0] in names, f"no command {words[0]}"
        known = subparsers.choices[words[0]]._option_string_actions
        assert not (extra := [w for w in words[1:] if w.startswith("--") and w.split("=")[0] not in known]), extra


def through_torchrun(one):
    """What torchrun starts, as it would be started without it."""
    words = list(one.words[1:])
    while words and words[0].startswith("-") and words[0] != "-m":
        words.pop(0)
    start = ("eeasr",) if words[:2] == ["-m", "eeasr_modules.cli"] else ("python",)
    return Shown(one.document, start + tuple(words[2 if start == ("eeasr",) else 0 :]), one.is_whole)


def test_every_eeasr_command_parses(capsys):
    commands = all_shown("eeasr") + [c for c in map(through_torchrun, all_shown("torchrun")) if c.words[0] == "eeasr"]
    assert sum(one.is_whole for one in commands) > 20
    assert (refused := wrong([(one, why_not(parse_eeasr, one)) for one in commands])) == "", refused


@cache
def makefile():
    """Targets and settings of the Makefile."""
    text = (ROOT / "Makefile").read_text("utf-8")
    settings = set(re.findall(r"^([A-Z]+) \?=", text, re.M))
    return set(re.findall(r"^([a-z][\w-]*):", text, re.M)), settings | {"TORCH_INDEX", "ALLOW_CUDA"}  # install.sh's


def check_make(one):
    targets, settings = makefile()
    for word in one.words[1:]:
        name, is_setting, _ = word.partition("=")
        assert name in (settings if is_setting else targets), f"the Makefile has no {name}"


def test_every_make_command_names_a_target_and_settings_that_exist():
    assert (refused := wrong([(one, why_not(check_make, one)) for one in all_shown("make")])) == "", refused


@pytest.fixture
def recipes(tmp_path):
    """The folder of corpora, with the one that a reader is told to write."""
    for path in (ROOT / "recipes").glob("*/prepare.py"):
        (tmp_path / path.parent.name).symlink_to(path.parent)
    (tmp_path / TO_BE_WRITTEN).mkdir()
    (tmp_path / TO_BE_WRITTEN / "prepare.py").touch()
    return tmp_path


def check_training(one, recipes):
    """Every key is one of that YAML's, and has a value that it may have."""
    import speechbrain as sb

    from eeasr_modules.training.config.config import check, load_yaml

    words = list(one.words[2:])
    if not words:
        return
    if not words[0].endswith(".yaml"):
        assert not one.is_whole and words[0].startswith("-"), f"{words[0]} is no YAML"
        words = ["hparams/an4.yaml", *words]
    words = ["[8]" if word == "..." else word for word in words]
    assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"
    path, _, overrides = sb.parse_arguments(words)
    values = load_yaml(ROOT / path, overrides)
    if values.get("init_from"):  # a folder that the reader has, and this test has not
        values |= {"init_from": None, "freeze_encoder": False, "cache_states": False}
        if values["keep_layers"]:
            values |= {"n_layers": values["keep_layers"], "keep_layers": None}
        values["n_epochs"] = max(1, values["n_epochs"])
        values |= {"source": "a/checkpoint"} if values["encoder"] == "huggingface" else {}
    check(values, recipes=recipes)


def test_every_training_command_is_accepted_by_its_yaml(recipes):
    commands = [one for one in all_shown("python", "train.py") if one.is_whole or len(one.words) > 2]
    assert (refused := wrong([(one, why_not(check_training, one, recipes)) for one in commands])) == "", refused


@cache
def options_of(script):
    """Options that a script's parsers take, read from its source; None for a script without a parser."""
    text = (ROOT / script).read_text("utf-8")
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    adding = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    return {arg.value for call in adding for arg in call.args if isinstance(arg, ast.Constant)} | {"--help", "-h"}


def check_script(one):
    words = list(one.words[1:])
    script = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
    assert (ROOT / script).is_file(), f"there is no {script}"
    given = [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word) and word != "-m"]
    if script == "recipes/Pretrain/pretrain.py":
        check_pretraining(words, given)
        return
    assert not (extra := set(given) - options_of(script)), f"{script} does not take {', '.join(sorted(extra))}"


def check_pretraining(words, given):
    from speechbrain.core import RunOptions

    from eeasr_modules.training.config.config import load_yaml

    known = {*load_yaml(ROOT / words[1]), *RunOptions().as_dict()} if len(words) > 1 else set()
    assert not (extra := {option.removeprefix("--") for option in given} - known), f"unknown keys {extra}"


def test_every_script_exists_and_takes_its_options():
    ours = re.compile(r"(benchmarks|recipes)/.+\.py|eeasr_modules\..+")
    commands = [one for one in all_shown("python") if any(ours.fullmatch(word) for word in one.words[1:3])]
    assert (refused := wrong([(one, why_not(check_script, one)) for one in commands])) == "", refused


def check_install(one):
    setup = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    (extras,) = (k.value for node in ast.walk(setup) if isinstance(node, ast.Call) for k in node.keywords
                 if k.arg == "extras_require")  # fmt: skip
    known = set(ast.literal_eval(extras))
    for word in one.words:
        for extra in match[1].split(",") if (match := re.fullmatch(r"(?:\.|eeasr)\[(.+)\]", word)) else ():
            assert extra in known, f"setup.py has no extra {extra}"


def test_every_extra_that_is_to_be_installed_exists():
    assert (refused := wrong([(one, why_not(check_install, one)) for one in all_shown("pip")])) == "", refused


@pytest.mark.parametrize(
    ("check", "command"),
    [
        (parse_eeasr, "eeasr transcribe MODEL a.wav --polcy entropy"),
        (parse_eeasr, "eeasr transcribe"),
        (parse_eeasr, "eeasr listen a.wav"),
        (check_make, "make tea"),
        (check_make, "make an4 SUGAR=2"),
        (check_script, "python benchmarks/tea.py"),
        (check_script, "python benchmarks/exit_time.py --sugar 2"),
        (check_install, "pip install .[tea]"),
    ],
)
def test_a_wrong_command_is_seen(check, command):
    assert why_not(check, Shown("page.md", tuple(command.split()), True))


@pytest.mark.parametrize("options", [("--n_epoch", "3"), ("--n_epochs", "many"), ("--ood_tea_folder", "x")])
def test_a_wrong_training_command_is_seen(options, recipes):
    command = Shown("page.md", ("python", "train.py", "hparams/an4.yaml", *options), True)
    assert why_not(check_training, command, recipes)
