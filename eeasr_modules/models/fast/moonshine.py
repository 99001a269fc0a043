"""Moonshine's encoder made faster on CPUs, with the same output: convolutions and linear layers as oneDNN's products.

Convolutions read windows of time-major data, a stretch of time at a time, each utterance alone; the group norm needs
the whole first layer and is one scale and shift for each channel. What reads the waveform stays in float32. Attention
is one product for queries, keys and values, turned in float32, and torch's fused kernel.
"""

import torch
from torch import nn

from eeasr_modules.models.encoders.moonshine import CONVOLUTIONS, Attention, FeedForward, Parts
from eeasr_modules.models.fast.layers import GELU, FasterFeedForward, FasterProducts, fused, in_tiles, packed, product
from eeasr_modules.models.fast.module import bring_stock_back, refuse_difference

CHUNK_FRAMES = 256  # of the second convolution at a time: its windows are then 1.5 MB in bfloat16


def faster_moonshine(model: nn.Module, *, layers: bool = True) -> nn.Module:
    """The model, Moonshine's parts in it swapped for faster ones, in place.

    Arguments
    ---------
    model : nn.Module
        Such as a `MultiExit`.
    layers : bool
        Not the convolutions alone.

    Raises
    ------
    ValueError
        If it holds no such encoder, or this torch has no oneDNN.
    RuntimeError
        If noise comes out differently; the stock parts are then in place.

    Example
    -------
    >>> from eeasr_modules.models.encoders.moonshine import MoonshineEncoder
    >>> encoder = MoonshineEncoder(hf_config={"model_type": "moonshine", "encoder_num_hidden_layers": 1}).eval()
    >>> given = torch.randn(1, 16000), torch.tensor([16000])
    >>> with torch.no_grad():
    ...     stock = encoder.front_end(*given).hidden
    ...     faster = faster_moonshine(encoder).front_end(*given).hidden
    >>> torch.allclose(stock, faster, atol=1e-4)
    True
    """
    encoders = [module for module in model.modules() if isinstance(module, Parts)]
    if not encoders:
        raise ValueError(f"no Moonshine encoder in a {type(model).__name__}: use the stock parts")
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkldnn.is_available():
        raise ValueError("the faster parts of a Moonshine encoder need a torch with oneDNN: use the stock ones")
    kinds = {Attention: FasterAttention, FeedForward: FasterFeedForward} if layers else {}
    for parts in encoders:
        bring_stock_back(parts.modules())
        swaps = [FasterConvolutions(parts, None)]
        swaps += [kinds[type(one)](one, None) for one in parts.modules() if type(one) in kinds]
        for made in swaps[: 1 + len(kinds)]:
            _self_test(made)
        for made in swaps:
            made.swap()
    return model


class FasterConvolutions(FasterProducts):
    """Forward of `Parts`: waveforms to the input of layer 1.

    Arguments
    ---------
    module : Parts
        Of a Moonshine encoder.
    dtype : torch.dtype or None
        Of the products from the second convolution on; None: as the weights, or as autocast asks.
    """

    def __call__(self, wavs: torch.Tensor, lengths: list[int], frames: list[int]) -> torch.Tensor:
        dtype = None if self.module.training else self.dtype_for(wavs)
        if dtype is None:
            return type(self.module).forward(self.module, wavs, lengths, frames)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            rows = self.current(dtype)
            out = wavs.new_zeros(len(wavs), max(frames), self.module.conv3.out_channels, dtype=dtype)
            for wav, n, features, n_frames in zip(wavs.float(), lengths, out, frames):
                self._convolved(wav[:n].contiguous(), rows, features[:n_frames])
            return out

    def pack(self, dtype: torch.dtype) -> tuple:
        """Weights of the first convolution (taps, dim), and of the others, laid out for oneDNN."""
        first, *later = self.module.conv1, self.module.conv2, self.module.conv3
        rows = [one.weight.detach().permute(0, 2, 1).flatten(1) for one in later]  # (width, kernel x channels)
        later = [packed(weights, one.bias, dtype) for weights, one in zip(rows, later)]
        return first.weight.detach()[:, 0].T.float().contiguous(), *later

    def _convolved(self, wav: torch.Tensor, rows: tuple, out: torch.Tensor) -> None:
        """One utterance (samples,), written to `out` (frames, dim)."""
        first, second, third = rows
        norm = self.module.groupnorm
        x = (wav.unfold(0, *CONVOLUTIONS[0]) @ first).tanh_()
        mean = x.mean()
        variance = (x - mean).square_().mean()  # a tenth of `torch.var_mean`'s time
        scale = norm.weight.float() * (variance + norm.eps).rsqrt()
        x = torch.addcmul(norm.bias.float() - mean * scale, x, scale).to(out.dtype)
        for start in range(0, len(out), CHUNK_FRAMES // 2):
            n = min(CHUNK_FRAMES // 2, len(out) - start)
            kernel, stride = CONVOLUTIONS[2]
            y = _windows(x, stride * start, stride * (n - 1) + kernel, CONVOLUTIONS[1])
            y = product(y, second, GELU)
            out[start : start + n] = product(_windows(y, 0, n, CONVOLUTIONS[2]), third, GELU)


def _windows(x: torch.Tensor, first: int, n_frames: int, convolution: tuple[int, int]) -> torch.Tensor:
    """What frames from `first` on see of `x` (time, channels), side by side: (n_frames, kernel x channels)."""
    kernel, stride = convolution
    width = x.shape[1]
    x = x[first * stride :]
    return x.as_strided((n_frames, kernel * width), (stride * width, 1), x.storage_offset()).contiguous()


class FasterAttention(FasterProducts):
    """Forward of `Attention` in eval mode: (batch, frames, dim) to the same.

    Arguments
    ---------
    module : Attention
        Of a Moonshine encoder.
    dtype : torch.dtype or None
        Of the products; None: as the weights, or as autocast asks.
    """

    def __call__(
        self, hidden: torch.Tensor, *, mask: torch.Tensor | None, positions: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        dtype = None if self.module.training or self.module.eager else self.dtype_for(hidden)
        if dtype is None:
            return type(self.module).forward(self.module, hidden, mask=mask, positions=positions)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self.attended(hidden, self.current(dtype), mask=mask, positions=positions)

    def pack(self, dtype: torch.dtype) -> tuple[tuple, tuple]:
        """Weights and bias to queries, keys and values, side by side, and of what comes out."""
        module = self.module
        inner = (module.q_proj, module.k_proj, module.v_proj)
        bias = None if module.q_proj.bias is None else torch.cat([one.bias for one in inner])
        weights = torch.cat([one.weight.detach() for one in inner])
        return packed(weights, bias, dtype), packed(module.o_proj.weight, None, dtype)

    def attended(self, x: torch.Tensor, weights: tuple[tuple, tuple], *, mask, positions) -> torch.Tensor:
        """One product for queries, keys and values, attention, one product."""
        inner, outer = weights
        batch, frames, _ = x.shape
        x = in_tiles(x, inner[0].dtype)
        parts = product(x, inner).view(batch, x.shape[1], 3, self.module.n_heads, -1)
        angles = torch.complex(*(one.float()[:, None, None, ::2] for one in positions))  # (frames, 1, 1, pairs)
        turning = parts[:, :frames, :2, :, : 2 * angles.shape[-1]].unflatten(-1, (-1, 2))
        turning.copy_(torch.view_as_real(torch.view_as_complex(turning.float().contiguous()) * angles))
        attended = fused(parts, mask, frames=frames, scale=self.module.width**-0.5)
        return product(attended.reshape(batch, frames, -1), outer)


@torch.no_grad()
def _self_test(faster: FasterProducts) -> None:
    """Compare with stock on noise; nothing to compare where stock would run."""
    module, weight = faster.module, next(faster.module.parameters())
    generator = torch.Generator().manual_seed(0)
    if isinstance(module, Parts):
        noise = torch.randn(1, 8000, generator=generator).to(weight)
        rest, more = ([8000], [19]), {}
    else:
        inputs = next(one.in_features for one in module.modules() if isinstance(one, nn.Linear))
        noise, rest, more = torch.randn(1, 7, inputs, generator=generator).to(weight), (), {}
        if isinstance(module, Attention):
            angles = torch.arange(7.0)[:, None].expand(7, 2 * (module.width // 4)).to(weight)
            more = {"mask": None, "positions": (angles.cos(), angles.sin())}
    dtype = faster.dtype_for(noise)
    if dtype is not None:
        stock = type(module).forward(module, noise, *rest, **more)
        refuse_difference(faster(noise, *rest, **more), stock, dtype=dtype, what="Moonshine", instead="the stock parts")
