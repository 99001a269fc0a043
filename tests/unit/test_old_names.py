"""Names that modules had before still import, as the same objects."""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml

from eeasr_modules import old_names
from eeasr_modules.training.fit import load_brain_class

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("old", sorted(old_names.MOVED))
def test_an_old_name_gives_what_is_in_the_new_module(old):
    new = importlib.import_module(f"eeasr_modules.{old_names.MOVED[old]}")
    public = [name for name, value in vars(new).items() if getattr(value, "__module__", None) == new.__name__]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module(f"eeasr_modules.{old}")
    assert all(getattr(module, name) is getattr(new, name) for name in public)
    with pytest.raises(AttributeError):
        _ = module.no_such_name


def test_the_new_name_is_told_once_and_leads_to_a_file():
    old = "eeasr_modules.exits.parquet"
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=r"exits\.parquet is now eeasr_modules\.exits\.tables\.files"):
        importlib.import_module(old)
    for new in set(old_names.MOVED.values()):
        path = ROOT.joinpath("eeasr_modules", *new.split("."))
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), new


def test_names_that_saved_files_hold_are_found():
    saved = "\n".join(f"{name}: !name:eeasr_modules.training.encoder_asr.{name}" for name in ("OneExit", "greedy"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded = load_hyperpyyaml(saved)
    from eeasr_modules.training.publish.encoder_asr import OneExit, greedy

    assert issubclass(loaded["OneExit"], OneExit)
    assert getattr(loaded["greedy"], "func", loaded["greedy"]) is greedy
    assert load_brain_class("eeasr_modules.training.brain.ExitBrain").__name__ == "ExitBrain"


def test_a_program_by_its_old_name_still_runs():
    done = subprocess.run(
        [sys.executable, "-m", "eeasr_modules.training.ship"], cwd=ROOT, capture_output=True, text=True
    )
    assert "usage: python -m eeasr_modules.training.publish.release" in done.stderr, done.stderr


def test_what_was_never_there_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("eeasr_modules.exits.never")


@pytest.mark.parametrize("old", sorted(old_names.REMOVED))
def test_what_was_removed_says_so(old):
    assert (
        old not in old_names.MOVED and not ROOT.joinpath("eeasr_modules", *old.split(".")).with_suffix(".py").exists()
    )
    with pytest.raises(
        ModuleNotFoundError, match=f"there is no eeasr_modules.{old}: .*(was removed|recipe of its own)"
    ):
        importlib.import_module(f"eeasr_modules.{old}")


def test_a_function_named_like_an_old_module_can_be_called_after_that_module_was_imported():
    code = "import eeasr_modules.exits.cross_fit, eeasr_modules.exits as e; e.cross_fit()"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert "cross_fit() missing" in done.stderr
