"""The front end of wav2vec 2.0 and its kin (docs/faster-front-end.md) made faster on CPUs, with the same output.

`faster_front_end` gives the convolutions and the position embedding of a model of transformers another way to compute
what they compute; weights, keys of the state dict and the model's class stay. What is foreseen is float32 or bfloat16
weights, on the CPU, without gradients: in any other case (training the front end, a GPU, tracing for an export) the
model's own code runs, call by call.

The position embedding, a long grouped convolution over time, is computed by fast Fourier transform: 128 taps over 16
groups of channels are 128 products a frame and group; in frequency they are one. Time is cut into overlapping blocks of
a fixed length (overlap-save), so the weights are transformed once, whatever the utterance's length. In bfloat16 on CPUs
with matrix units (AMX) oneDNN's own convolution takes half of that time, once its weights are laid out.
"""

import time
from copy import deepcopy
from types import SimpleNamespace

import torch
from torch import nn

from eeasr_modules.models.device import NARROW
from eeasr_modules.models.encoders.front_end import conv_frames, shortest
from eeasr_modules.models.fast import convolutions as fast_convolutions
from eeasr_modules.models.fast.module import Faster, bring_stock_back, refuse_difference


def why_not(conv: nn.Module) -> str | None:
    """What about the convolution is not foreseen here, in a few words; None if nothing is.

    Arguments
    ---------
    conv : nn.Module
        Of the position embedding.
    """
    if not isinstance(conv, nn.Conv1d) or conv.stride != (1,) or conv.dilation != (1,):
        return "its position convolution is not a plain one-dimensional one of stride 1"
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return "its position convolution is not padded with a number of zeros"
    return None


class SpectralConvolution:
    """A convolution's weights in frequency.

    Arguments
    ---------
    conv : nn.Conv1d
        Stride 1; grouped or not; weight norm allowed.
    dtype : torch.dtype
        Of the products; transforms are float32.
    block : int or None
        Length of a block, in frames; None: the power of two that is at least twice the kernel.

    Example
    -------
    >>> conv = nn.Conv1d(8, 8, kernel_size=6, padding=3, groups=2)
    >>> x = torch.randn(1, 8, 50)
    >>> torch.allclose(SpectralConvolution(conv, torch.float32)(x), conv(x), atol=1e-5)
    True
    """

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype, *, block: int | None = None):
        self.kernel, self.padding, self.groups = conv.kernel_size[0], conv.padding[0], conv.groups
        self.block = block or 2 ** (2 * self.kernel - 1).bit_length()
        self.step = self.block - self.kernel + 1
        self.width = conv.out_channels
        self.bias = None if conv.bias is None else conv.bias.detach().float()[:, None]
        weight = conv.weight.detach().float()  # (width, channels / groups, kernel)
        spectrum = torch.fft.rfft(weight, n=self.block).conj()  # a layer's "convolution" is a correlation
        spectrum = spectrum.view(self.groups, -1, *spectrum.shape[1:]).permute(3, 0, 2, 1)
        # (frequencies, groups, channels in, channels out) -> real and imaginary parts side by side, one product each
        both = torch.cat([spectrum.real, spectrum.imag], dim=-1)
        self.weights = both.flatten(0, 1).to(dtype).contiguous()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As the convolution: (batch, channels, frames) -> (batch, width, its frames), float32."""
        batch, channels, frames = x.shape
        made = frames + 2 * self.padding - self.kernel + 1
        n_blocks = -(-made // self.step)
        covered = (n_blocks - 1) * self.step + self.block
        x = nn.functional.pad(x.float(), (self.padding, covered - frames - self.padding))
        spectrum = torch.fft.rfft(x.unfold(2, self.block, self.step))  # (batch, channels, blocks, frequencies)
        rows = torch.view_as_real(spectrum).view(batch, self.groups, channels // self.groups, n_blocks, -1, 2)
        rows = rows.permute(4, 1, 5, 0, 3, 2)  # (frequencies, groups, real and imaginary, batch, blocks, channels)
        shape = rows.shape
        products = rows.to(self.weights.dtype).reshape(len(self.weights), -1, shape[-1]) @ self.weights
        products = products.float().view(shape[0], self.groups, 2, batch, n_blocks, 2, -1)
        real, imaginary = products.unbind(2)
        real, imaginary = real[..., 0, :] - imaginary[..., 1, :], real[..., 1, :] + imaginary[..., 0, :]
        # (frequencies, groups, batch, blocks, channels) -> (batch, groups, channels, blocks, frequencies)
        spectrum = torch.complex(
            real.permute(2, 1, 4, 3, 0).contiguous(), imaginary.permute(2, 1, 4, 3, 0).contiguous()
        )
        y = torch.fft.irfft(spectrum, n=self.block)[..., : self.step]
        y = y.reshape(batch, self.width, -1)[..., :made]
        return y if self.bias is None else y + self.bias


class DirectConvolution:
    """A convolution by oneDNN in bfloat16, its weights laid out once.

    Arguments
    ---------
    conv : nn.Conv1d
        Stride 1; grouped or not; weight norm allowed.
    """

    FRAMES = 256
    """At least; of fewer, oneDNN expects another layout."""

    def __init__(self, conv: nn.Conv1d):
        weight = conv.weight.detach().to(torch.bfloat16)[:, :, None].contiguous()
        self.bias = None if conv.bias is None else conv.bias.detach().to(torch.bfloat16)
        self.how = [0, conv.padding[0]], [1, 1], [1, 1], conv.groups
        self.lost = conv.kernel_size[0] - 1 - 2 * conv.padding[0]
        shape = [1, conv.in_channels, 1, 2 * self.FRAMES]
        self.weights = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.how, shape)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As the convolution: (batch, channels, frames) -> (batch, width, its frames), bfloat16."""
        made, lacking = x.shape[2] - self.lost, max(0, self.FRAMES - x.shape[2])
        x = nn.functional.pad(x, (0, lacking)).to(torch.bfloat16)
        x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        y = torch.ops.mkldnn._convolution_pointwise(x, self.weights, self.bias, *self.how, "none", [], None)
        return y[:, :, 0, :made]

    @classmethod
    def where_it_pays(cls, conv: nn.Conv1d, spectral: SpectralConvolution) -> "DirectConvolution | SpectralConvolution":
        """It, where there are matrix units and this oneDNN computes groups of this width with them."""
        there = torch.cpu._is_amx_tile_supported() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if not there or conv.in_channels // conv.groups < NARROW:
            return spectral
        direct, x = cls(conv), torch.zeros(1, conv.in_channels, cls.FRAMES, dtype=torch.bfloat16)
        # an oneDNN that expects another layout would make it in every call, which takes a hundred times as long
        return spectral if _seconds(direct, x) > 2 * _seconds(spectral, x) else direct


def _seconds(convolve: SpectralConvolution | DirectConvolution, x: torch.Tensor) -> float:
    """Of the fastest of three runs."""
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        convolve(x)
        spent.append(time.perf_counter() - start)
    return min(spent)


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def faster_front_end(model: nn.Module, *, precision: str | None = None) -> nn.Module:
    """The model, its front end swapped for the faster one, in place.

    In float32 the output is the stock one's within 1e-5. Each utterance of a batch is computed alone, but as stock
    does: with a group norm ("base" models) padding that is given in counts; `HuggingFaceEncoder` gives none.

    Arguments
    ---------
    model : nn.Module
        A model of transformers (`Wav2Vec2Model`, `HubertForCTC`, ...), or any module that holds one, such as a
        `MultiExit`.
    precision : str or None
        Of the products: `float32` or `bfloat16` (rounded: differences of some hundredths); None: as the weights, or as
        autocast asks.

    Returns
    -------
    nn.Module
        `model` itself.

    Raises
    ------
    ValueError
        If the model has no such front end, or one with parts that are not foreseen, or the precision is not known.
    RuntimeError
        If a second of noise comes out differently; the stock front end is then back in place.

    Example
    -------
    >>> from transformers import Wav2Vec2Config, Wav2Vec2Model
    >>> shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    >>> model = Wav2Vec2Model(Wav2Vec2Config(conv_dim=[8] * 7, num_conv_pos_embedding_groups=2, **shape)).eval()
    >>> with torch.no_grad():
    ...     wav = torch.randn(1, 16000)
    ...     stock, faster = model(wav).last_hidden_state, faster_front_end(model)(wav).last_hidden_state
    >>> torch.allclose(stock, faster, atol=1e-4)
    True
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(
            f"precision of the faster front end must be one of {sorted(PRECISIONS)} or None, got {precision}"
        )
    dtype = None if precision is None else PRECISIONS[precision]
    stock_front_end(model)
    for extractor, convolutions in _front_ends(model):
        reason = fast_convolutions.why_not(extractor)
        reason = reason or next((why for why in map(why_not, convolutions) if why), None)
        if reason:
            raise ValueError(f"the faster front end does not know this model ({reason}): use the stock one")
        faster = [FasterExtractor(extractor, dtype), *(FasterPositions(conv, dtype) for conv in convolutions)]
        for made in faster:
            _self_test(made)
        for made in faster:
            made.swap()
    return model


def stock_front_end(model: nn.Module) -> nn.Module:
    """The model with transformers' own front end back in place.

    Arguments
    ---------
    model : nn.Module
        As given to `faster_front_end`; nothing happens where nothing was swapped.

    Returns
    -------
    nn.Module
        `model` itself.

    Raises
    ------
    ValueError
        If the model has no such front end.
    """
    for extractor, convolutions in _front_ends(model):
        bring_stock_back((extractor, *convolutions))
    return model


def _front_ends(model: nn.Module) -> list[tuple[nn.Module, list[nn.Module]]]:
    """Feature extractors and position convolutions that the model holds."""
    found = []
    for module in model.modules():
        embed = getattr(getattr(module, "encoder", None), "pos_conv_embed", None)
        if hasattr(module, "feature_extractor") and embed is not None:
            convolutions = [layer.conv for layer in embed.layers] if hasattr(embed, "layers") else [embed.conv]
            found.append((module.feature_extractor, convolutions))
    if not found:
        raise ValueError(
            "the faster front end is for wav2vec 2.0, HuBERT, WavLM, UniSpeech and data2vec-audio of transformers, got "
            f"a {type(model).__name__} without such an encoder"
        )
    return found


class FasterExtractor(Faster):
    """Forward of a `feature_extractor`: (batch, samples) -> (batch, channels, frames).

    Arguments
    ---------
    module : nn.Module
        The model's `feature_extractor`.
    dtype : torch.dtype or None
        Of the products; None: as the weights, or as autocast asks.
    """

    def pack(self, dtype: torch.dtype):
        """Layers laid out for products, and what is needed to know their lengths."""
        layers = fast_convolutions.pack(self.module, dtype)
        return layers, SimpleNamespace(
            conv_kernel=[layer.kernel for layer in layers], conv_stride=[layer.stride for layer in layers]
        )

    def dtype_for(self, x: torch.Tensor) -> torch.dtype | None:
        """As for any module; nothing that is shorter than a frame."""
        dtype = super().dtype_for(x)
        if dtype is None or x.dim() != 2 or not len(x) or x.shape[1] < shortest(self.current(dtype)[1]):
            return None
        return dtype

    def faster(self, x: torch.Tensor, packed) -> torch.Tensor:
        """Utterance by utterance, some frames at a time."""
        layers, shape = packed
        norm = getattr(self.module.conv_layers[0], "layer_norm", None)
        norm = norm if isinstance(norm, nn.GroupNorm) else None
        last = layers[-1].weights
        out = last.new_empty(len(x), conv_frames(shape, x.shape[1]), last.shape[1])
        for wav, features in zip(x.float().contiguous(), out):
            fast_convolutions.convolve(layers, wav, group_norm=norm, out=features)
        return out.transpose(1, 2)


class FasterPositions(Faster):
    """Forward of a position embedding's convolution: (batch, channels, frames) to the same.

    Arguments
    ---------
    module : nn.Module
        The convolution.
    dtype : torch.dtype or None
        Of the products; None: as the weights, or as autocast asks.
    """

    def pack(self, dtype: torch.dtype) -> SpectralConvolution | DirectConvolution:
        """The weights in frequency, or laid out for oneDNN."""
        spectral = SpectralConvolution(self.module, dtype)
        return DirectConvolution.where_it_pays(self.module, spectral) if dtype == torch.bfloat16 else spectral

    def faster(self, x: torch.Tensor, packed: SpectralConvolution | DirectConvolution) -> torch.Tensor:
        """By transform, or as it stands."""
        return packed(x)


@torch.no_grad()
def _self_test(faster: Faster) -> None:
    """Compare with stock on noise: a second of it, or 50 frames; nothing to compare where stock would run."""
    weight = next(faster.module.parameters())
    shape = (2, 16000) if isinstance(faster, FasterExtractor) else (2, faster.module.in_channels, 50)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight)
    dtype = faster.dtype_for(noise)
    if dtype is None:
        return
    # a group norm in bfloat16 is far off in stock: float32 is what both are to come close to
    exact = faster.module if weight.dtype == torch.float32 else deepcopy(faster.module).float()
    with torch.autocast("cpu", enabled=False):
        stock = type(exact).forward(exact, noise.float())
    refuse_difference(faster(noise), stock, dtype=dtype, what="front end", instead="the stock one")
