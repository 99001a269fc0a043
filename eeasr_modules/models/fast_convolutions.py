"""The convolutions of wav2vec 2.0 and its kin as matrix products over time-major data, a stretch of time at a time.

With features laid out `(time, channels)`, the windows of a convolution with stride s are rows of a matrix that already
lies in memory: row t starts s x channels after row t - 1. So each layer is a product (two where windows overlap), and a
layer norm runs along the contiguous axis. Done for a few dozen output frames at a time, everything stays in the cache.

The group norm of "base" models needs every frame of the first layer before it can give one. Its statistics are those
of a linear map of the waveform's windows, though: with mean m and covariance C of the windows (10 x 10), channel w has
mean w'm + b and variance w'Cw. They are folded into the first layer's weights, so nothing is computed twice.
"""

from dataclasses import dataclass

import torch
from torch import nn

CHUNK_FRAMES = 32
"""Output frames (of 20 ms) at a time: the first layer's output is then 4 MB in float32."""


@dataclass(frozen=True)
class ConvolutionLayer:
    """One layer, ready for products.

    Arguments
    ---------
    parts : tuple of torch.Tensor, each of shape (taps x channels, width)
        The weights; cut every `stride` taps, so that no row of a product's matrix overlaps the next.
    bias : torch.Tensor of shape (width,) or None
        As in the model.
    norm : nn.LayerNorm or None
        Over channels.
    norm_weight, norm_bias : torch.Tensor of shape (width,) or None
        Of the norm, in the precision of the products.
    activation : callable
        On a tensor of any shape.
    kernel, stride : int
        In frames of the layer's input.
    """

    parts: tuple[torch.Tensor, ...]
    bias: torch.Tensor | None
    norm: nn.LayerNorm | None
    norm_weight: torch.Tensor | None
    norm_bias: torch.Tensor | None
    activation: object
    kernel: int
    stride: int

    def into(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Output of shape (frames, width) for `x` of shape (time, channels), contiguous; `out` is written over."""
        frames, channels = out.shape[0], x.shape[1]
        for i, weights in enumerate(self.parts):
            rows = x.as_strided(
                (frames, weights.shape[0]), (self.stride * channels, 1), x.storage_offset() + i * self.stride * channels
            )
            if i:
                torch.addmm(out, rows, weights, out=out)
            elif self.bias is None:
                torch.mm(rows, weights, out=out)
            else:
                torch.addmm(self.bias, rows, weights, out=out)
        return self.finished(out)

    def finished(self, x: torch.Tensor) -> torch.Tensor:
        """Norm and activation; `x` is written over."""
        if self.norm is not None:
            x = torch.layer_norm(x, self.norm.normalized_shape, self.norm_weight, self.norm_bias, self.norm.eps)
        return self.activation(x)


def why_not(extractor: nn.Module) -> str | None:
    """What about the convolutions is not foreseen here, in a few words; None if nothing is.

    Arguments
    ---------
    extractor : nn.Module
        `feature_extractor` of a model of transformers.
    """
    for i, layer in enumerate(getattr(extractor, "conv_layers", ())):
        conv, norm = getattr(layer, "conv", None), getattr(layer, "layer_norm", None)
        if not isinstance(conv, nn.Conv1d) or conv.groups > 1 or conv.dilation != (1,) or conv.padding != (0,):
            return f"layer {i} is not a plain one-dimensional convolution"
        if i == 0 and conv.in_channels != 1:
            return f"layer 0 reads {conv.in_channels} channels"
        known = isinstance(norm, nn.LayerNorm) or norm is None
        per_channel = i == 0 and isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels
        if not (known or per_channel):
            return f"layer {i} has a {type(norm).__name__} that is neither over channels nor per channel in layer 0"
    return None if getattr(extractor, "conv_layers", None) else "it has no conv_layers"


def pack(extractor: nn.Module, dtype: torch.dtype) -> list[ConvolutionLayer]:
    """The layers' weights laid out for products, copied once.

    Arguments
    ---------
    extractor : nn.Module
        `feature_extractor` of a model of transformers.
    dtype : torch.dtype
        Of the products from the second layer on; the first one's are float32, it costs little and reads the waveform.
    """
    layers = []
    for i, layer in enumerate(extractor.conv_layers):
        conv, norm = layer.conv, getattr(layer, "layer_norm", None)
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        wanted = torch.float32 if i == 0 else dtype
        weights = conv.weight.detach().to(wanted).permute(2, 1, 0)  # (width, channels, kernel) -> (kernel, channels, width)
        cuts = (kernel,) if i == 0 else (stride,) * (kernel // stride) + ((kernel % stride,) if kernel % stride else ())
        parts = tuple(part.flatten(0, 1).contiguous() for part in weights.split(cuts))
        over_channels = norm if isinstance(norm, nn.LayerNorm) else None
        layers.append(
            ConvolutionLayer(
                parts,
                None if conv.bias is None else conv.bias.detach().to(wanted),
                over_channels,
                _copied(over_channels, "weight", wanted),
                _copied(over_channels, "bias", wanted),
                _in_place(layer.activation),
                kernel,
                stride,
            )
        )
    return layers


def _copied(module: nn.Module | None, name: str, dtype: torch.dtype) -> torch.Tensor | None:
    value = None if module is None else getattr(module, name)
    return None if value is None else value.detach().to(dtype)


def _in_place(activation: nn.Module):
    """The activation; GELU, as every published model has it, without another array."""
    exact = isinstance(activation, nn.GELU) and activation.approximate == "none"
    return torch.ops.aten.gelu_ if exact or type(activation).__name__ == "GELUActivation" else activation


def group_norm_folded(layer: ConvolutionLayer, norm: nn.GroupNorm, windows: torch.Tensor) -> ConvolutionLayer:
    """The first layer with its group norm over these windows in its weights.

    Arguments
    ---------
    layer : ConvolutionLayer
        Of `kernel` taps.
    norm : nn.GroupNorm
        One group per channel.
    windows : torch.Tensor of shape (frames, kernel)
        All windows of the utterance.

    Returns
    -------
    ConvolutionLayer
        Without norm; the activation is kept.
    """
    weights = layer.parts[0].double()  # (kernel, width)
    x = windows.double()  # in float32 the covariance of a loud, slow waveform would lose what the norm divides by
    mean = x.mean(dim=0)
    x = x - mean
    variance = (weights * ((x.T @ x / len(x)) @ weights)).sum(dim=0).clamp(min=0.0)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -(mean @ weights) * scale  # the layer's own bias moves its mean as much, and goes
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    folded = (weights * scale).float()
    return ConvolutionLayer(
        (folded,), shift.float(), None, None, None, layer.activation, layer.kernel, layer.stride
    )


def convolve(
    layers: list[ConvolutionLayer],
    wav: torch.Tensor,
    *,
    group_norm: nn.GroupNorm | None,
    out: torch.Tensor,
    dtype: torch.dtype,
    chunk_frames: int = CHUNK_FRAMES,
) -> None:
    """Features of one utterance, written to `out`.

    Arguments
    ---------
    layers : list of ConvolutionLayer
        From `pack`.
    wav : torch.Tensor of shape (samples,)
        Contiguous, float32.
    group_norm : nn.GroupNorm or None
        Of the first layer.
    out : torch.Tensor of shape (frames, width)
        As many frames as the convolutions make of the samples.
    dtype : torch.dtype
        Of the products from the second layer on.
    chunk_frames : int
        Output frames at a time.
    """
    first, *later = layers
    windows = wav.unfold(0, first.kernel, first.stride)  # (frames of the first layer, kernel), a view
    if group_norm is not None:
        first = group_norm_folded(first, group_norm, windows)
    hop = 1  # frames of the first layer per output frame
    for layer in later:
        hop *= layer.stride
    buffers = [wav.new_empty(n, layer.parts[0].shape[1], dtype=torch.float32 if i == 0 else dtype)
               for i, (layer, n) in enumerate(zip(layers, _needed(later, min(chunk_frames, len(out)))))]  # fmt: skip
    for start in range(0, len(out), chunk_frames):
        sizes = _needed(later, min(chunk_frames, len(out) - start))
        rows = windows[start * hop : start * hop + sizes[0]].contiguous()
        x = torch.addmm(first.bias, rows, first.parts[0], out=buffers[0][: sizes[0]]) if first.bias is not None else (
            torch.mm(rows, first.parts[0], out=buffers[0][: sizes[0]]))  # fmt: skip
        x = first.finished(x).to(dtype)
        for layer, buffer, size in zip(later, buffers[1:], sizes[1:]):
            x = layer.into(x, buffer[:size])
        out[start : start + len(x)] = x


def _needed(later: list[ConvolutionLayer], frames: int) -> list[int]:
    """Frames of each layer's output that so many frames of the last one's need."""
    sizes = [frames]
    for layer in reversed(later):
        sizes.insert(0, (sizes[0] - 1) * layer.stride + layer.kernel)
    return sizes
