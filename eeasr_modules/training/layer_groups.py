"""Parameter groups whose learning rate falls from the top layer of an encoder to its front end."""

import re

from torch import nn

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
    >>> from eeasr_modules.models.conformer import ConformerEncoder
    >>> encoder = ConformerEncoder(n_layers=2, dim=16, n_heads=2, ffn_dim=32)
    >>> [group["lr_scale"] for group in decayed_groups(encoder, decay=0.5)]
    [0.25, 0.5, 1.0]
    """
    by_depth: dict[int, list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            by_depth.setdefault(depth_of(encoder, name), []).append(parameter)
    return [{"params": by_depth[depth], "lr_scale": decay ** (encoder.n_layers - depth)} for depth in sorted(by_depth)]
