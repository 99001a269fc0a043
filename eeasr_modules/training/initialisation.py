"""Starting from a trained model: encoder, whole or its first layers, heads of shared exits, attention decoder."""

import logging

import torch
from torch import nn

from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.schedule import LAYER

logger = logging.getLogger(__name__)


def first_layers(weights: dict[str, torch.Tensor], keep_layers: int | None) -> dict[str, torch.Tensor]:
    """State dictionary of an encoder without what belongs to layers after `keep_layers` (None: all stay)."""
    if keep_layers is None:
        return weights
    layers = {name: LAYER.match(name) for name in weights}
    return {name: weights[name] for name, found in layers.items() if not found or int(found.group(1)) < keep_layers}


def take_over(start: MultiExit, model: MultiExit, *, folder: str) -> None:
    """Copy into `model` the encoder of `start`, the heads of the exits that both have, and its attention decoder.

    A `model` with fewer layers gets the first ones. Where its last exit was an inner one of `start`, that exit's norm
    becomes the encoder's last norm: the model then says what the exit said, unless its layers normalise by themselves
    (`final_norm` None), when the head starts without that norm.

    ValueError if encoder, tokens, heads or decoders are of another shape.
    """
    last = model.encoder.n_layers
    take_encoder(first_layers(start.encoder.state_dict(), last), model, folder=folder)
    if start.config["n_tokens"] != model.config["n_tokens"]:
        raise ValueError(
            f"the heads of init_from '{folder}' have {start.config['n_tokens']} tokens, this model has "
            f"{model.config['n_tokens']}: give it a folder of its own with --output_folder"
        )
    if start.conditioning is not None and model.conditioning is not None:
        model.conditioning.load_state_dict(start.conditioning.state_dict())
    _take_decoder(start, model, folder=folder)
    theirs = dict(zip(start.exit_layers, start.heads, strict=True))
    for layer, head in zip(model.exit_layers, model.heads, strict=True):
        if layer not in theirs:
            continue
        weights = _upsampled(theirs[layer].state_dict(), head.upsampling // theirs[layer].upsampling)
        if layer == last < start.encoder.n_layers:
            weights = _without_norm(weights, model.encoder.final_norm)
        try:
            head.load_state_dict(weights)
        except RuntimeError as err:
            raise ValueError(
                f"the heads of init_from '{folder}' are of another kind (head: {start.config['head']}): "
                f"{' '.join(str(err).split())}"
            ) from err


def take_heads(start: MultiExit, model: MultiExit, *, folder: str) -> None:
    """Copy what `take_over` copies, but for the encoder: that stays the checkpoint's, which its own decoder follows.

    ValueError as `take_over`; or if the encoder of `start` is not that of `model` to the last step of 8 bits.
    """
    stock = {name: weights.clone() for name, weights in model.encoder.state_dict().items()}
    take_over(start, model, folder=folder)
    for name, weights in model.encoder.state_dict().items():
        rows = stock[name].reshape(len(stock[name]) if weights.ndim else 1, -1)
        step = rows.abs().amax(dim=1, keepdim=True) / 127
        if ((weights.reshape(rows.shape) - rows).abs() > step + 1e-6).any():
            raise ValueError(
                f"decoder: own follows the checkpoint's encoder as it was, that of init_from '{folder}' has learnt "
                f"({name}): give a model that was trained with freeze_encoder: true, or init_from: null"
            )
    model.encoder.load_state_dict(stock)


def _upsampled(weights: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    """Weights of a head that says what it said in each of so many frames; CTC merges what repeats."""
    if times <= 1:
        return weights
    names = ("projection.weight", "projection.bias")
    return {**weights, **{name: torch.cat([weights[name]] * times) for name in names}}


def _take_decoder(start: MultiExit, model: MultiExit, *, folder: str) -> None:
    """Copy the attention decoder, and its norms of the exits that both have, where both have one."""
    if start.decoder is None or model.decoder is None:
        if start.decoder is not None:
            logger.warning("the attention decoder of init_from '%s' is left out: attention_decoder is false", folder)
        return
    weights = {name: value for name, value in start.decoder.state_dict().items() if not name.startswith("norms.")}
    own = {name: value for name, value in model.decoder.state_dict().items() if name.startswith("norms.")}
    try:
        model.decoder.load_state_dict({**own, **weights})
    except RuntimeError as err:
        raise ValueError(
            f"the attention decoder of init_from '{folder}' has another shape: {' '.join(str(err).split())}"
        ) from err
    theirs = dict(zip(start.exit_layers, start.decoder.norms, strict=True))
    for layer, norm in zip(model.exit_layers, model.decoder.norms, strict=True):
        if layer in theirs:
            norm.load_state_dict(theirs[layer].state_dict())


def _without_norm(weights: dict[str, torch.Tensor], final_norm: nn.Module | None) -> dict[str, torch.Tensor]:
    """Weights of an inner head for a last one; its norm goes into the encoder's."""
    norm = {name.removeprefix("norm."): value for name, value in weights.items() if name.startswith("norm.")}
    if final_norm is not None:
        final_norm.load_state_dict(norm)
    return {name: value for name, value in weights.items() if not name.startswith("norm.")}


def take_encoder(weights: dict[str, torch.Tensor], model: MultiExit, *, folder: str) -> None:
    """Load the encoder's `weights`; ValueError, naming `folder`, if they are of another shape.

    A downsampler that they lack stays as it was made.
    """
    own = model.encoder.state_dict()
    made = {name: value for name, value in own.items() if name.startswith("downsampler.")}
    try:
        model.encoder.load_state_dict({**made, **weights})
    except RuntimeError as err:
        raise ValueError(
            f"the encoder of init_from '{folder}' has another shape: {' '.join(str(err).split())}"
        ) from err
