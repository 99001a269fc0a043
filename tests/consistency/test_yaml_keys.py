"""Every key of every YAML is known, every known key is set somewhere and read by the code."""

import ast
from pathlib import Path

import pytest
from tiny_checkpoint import write_start_of

from eeasr_modules.training.config.config import load_yaml

ROOT = Path(__file__).resolve().parents[2]
config = pytest.importorskip("eeasr_modules.training.config.config", reason="training.config is not there yet")
keys = pytest.importorskip("eeasr_modules.training.config.keys", reason="training.keys is not there yet")
KEYS = keys.all_keys()
TABLES = (Path(keys.__file__), ROOT / "eeasr_modules" / "models" / "encoders" / "__init__.py")
SHARED = sorted((ROOT / "hparams" / "shared").glob("*.yaml"))
TOP = sorted((ROOT / "hparams").glob("*.yaml"))


def known(name):
    return name in KEYS or config.OTHER_KEY.fullmatch(name) is not None


@pytest.mark.parametrize("path", [*TOP, *SHARED], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_key_of_a_yaml_is_known_and_has_the_right_type(path):
    values = load_yaml(path)
    assert [name for name in values if not known(name)] == []
    for name in values.keys() & KEYS.keys():
        KEYS[name].check(name, values[name])


@pytest.mark.parametrize("path", TOP, ids=lambda path: path.name)
def test_a_yaml_with_what_it_includes_is_a_whole_configuration(path, tmp_path):
    values = load_yaml(path)
    if values["init_from"] is not None:  # a model that is trained first, of which a test has none
        values["init_from"] = str(write_start_of(tmp_path, values))
    config.check(values, recipes=ROOT / "recipes")


def test_every_known_key_is_read_by_the_code():
    read = set()
    for path in [*(ROOT / "eeasr_modules").rglob("*.py"), *ROOT.glob("train.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        if path in TABLES:  # the tables themselves do not count as a use
            tree.body = [n for n in tree.body if "KEYS" not in getattr(getattr(n, "target", None), "id", "")]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
            elif isinstance(node, ast.arg):  # an encoder's settings reach its constructor by name
                read.add(node.arg)
    unused = sorted(set(KEYS) - read)
    assert not unused, f"no code reads {unused}"


def test_no_key_is_the_beginning_of_an_option_of_the_run():
    # SpeechBrain's command line completes `--test 1` to `--test_only` and drops the override in silence.
    from speechbrain.core import RunOptions

    options = RunOptions().as_dict()
    assert [(key, option) for key in KEYS for option in options if option.startswith(key)] == []
