"""The convolutions of wav2vec 2.0 and its kin as matrix products over time-major data, a stretch of time at a time.

With features laid out `(time, channels)`, the windows of a convolution with stride s are rows of a matrix that already
lies in memory: row t starts s x channels after row t - 1. So each layer is one product, and a
layer norm runs along the contiguous axis. Done for some output frames at a time, arrays stay small whatever the length.

The group norm of "base" models needs every frame of the first layer before it can give one. Its statistics are those
of a linear map of the waveform's windows, though: with mean m and covariance C of the windows (10 x 10), channel w has
mean w'm + b and variance w'Cw. They are folded into the first layer's weights, so nothing is computed twice.

In bfloat16 the first layer, which reads the waveform, keeps 16 bits of it and of its own weights: each is the sum of
two bfloat16 numbers, and one product over three of the four pairs of them (and the bias) has 32 columns for 10 taps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

CHUNK_FRAMES = 128
"""Output frames (of 20 ms) at a time. The first layer's output is then 17 MB in float32; with fewer the 25 MB of packed
weights are read more often: 32 at a time take a seventh longer where other work has filled the cache."""


_GELU = torch.ops.aten.gelu_


@dataclass(frozen=True)
class ConvolutionLayer:
    """One layer, ready for products.

    Arguments
    ---------
    weights : torch.Tensor of shape (kernel x channels, width)
        Tap by tap.
    bias : torch.Tensor of shape (width,) or None
        Zeros where the model has none; None: `in_parts` has it among the weights.
    norm : nn.LayerNorm or None
        Over channels.
    norm_weight, norm_bias : torch.Tensor of shape (width,) or None
        Of the norm, in the precision of the products.
    activation : callable
        On a tensor of any shape; may work in place.
    kernel, stride : int
        In frames of the layer's input.
    reordered : torch.Tensor or None
        The weights as oneDNN wants them; None: plain products.
    paired : tuple of three torch.Tensor, or None
        Weights for `pairs`, as oneDNN wants them; None: a product for every frame.
    """

    weights: torch.Tensor
    bias: torch.Tensor | None
    norm: nn.LayerNorm | None
    norm_weight: torch.Tensor | None
    norm_bias: torch.Tensor | None
    activation: Callable[[torch.Tensor], torch.Tensor]
    kernel: int
    stride: int
    reordered: torch.Tensor | None
    paired: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def windows(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """A view of `x` (time, channels), contiguous, of shape (frames, kernel x channels)."""
        step = self.stride * x.shape[1]
        return x.as_strided((frames, self.kernel * x.shape[1]), (step, 1), x.storage_offset())

    def apply(self, windows: torch.Tensor, spare: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
        """Output of shape (frames, width); `spare`, of that shape, and `room` for `windows` are written over."""
        fused = self.norm is None and self.activation is _GELU
        if self.reordered is None:
            x = torch.addmm(self.bias, windows, self.weights)
        else:
            after = ("gelu", [], "none") if fused else ("none", [], None)
            if not windows.is_contiguous():  # fresh memory for each stretch would cost as much as the copy
                windows = room[: windows.numel()].view(windows.shape).copy_(windows)
            x = torch.ops.mkldnn._linear_pointwise(windows, self.reordered, self.bias, *after)
            if fused:
                return x
        return self.finished(x, spare)

    def finished(self, x: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
        """Norm and activation of what the products gave, of shape (frames, width); `spare` is written over."""
        if self.norm is not None:
            shape, eps, statistics = self.norm.normalized_shape, self.norm.eps, x.new_empty(2, len(x), 1)
            torch.ops.aten.native_layer_norm.out(
                x, shape, self.norm_weight, self.norm_bias, eps, out0=spare, out1=statistics[0], out2=statistics[1]
            )
            x = spare
        return self.activation(x)

    def pairs(self, even: torch.Tensor, odd: torch.Tensor, spare: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Even and odd frames of the output, from the input's, for three taps and stride 2: five products for six.

        Two neighbouring frames, with taps W0, W1, W2 and inputs x0 to x4, share their middle input:

            W0 x0 + W1 x1 + W2 x2 = W0 (x0 - x2) + W1 x1 + (W0 + W2) x2
            W0 x2 + W1 x3 + W2 x4 = W2 (x4 - x2) + W1 x3 + (W0 + W2) x2

        as in Winograd's F(2, 2) (1980, "Arithmetic Complexity of Computations").
        """
        n_even, n_odd, width = (len(spare) + 1) // 2, len(spare) // 2, even.shape[1]
        of_shared, of_even, of_odd = self.paired
        middle = even[1 : 2 * n_even : 2]
        shared = torch.ops.mkldnn._linear_pointwise(middle, of_shared, self.bias, "none", [], None)
        joined = even.new_empty(n_even, 2 * width)
        torch.sub(even[: 2 * n_even : 2], middle, out=joined[:, :width])
        joined[:, width:] = odd[: 2 * n_even : 2]
        first = torch.ops.mkldnn._linear_pointwise.binary(joined, shared, of_even, None, "add")
        joined, middle, shared = joined[:n_odd], middle[:n_odd], shared[:n_odd]
        torch.sub(even[2 : 2 * n_odd + 1 : 2], middle, out=joined[:, :width])
        joined[:, width:] = odd[1 : 2 * n_odd : 2]
        second = torch.ops.mkldnn._linear_pointwise.binary(joined, shared, of_odd, None, "add")
        return self.finished(first, spare[:n_even]), self.finished(second, spare[n_even:])


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
        Of the products from the second layer on; for the first one's see `in_parts`.
    """
    layers = []
    for i, layer in enumerate(extractor.conv_layers):
        conv, norm = layer.conv, getattr(layer, "layer_norm", None)
        own = torch.float32 if i == 0 else dtype
        weights = (
            conv.weight.detach().to(own).permute(2, 1, 0)
        )  # (width, channels, kernel) -> (kernel, channels, width)
        bias = weights.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().to(own)
        norm = norm if isinstance(norm, nn.LayerNorm) else None
        scale, shift = (None, None) if norm is None else (_copied(norm.weight, own), _copied(norm.bias, own))
        activation, kernel, stride = _in_place(layer.activation), conv.kernel_size[0], conv.stride[0]
        weights = weights.flatten(0, 1).contiguous()
        reordered = _reordered(weights) if i else None  # the first one's change with every utterance's group norm
        # in bfloat16 they save 7 % and double the largest rounding error, so there not
        pairing = reordered is not None and (kernel, stride, dtype) == (3, 2, torch.float32)
        paired = _paired(weights) if pairing else None
        layers.append(
            ConvolutionLayer(weights, bias, norm, scale, shift, activation, kernel, stride, reordered, paired)
        )
    return layers


def _reordered(weights: torch.Tensor) -> torch.Tensor | None:
    """Weights (inputs, outputs) for oneDNN's products, which fuse GELU; None where this torch has none.

    In float32 `torch.addmm` is MKL's, which takes twice as long on CPUs that are not Intel's.
    """
    try:
        reordered = torch.ops.mkldnn._reorder_linear_weight(weights.T.contiguous(), None)
        row = weights.new_zeros(1, len(weights))
        torch.ops.mkldnn._linear_pointwise(row, reordered, None, "gelu", [], "none")
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None
    return reordered


def _paired(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of `ConvolutionLayer.pairs`: for what two frames share, for the even one and for the odd one."""
    first, middle, last = weights.chunk(3)
    shared = (first.double() + last.double()).to(weights.dtype)
    return _reordered(shared), _reordered(torch.cat([first, middle])), _reordered(torch.cat([last, middle]))


def _copied(value: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if value is None else value.detach().to(dtype)


def _in_place(activation: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation; GELU, as every published model has it, without another array."""
    exact = isinstance(activation, nn.GELU) and activation.approximate == "none"
    return _GELU if exact or type(activation).__name__ == "GELUActivation" else activation


def group_norm_folded(layer: ConvolutionLayer, norm: nn.GroupNorm, windows: torch.Tensor) -> ConvolutionLayer:
    """The first layer with its group norm over these windows in its weights.

    Arguments
    ---------
    layer : ConvolutionLayer
        The first.
    norm : nn.GroupNorm
        One group per channel.
    windows : torch.Tensor of shape (frames, kernel)
        All windows of the utterance.
    """
    weights = layer.weights.double()
    x = windows.double()  # float32 would lose, in a loud and slow waveform, what the norm divides by
    mean = x.mean(dim=0)
    x = x - mean
    variance = (weights * ((x.T @ x / len(x)) @ weights)).sum(dim=0).clamp(min=0.0)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -(mean @ weights) * scale  # the layer's own bias moves its mean as much, and goes
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return replace(layer, weights=(weights * scale).float(), bias=shift.float())


def in_parts(layer: ConvolutionLayer) -> ConvolutionLayer:
    """The first layer for products of `windows_in_parts` in bfloat16."""
    high, low = _halves(layer.weights)
    weights = torch.cat([high, high, low, *_halves(layer.bias[None])])  # (3 kernels + 2, width)
    reordered = torch.ops.mkldnn._reorder_linear_weight(weights.T.contiguous(), None)
    scale, shift = (_copied(one, torch.bfloat16) for one in (layer.norm_weight, layer.norm_bias))
    return replace(layer, weights=weights, bias=None, reordered=reordered, norm_weight=scale, norm_bias=shift)


def windows_in_parts(windows: torch.Tensor) -> torch.Tensor:
    """Windows (frames, kernel) of a waveform, and ones for the bias -> (frames, 3 kernels + 2), bfloat16."""
    high, low = _halves(windows)
    return torch.cat([high, low, high, high.new_ones(len(high), 2)], dim=1)


def _halves(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two bfloat16 numbers for each of float32, whose sum has 16 of its bits."""
    high = x.to(torch.bfloat16)
    return high, (x - high).to(torch.bfloat16)


def convolve(
    layers: list[ConvolutionLayer],
    wav: torch.Tensor,
    *,
    group_norm: nn.GroupNorm | None,
    out: torch.Tensor,
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
    chunk_frames : int
        Output frames at a time.
    """
    first, *later = layers
    windows = wav.unfold(0, first.kernel, first.stride)  # (frames of the first layer, kernel), a view
    if group_norm is not None:
        first = group_norm_folded(first, group_norm, windows)
    rounded = bool(later) and later[0].weights.dtype == torch.bfloat16 and later[0].reordered is not None
    first = in_parts(first) if rounded else first
    hop = math.prod(layer.stride for layer in later)  # frames of the first layer per output frame
    most = _needed(later, min(chunk_frames, len(out)))
    spares = [layer.weights.new_empty(n, layer.weights.shape[1]) for layer, n in zip([first, *later], most)]
    unpaired = [n * len(layer.weights) for layer, n in zip(later, most[1:]) if not layer.paired]
    room = out.new_empty(max(unpaired, default=0), dtype=layers[-1].weights.dtype)
    for start in range(0, len(out), chunk_frames):
        n_frames, *sizes = _needed(later, min(chunk_frames, len(out) - start))
        heard = windows[start * hop : start * hop + n_frames]
        x = first.apply(windows_in_parts(heard) if rounded else heard, spares[0][:n_frames], room)
        halves = None  # or what x is made of, its even and its odd frames
        for layer, spare, n_frames in zip(later, spares[1:], sizes):
            if layer.paired:
                halves = layer.pairs(*(halves or (x[::2], x[1::2])), spare[:n_frames])
                continue
            x, halves = interleaved(*halves) if halves else x.to(layer.weights.dtype), None
            x = layer.apply(layer.windows(x, n_frames), spare[:n_frames], room)
        x = interleaved(*halves) if halves else x
        out[start : start + len(x)] = x


def interleaved(even: torch.Tensor, odd: torch.Tensor) -> torch.Tensor:
    """Rows of `even` and `odd` in turn; `even` has as many, or one more."""
    x = even.new_empty(len(even) + len(odd), even.shape[1])
    x[::2], x[1::2] = even, odd
    return x


def _needed(later: list[ConvolutionLayer], frames: int) -> list[int]:
    """Frames of each layer's output that so many frames of the last one's need."""
    sizes = [frames]
    for layer in reversed(later):
        sizes.insert(0, (sizes[0] - 1) * layer.stride + layer.kernel)
    return sizes
