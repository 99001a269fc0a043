"""A run's folder: one process at a time, whole checkpoints, a disk that may be full, and what a training logs."""

import errno
import fcntl
import logging
import os
import shutil
import socket
from pathlib import Path

from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.train_logger import TensorboardLogger, TrainLogger, WandBLogger

FILE = ".lock"
_held: dict[Path, object] = {}  # open files: the lock lasts as long as the process


def hold(folder: str | Path) -> None:
    """Keep the folder, which is made if needed, for this process as long as it lives; a dead one keeps nothing.

    ValueError if another process holds it, saying which.
    """
    folder = Path(folder).resolve()
    if folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / FILE).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who = file.read().strip() or "another process"
        file.close()
        raise ValueError(
            f"'{folder}' is in use by {who}: wait until it has ended, or give this run a folder of its own with "
            "--output_folder"
        ) from None
    except OSError:  # a file system without locks: better unlocked than not at all
        file.close()
        return
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[folder] = file


def release_all() -> None:
    """Give back every folder that this process holds."""
    while _held:
        _, file = _held.popitem()
        file.seek(0)
        file.truncate()
        file.close()


CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
CODES += (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY)
# torch and safetensors say it in words of their own
TORCH = ("PytorchStreamWriter failed", "inline_container", "unexpected pos", "file write failed", "cannot be opened")
SAFETENSORS = ("IoError", "I/O error")


def why_not_written(error: BaseException, *, folder: str | os.PathLike | None = None) -> str | None:
    """Why something could not be written, in a few words; None where `error` says something else.

    `folder`: where is written: an error that names a file elsewhere, such as audio that may not be read, is none of
    these.

    Example
    -------
    >>> why_not_written(OSError(errno.ENOSPC, "No space left on device", "save/model.ckpt"))
    'No space left on device: save/model.ckpt'
    >>> why_not_written(ValueError("dim must be int"))
    """
    if isinstance(error, OSError) and error.errno in CODES:
        if folder is not None and isinstance(error.filename, str) and not _lies_in(error.filename, folder):
            return None
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or os.strerror(error.errno)}{place}"
    said = " ".join(str(error).split())
    from_torch = isinstance(error, RuntimeError) and any(sign in said for sign in TORCH)
    if from_torch or (type(error).__name__ == "SafetensorError" and any(sign in said for sign in SAFETENSORS)):
        return said
    return None


def _lies_in(file: str, folder: str | os.PathLike) -> bool:
    return Path(file).resolve().is_relative_to(Path(folder).resolve())


def sync(folder: str | os.PathLike) -> None:
    """Have the files of a folder on disk, not in memory: a disk that filled up says so here and not later."""
    for entry in os.scandir(folder):
        if entry.is_file():
            handle = os.open(entry.path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


PARTIAL = "partial+"


class WholeCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer, writing each checkpoint aside and renaming it when all of it is on disk.

    SpeechBrain writes the file by which it knows a checkpoint first and the weights after it, so a run killed in
    between could not go on: the checkpoint was chosen, and lacked its weights.

    `checkpoints_dir`: where checkpoints go; what a killed run left half written there is removed.
    """

    def __init__(self, checkpoints_dir, recoverables):
        super().__init__(checkpoints_dir, recoverables=recoverables)
        if if_main_process():
            self._remove_partial()

    def _remove_partial(self) -> None:
        for left in self.checkpoints_dir.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)

    def save_checkpoint(self, meta={}, end_of_epoch=True, name=None, verbosity=logging.INFO):  # noqa: B006
        """Save, then rename; arguments and value as of SpeechBrain's.

        OSError if the disk is full or cannot be written; checkpoints that were there stay, the half one is removed.
        """
        try:
            saved = super().save_checkpoint(meta, end_of_epoch, name, verbosity)
            if saved is not None:
                sync(saved.path)
        except (OSError, RuntimeError) as err:
            why = why_not_written(err)
            if why is None:
                raise
            self._remove_partial()
            number = getattr(err, "errno", None) or errno.ENOSPC
            raise OSError(number, f"a checkpoint could not be saved, earlier ones are whole ({why})") from err
        ddp_barrier()  # every process has written its part
        if saved is None:
            return None
        final = saved.path.with_name(saved.path.name.removeprefix(PARTIAL))
        if final.exists():
            shutil.rmtree(final)
        os.replace(saved.path, final)
        files = {name: final / path.name for name, path in saved.paramfiles.items()}
        return saved._replace(path=final, paramfiles=files)

    def _new_checkpoint_dirpath(self):
        return self._aside(super()._new_checkpoint_dirpath())

    def _custom_checkpoint_dirpath(self, name):
        return self._aside(super()._custom_checkpoint_dirpath(name))

    @staticmethod
    def _aside(path):
        return path.with_name(f"{PARTIAL}{path.name}")


LOGGERS = ("none", "tensorboard", "wandb")
N_SAMPLES = 3  # utterances of the validation data whose transcripts are written after every epoch


def extra_logger(name: str, folder: Path) -> TrainLogger | None:
    """SpeechBrain's logger of that name; None for "none".

    `folder`: the run folder. TensorBoard's files go to `tensorboard/`, W&B's (offline unless WANDB_MODE says otherwise)
    to `wandb/`. ImportError when its package is not installed.
    """
    if name == "none":
        return None
    try:
        if name == "tensorboard":
            return TensorboardLogger(str(folder / "tensorboard"))
        import os

        import wandb
    except ImportError as err:
        raise ImportError(f"logger: {name} needs a package: pip install 'eeasr[{name}]'") from err
    os.environ.setdefault("WANDB_MODE", "offline")
    return WandBLogger(initializer=wandb.init, project="eeasr", name=folder.name, dir=str(folder), resume="allow")


class Samples:
    """Transcripts of a few utterances by every exit, epoch after epoch, in `samples.txt`.

    `n`: the first so many utterances of the validation data, the same after every epoch.
    """

    def __init__(self, path: Path, exit_layers: list[int], *, n: int = N_SAMPLES):
        self.path, self.exit_layers, self.n = path, exit_layers, n
        self.said: dict[str, tuple[str, list[str]]] = {}

    def take(self, utt_ids: list[str], references: list[str], texts: list[list[str]]) -> None:
        """Look at one batch: `texts` by exit and utterance."""
        for i, (utt_id, reference) in enumerate(zip(utt_ids, references, strict=True)):
            if len(self.said) == self.n:
                return
            self.said[utt_id] = reference, [by_exit[i] for by_exit in texts]

    def write(self, epoch: int) -> str:
        """Append what was taken, forget it, and give it as text."""
        lines = [f"epoch {epoch}"]
        for utt_id, (reference, texts) in self.said.items():
            lines.append(f"  {utt_id}: {reference}")
            lines += [f"    layer {layer:2d}  {text}" for layer, text in zip(self.exit_layers, texts, strict=True)]
        self.said = {}
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return "\n".join(lines)
