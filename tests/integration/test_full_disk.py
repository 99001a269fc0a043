"""A run whose disk fills up ends with a sentence, and goes on when there is room again."""

import errno

import pytest
import torch
from tiny_run import tiny_argv

import train
from eeasr_modules.models.multi_exit import MultiExit

pytestmark = pytest.mark.slow
FULL = OSError(errno.ENOSPC, "No space left on device")


def one_sentence(err: str) -> str:
    """The error on stderr, which must be one line with no traceback."""
    assert "Traceback" not in err
    (said,) = [line for line in err.splitlines() if line.startswith("train.py: error: ")]
    return said


def test_it_fills_up_while_the_second_checkpoint_is_written(tone_corpus, tmp_path, capfd, monkeypatch):
    assert train.main(tiny_argv(tone_corpus, tmp_path / "whole")) == 0
    really, calls = torch.save, []

    def save(value, path, *rest, **more):
        calls.append(path)
        if len(calls) < 6:  # the first checkpoint holds four files
            return really(value, path, *rest, **more)
        with open(path, "wb") as file:
            file.write(b"half")
        raise FULL

    capfd.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", save)
        assert train.main(tiny_argv(tone_corpus, tmp_path / "run")) == 2
    said = one_sentence(capfd.readouterr().err)
    assert f"the run folder '{tmp_path / 'run'}' cannot be written" in said and "No space left on device" in said
    assert [path.name[:5] for path in (tmp_path / "run" / "save").iterdir()] == ["CKPT+"]
    assert train.main(tiny_argv(tone_corpus, tmp_path / "run")) == 0
    weights, same = (MultiExit.load(tmp_path / run / "model").state_dict() for run in ("run", "whole"))
    assert all(value.equal(same[name]) for name, value in weights.items())


def test_the_weights_of_the_model_folder_do_not_fit(tone_corpus, tmp_path, capfd, monkeypatch):
    import safetensors.torch

    def no_room(*_, **__):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.torch, "save_file", no_room)
        assert train.main(tiny_argv(tone_corpus, tmp_path / "run")) == 2
    assert "No space left on device" in one_sentence(capfd.readouterr().err)
    assert not (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert train.main(tiny_argv(tone_corpus, tmp_path / "run")) == 0


def test_a_folder_that_cannot_be_made_is_named(tone_corpus, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert train.main(tiny_argv(tone_corpus, tmp_path / "file" / "run")) == 2
    assert str(tmp_path / "file") in one_sentence(capfd.readouterr().err)
