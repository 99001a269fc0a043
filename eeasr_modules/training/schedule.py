"""What is trained when, and how fast: regimes, and learning rates over a training and over an encoder's layers.

Learning rates are pure functions of progress: there is nothing to checkpoint, and a resumed run has the same.
Regimes (docs/training-regimes.md) say which exits each update trains, and when the encoder is frozen: `two_step` is of
Zaiem et al. 2023, `alternating` of BERxiT (Xin et al. 2021, section 3.2).
"""

import math
import re
from dataclasses import dataclass

from torch import nn

REGIMES = ("joint", "two_step", "heads_only", "alternating", "last_only")
OWN_TEACHERS = ("self", "best")  # of distillation: exits of the model itself


@dataclass(frozen=True)
class Regime:
    """What one run trains when.

    ValueError if there is no such regime, or two steps have too few epochs or exits.

    Example
    -------
    >>> regime = Regime("two_step", (0.25, 0.25, 0.5), n_epochs=10, first_share=0.6)
    >>> regime.weights_of(6, update=0), regime.weights_of(7, update=0), regime.frozen(7)
    ((0.0, 0.0, 1.0), (0.5, 0.5, 0.0), True)
    """

    name: str  # one of `REGIMES`
    weights: tuple[float, ...]  # of each exit's loss where all are trained; they sum to 1
    n_epochs: int
    # share of epochs in the first of two steps, between 0 and 1; each step has at least one epoch
    first_share: float = 0.5

    def __post_init__(self):
        if self.name not in REGIMES:
            raise ValueError(f"regime must be one of {', '.join(REGIMES)}, got '{self.name}'")
        if self.name != "two_step":
            return
        if len(self.weights) < 2 or not sum(self.weights[:-1]):
            raise ValueError(
                f"regime: two_step needs an exit with a weight before the last one, got weights {list(self.weights)}"
            )
        if self.n_epochs == 1:
            raise ValueError("regime: two_step needs n_epochs of at least 2, one for each step, got 1")

    @property
    def first_epochs(self) -> int:
        """Epochs of the first step; all of them where there is one step."""
        if self.name != "two_step":
            return self.n_epochs
        return min(max(1, round(self.first_share * self.n_epochs)), self.n_epochs - 1)

    def frozen(self, epoch: int) -> bool:
        """Whether encoder and last head are frozen in this epoch (from 1) because the second of two steps is on."""
        return self.name == "two_step" and epoch > self.first_epochs

    def weights_of(self, epoch: int, *, update: int) -> tuple[float, ...]:
        """Weight of each exit's loss in one update; heads of exits that weigh 0 stay as they are.

        `epoch`: from 1. `update`: from 0, over all epochs.
        """
        n_exits = len(self.weights)
        last = (*[0.0] * (n_exits - 1), 1.0)
        if self.name == "last_only" or (self.name == "alternating" and update % 2 == 0):
            return last
        if self.name != "two_step":
            return self.weights
        if not self.frozen(epoch):
            return last
        total = sum(self.weights[:-1])
        return (*[weight / total for weight in self.weights[:-1]], 0.0)

    def progress(self, epoch: int, *, n_done: int, n_batches: int) -> float:
        """Share of the step's batches that are done, 0 to 1: each of two steps has its own warm-up and decay.

        `n_done`: batches of this epoch, the present one included.
        """
        before, length = 0, self.first_epochs
        if self.frozen(epoch):
            before, length = self.first_epochs, self.n_epochs - self.first_epochs
        return ((epoch - 1 - before) * n_batches + n_done) / max(1, n_batches * length)


SCHEDULES = ("cosine", "linear", "noam", "constant", "newbob")


def warmup_cosine(progress: float, *, warmup_share: float, final_share: float) -> float:
    """Share of the peak learning rate.

    `final_share`: what is left of the peak at the end of the cosine (Loshchilov & Hutter 2017).

    Example
    -------
    >>> [round(warmup_cosine(p, warmup_share=0.1, final_share=0.0), 3) for p in (0.05, 0.1, 0.55, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup_share:
        return progress / warmup_share
    done = min(1.0, (progress - warmup_share) / max(1e-9, 1.0 - warmup_share))
    return final_share + (1.0 - final_share) * 0.5 * (1.0 + math.cos(math.pi * done))


def lr_share(schedule: str, progress: float, *, warmup_share: float, final_share: float) -> float:
    """Share of the peak learning rate under one of `SCHEDULES`, all with a linear warm-up.

    `schedule`: `cosine` (see `warmup_cosine`); `linear` (down to `final_share`); `noam` (falls with the root of the
    updates done, Vaswani et al. 2017, with the peak at the end of the warm-up); `constant`; `newbob` (constant here:
    the Brain multiplies it by SpeechBrain's annealed factor). `final_share`: what is left at the end; a lower bound for
    `noam`; not used by `constant` and `newbob`. ValueError if there is no such schedule.

    Example
    -------
    >>> [lr_share(s, 0.4, warmup_share=0.1, final_share=0.0) for s in ("noam", "constant")]
    [0.5, 1.0]
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"lr_schedule must be one of {', '.join(SCHEDULES)}, got '{schedule}'")
    if schedule == "cosine":
        return warmup_cosine(progress, warmup_share=warmup_share, final_share=final_share)
    if progress < warmup_share:
        return progress / warmup_share
    if schedule == "linear":
        done = min(1.0, (progress - warmup_share) / max(1e-9, 1.0 - warmup_share))
        return 1.0 - (1.0 - final_share) * done
    if schedule == "noam":
        return max(final_share, (max(warmup_share, 1e-9) / max(progress, 1e-9)) ** 0.5)
    return 1.0


LAYER = re.compile(r"(?:conformer|model\.encoder)\.layers\.(\d+)\.")


def depth_of(encoder: nn.Module, name: str) -> int:
    """Layer, from 1, that a parameter of an encoder belongs to; 0 for the front end.

    The norm after the last layer counts as the last layer.
    """
    found = LAYER.match(name)
    if found:
        return int(found.group(1)) + 1
    last = () if encoder.final_norm is None else [id(parameter) for parameter in encoder.final_norm.parameters()]
    return encoder.n_layers if id(dict(encoder.named_parameters())[name]) in last else 0


def decayed_groups(encoder: nn.Module, *, decay: float) -> list[dict]:
    """Groups for an optimizer, one for each depth: layer-wise decay as in ELECTRA and BEiT (Clark et al. 2020).

    Returns: `params`, and `lr_scale`, the share of the encoder's learning rate; from the front end up.

    `encoder`: frozen parameters are left out. `decay`: the layer below learns `decay` times as fast; the last layer at
    the full rate.

    Example
    -------
    >>> from eeasr_modules.models.encoders.conformer import ConformerEncoder
    >>> encoder = ConformerEncoder(n_layers=2, dim=16, n_heads=2, ffn_dim=32)
    >>> [group["lr_scale"] for group in decayed_groups(encoder, decay=0.5)]
    [0.25, 0.5, 1.0]
    """
    by_depth: dict[int, list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            by_depth.setdefault(depth_of(encoder, name), []).append(parameter)
    return [{"params": by_depth[depth], "lr_scale": decay ** (encoder.n_layers - depth)} for depth in sorted(by_depth)]
