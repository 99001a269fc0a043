"""Checkpoints that are whole or not there."""

import errno
import logging
import os
import shutil

from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from eeasr_modules.training.disk import sync, why_not_written

PARTIAL = "partial+"


class WholeCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer, writing each checkpoint aside and renaming it when all of it is on disk.

    SpeechBrain writes the file by which it knows a checkpoint first and the weights after it, so a run killed in
    between could not go on: the checkpoint was chosen, and lacked its weights.

    Arguments
    ---------
    checkpoints_dir : str or Path
        Where checkpoints go; what a killed run left half written there is removed.
    recoverables : dict of str to object
        What is saved.
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

        Raises
        ------
        OSError
            If the disk is full or cannot be written; checkpoints that were there stay, the half one is removed.
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
