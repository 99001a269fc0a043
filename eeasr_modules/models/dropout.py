"""Dropout whose masks cost little on a CPU.

torch draws one random number for every element of a mask, on one thread: with SpeechBrain's Conformer of 4 million
parameters that took a third of a training step on a CPU. Here one 64-bit draw of the same generator gives eight mask
bytes, so that the rate is a multiple of 1/256.
"""

import torch
from torch import nn

_BYTES = 8  # mask elements per 64-bit draw
_LOWEST = -(2**63)


class ByteDropout(nn.Dropout):
    """`nn.Dropout` with the rate rounded to a multiple of 1/256 on a CPU; on other devices it is `nn.Dropout`.

    Arguments
    ---------
    p : float
        Share of elements that become 0; the others are scaled so that the mean stays.

    Example
    -------
    >>> dropout = ByteDropout(0.1).train()
    >>> round(float((dropout(torch.ones(1000, 100)) == 0).float().mean()), 2)
    0.1
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of any shape -> the same shape."""
        dropped = round(256 * self.p)
        if not self.training or dropped in (0, 256) or x.device.type != "cpu":
            return super().forward(x)
        drawn = torch.empty((x.numel() + _BYTES - 1) // _BYTES, dtype=torch.int64).random_(_LOWEST, None)
        kept = drawn.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def cheapen_dropout(module: nn.Module) -> None:
    """Replace every `nn.Dropout` below `module`, with its rate, by a `ByteDropout`."""
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, ByteDropout(child.p))
        else:
            cheapen_dropout(child)
