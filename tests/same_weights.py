"""A Brain for runs of several processes that compares their weights after every epoch."""

import torch
from speechbrain.utils.distributed import if_main_process

from eeasr_modules.training.brain import ExitBrain


class SameWeights(ExitBrain):
    """Fails when processes that train together have come apart, or have not moved."""

    def on_fit_start(self):
        """Remember where training began."""
        super().on_fit_start()
        self.began = self._flat()

    def _flat(self):
        return torch.cat([parameter.detach().flatten().cpu() for parameter in self._model.parameters()])

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Compare at the end of training epochs."""
        if stage.name == "TRAIN":
            mine = self._flat()
            theirs = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(theirs, mine)
            if not all(torch.equal(mine, one) for one in theirs):
                raise RuntimeError(f"after epoch {epoch} the processes have different weights")
            if torch.equal(mine, self.began):
                raise RuntimeError("training has changed nothing")
            if if_main_process():
                print(f"weights of {len(theirs)} processes are the same", flush=True)
        super().on_stage_end(stage, stage_loss, epoch)
