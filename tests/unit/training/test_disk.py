"""A disk that is full or read-only: said in a sentence, and no half checkpoint is ever chosen."""

import errno
import os

import pytest
import torch
from safetensors.torch import save_file

from eeasr_modules.training.run_folder import WholeCheckpointer, why_not_written

FULL = "/dev/full"
needs_dev_full = pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full on this system")


def write_text():
    with open(FULL, "w") as file:
        file.write("x")


def save_with_torch():
    torch.save({"weight": torch.zeros(100_000)}, FULL)


@needs_dev_full
@pytest.mark.parametrize("write", [write_text, save_with_torch], ids=lambda write: write.__name__)
def test_a_full_disk_is_told_from_a_mistake(write):
    with pytest.raises((OSError, RuntimeError)) as caught:
        write()
    assert why_not_written(caught.value)


def test_safetensors_that_cannot_be_written_are_told_too(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Exception) as caught:
        save_file({"weight": torch.zeros(3)}, str(tmp_path / "file" / "model.safetensors"))
    assert why_not_written(caught.value)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes do not fit"), FileNotFoundError(errno.ENOENT, "No such file", "x"), ValueError("no")],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_about_the_disk(error):
    assert why_not_written(error) is None


def test_a_file_that_lies_elsewhere_is_not_the_run_folder(tmp_path):
    run, audio = tmp_path / "run", tmp_path / "audio.wav"
    for file, told in ((run / "save" / "model.ckpt", True), (audio, False)):
        denied = PermissionError(errno.EACCES, "Permission denied", str(file))
        assert (why_not_written(denied, folder=run) is not None) == told


class TestCheckpoints:
    @pytest.fixture
    def module(self):
        """Weights that change between checkpoints."""
        return torch.nn.Linear(2, 2)

    def failing(self, monkeypatch, error):
        def save(value, path, *_, **__):
            with open(path, "wb") as file:
                file.write(b"half")
            raise error

        monkeypatch.setattr(torch, "save", save)

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EROFS, "Read-only file system"),
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        ],
        ids=["full", "read-only", "torch"],
    )
    def test_one_that_could_not_be_written_is_never_chosen(self, module, tmp_path, monkeypatch, error):
        checkpointer = WholeCheckpointer(tmp_path, recoverables={"model": module})
        checkpointer.save_and_keep_only(meta={"WER": 50.0}, min_keys=["WER"], num_to_keep=1)
        kept = module.weight.detach().clone()
        module.weight.data.add_(1.0)
        with (
            monkeypatch.context() as patched,
            pytest.raises(OSError, match="could not be saved, earlier ones are whole"),
        ):
            self.failing(patched, error)
            checkpointer.save_and_keep_only(meta={"WER": 10.0}, min_keys=["WER"], num_to_keep=1)
        assert [path.name[:5] for path in tmp_path.iterdir()] == ["CKPT+"]
        module.weight.data.zero_()
        again = WholeCheckpointer(tmp_path, recoverables={"model": module})
        assert again.find_checkpoint(min_key="WER").meta["WER"] == 50.0
        again.recover_if_possible(min_key="WER")
        assert torch.equal(module.weight, kept)

    def test_a_mistake_is_not_taken_for_a_full_disk(self, module, tmp_path, monkeypatch):
        checkpointer = WholeCheckpointer(tmp_path, recoverables={"model": module})
        self.failing(monkeypatch, RuntimeError("expected a tensor"))
        with pytest.raises(RuntimeError, match="expected a tensor"):
            checkpointer.save_checkpoint()
