"""Learning rates: over a training as a pure function of progress, over an encoder's layers by groups.

As a function of progress there is nothing to checkpoint, and a resumed run has the same.
"""

import math
import re

from torch import nn

SCHEDULES = ("cosine", "linear", "noam", "constant", "newbob")


def warmup_cosine(progress: float, *, warmup_share: float, final_share: float) -> float:
    """Share of the peak learning rate.

    Arguments
    ---------
    progress : float
        Share of all updates that are done, 0 to 1.
    warmup_share : float
        Share of updates with a linear rise.
    final_share : float
        What is left of the peak at the end of the cosine (Loshchilov & Hutter 2017).

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

    Arguments
    ---------
    schedule : str
        `cosine` (see `warmup_cosine`); `linear` (down to `final_share`); `noam` (falls with the root of the updates
        done, Vaswani et al. 2017, with the peak at the end of the warm-up); `constant`; `newbob` (constant here: the
        Brain multiplies it by SpeechBrain's annealed factor).
    progress : float
        Share of all updates that are done, 0 to 1.
    warmup_share : float
        Share of updates with a linear rise.
    final_share : float
        What is left at the end; a lower bound for `noam`; not used by `constant` and `newbob`.

    Raises
    ------
    ValueError
        If there is no such schedule.

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

    Arguments
    ---------
    encoder : Encoder
        Conformer or Hugging Face.
    name : str
        As `encoder.named_parameters()` gives it.
    """
    found = LAYER.match(name)
    if found:
        return int(found.group(1)) + 1
    last = () if encoder.final_norm is None else [id(parameter) for parameter in encoder.final_norm.parameters()]
    return encoder.n_layers if id(dict(encoder.named_parameters())[name]) in last else 0


def decayed_groups(encoder: nn.Module, *, decay: float) -> list[dict]:
    """Groups for an optimizer, one for each depth: layer-wise decay as in ELECTRA and BEiT (Clark et al. 2020).

    Arguments
    ---------
    encoder : Encoder
        Frozen parameters are left out.
    decay : float
        The layer below learns `decay` times as fast; the last layer at the full rate.

    Returns
    -------
    list of dict
        `params`, and `lr_scale`, the share of the encoder's learning rate; from the front end up.

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
