"""The layers of wav2vec 2.0 and its kin made faster on CPUs, with the same output.

Linear layers become oneDNN's products, GELU in them where it follows: `nn.Linear` is MKL's in float32, which is slower
on CPUs that are not Intel's. In bfloat16 (autocast, or such weights) rounded weights are kept, laid out once, and
attention is torch's fused kernel where there are matrix units (AMX: three fifths of the time); elsewhere it goes head
by head, whose scores stay in the cache (on an EPYC the fused kernel took half as long again). Weights, keys of the
state dict and the model's class stay, as in `fast_front_end`, and in any case that is not foreseen the model's own code
runs, call by call.
"""

import torch
from torch import nn

from eeasr_modules.models.fast.module import Faster, bring_stock_back, refuse_difference

PLAIN = ("none", [], None)
GELU = ("gelu", [], "none")
_FAMILIES = ("Wav2Vec2", "Hubert", "Data2VecAudio", "UniSpeech", "UniSpeechSat")
ATTENTIONS = tuple(f"{family}Attention" for family in _FAMILIES)
"""Classes whose attention has no position bias."""


def faster_layers(model: nn.Module) -> nn.Module:
    """The model, the products of its layers swapped for faster ones, in place.

    In float32 the output is the stock one's but for the order of sums.

    Arguments
    ---------
    model : nn.Module
        A model of transformers, or any module that holds one, such as a `MultiExit`.

    Returns
    -------
    nn.Module
        `model` itself.

    Raises
    ------
    ValueError
        If the model holds no such encoder, or this torch has no oneDNN.
    RuntimeError
        If the first layer's modules come out differently on noise; the stock ones are then in place.

    Example
    -------
    >>> from transformers import Wav2Vec2Config, Wav2Vec2Model
    >>> shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    >>> model = Wav2Vec2Model(Wav2Vec2Config(conv_dim=[8] * 7, num_conv_pos_embedding_groups=2, **shape)).eval()
    >>> with torch.no_grad():
    ...     wav = torch.randn(1, 16000)
    ...     stock, faster = model(wav).last_hidden_state, faster_layers(model)(wav).last_hidden_state
    >>> torch.allclose(stock, faster, atol=1e-4)
    True
    """
    stock_layers(model)
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkldnn.is_available():
        raise ValueError("the faster layers need a torch with oneDNN: use the stock ones")
    for layers in _layers(model):
        faster = [[_faster(module) for module in _swappable(layer)] for layer in layers]
        for made in faster[0]:
            _self_test(made)
        for of_layer in faster:
            for made in of_layer:
                made.swap()
    return model


def stock_layers(model: nn.Module) -> nn.Module:
    """The model with transformers' own layers back in place.

    Arguments
    ---------
    model : nn.Module
        As given to `faster_layers`; nothing happens where nothing was swapped.

    Returns
    -------
    nn.Module
        `model` itself.

    Raises
    ------
    ValueError
        If the model holds no such encoder.
    """
    for layers in _layers(model):
        bring_stock_back(layers.modules())
    return model


def _layers(model: nn.Module) -> list[nn.ModuleList]:
    """Of every encoder that the model holds."""
    encoders = [module for module in model.modules() if hasattr(module, "pos_conv_embed") and hasattr(module, "layers")]
    if not encoders:
        raise ValueError(
            "the faster layers are for wav2vec 2.0, HuBERT, WavLM, UniSpeech and data2vec-audio of transformers, got a "
            f"{type(model).__name__} without such an encoder"
        )
    return [encoder.layers for encoder in encoders]


def _swappable(layer: nn.Module) -> list[nn.Module]:
    """Feed-forward parts as a whole where GELU is in them, attention, and what other linear layers there are."""
    found = [module for module in layer.modules() if _is_feed_forward(module) or type(module).__name__ in ATTENTIONS]
    inside = {id(one) for module in found if _is_feed_forward(module) for one in module.modules()}
    return [*found, *(one for one in layer.modules() if type(one) is nn.Linear and id(one) not in inside)]


def _is_feed_forward(module: nn.Module) -> bool:
    activation = getattr(module, "intermediate_act_fn", None)
    exact = type(activation).__name__ == "GELUActivation" or (
        isinstance(activation, nn.GELU) and activation.approximate == "none"
    )
    return exact and hasattr(module, "intermediate_dense") and hasattr(module, "output_dense")


def _faster(module: nn.Module) -> Faster:
    if _is_feed_forward(module):
        return FasterFeedForward(module, None)
    return FasterLinear(module, None) if isinstance(module, nn.Linear) else FasterAttention(module, None)


def packed(weights: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> tuple:
    """Weights (outputs, inputs) and bias for oneDNN: as they are, or rounded and laid out for it.

    A copy of float32 weights in oneDNN's layout would save another twentieth, and cost as much memory again.
    """
    bias = None if bias is None else bias.detach().to(dtype)
    if weights.dtype == dtype:
        return weights.detach(), bias
    return torch.ops.mkldnn._reorder_linear_weight(weights.detach().to(dtype).contiguous(), None), bias


def product(x: torch.Tensor, packed: tuple, after: tuple = PLAIN) -> torch.Tensor:
    """Rows times `packed` weights, and what comes after them in oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, *packed, *after)


class FasterProducts(Faster):
    """A forward by oneDNN's products.

    Arguments
    ---------
    module : nn.Module
        Of a layer.
    dtype : torch.dtype or None
        Of the products; None: as the weights, or as autocast asks.
    """

    def dtype_for(self, x: torch.Tensor) -> torch.dtype | None:
        """As for any module; none in bfloat16 where oneDNN refuses it (processors without AVX-512), stock does not."""
        dtype = super().dtype_for(x)
        refused = dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return None if refused else dtype


class FasterLinear(FasterProducts):
    """Forward of an `nn.Linear`: (..., inputs) -> (..., outputs).

    Arguments
    ---------
    module : nn.Linear
        Of a layer.
    dtype : torch.dtype or None
        Of the products; None: as the weights, or as autocast asks.
    """

    def pack(self, dtype: torch.dtype) -> tuple:
        """Weights and bias."""
        return packed(self.module.weight, self.module.bias, dtype)

    def faster(self, x: torch.Tensor, packed: tuple) -> torch.Tensor:
        """One product."""
        return product(x.to(packed[0].dtype), packed)


class FasterFeedForward(FasterProducts):
    """Forward of a layer's feed-forward part in eval mode: (batch, frames, dim) to the same.

    Arguments
    ---------
    module : nn.Module
        With `intermediate_dense`, GELU and `output_dense`, or `fc1`, GELU and `fc2`.
    dtype : torch.dtype or None
        Of the products; None: as the weights, or as autocast asks.
    """

    def pack(self, dtype: torch.dtype) -> tuple[tuple, tuple]:
        """Weights and biases of both products."""
        names = ("fc1", "fc2") if hasattr(self.module, "fc1") else ("intermediate_dense", "output_dense")
        dense = [getattr(self.module, name) for name in names]
        inner, outer = (packed(one.weight, one.bias, dtype) for one in dense)
        return inner, outer

    def dtype_for(self, x: torch.Tensor) -> torch.dtype | None:
        """As for any module; none in training, where there is dropout."""
        return None if self.module.training else super().dtype_for(x)

    def faster(self, x: torch.Tensor, packed: tuple[tuple, tuple]) -> torch.Tensor:
        """Two products, GELU in the first."""
        inner, outer = packed
        return product(product(x.to(inner[0].dtype), inner, GELU), outer)


class FasterAttention(FasterProducts):
    """Forward of self-attention in bfloat16, eval mode: (batch, frames, dim) to the same, and no weights.

    Arguments
    ---------
    module : nn.Module
        Of `ATTENTIONS`.
    dtype : torch.dtype or None
        Of the products; None: as the weights, or as autocast asks.
    """

    def __call__(self, hidden_states: torch.Tensor, **arguments):
        mask = arguments.get("attention_mask")
        foreseen = not self.module.training and set(arguments) <= {"attention_mask"}
        foreseen = foreseen and (mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1))
        dtype = self.dtype_for(hidden_states) if foreseen else None
        if dtype != torch.bfloat16:  # in float32 torch's kernel is as fast
            return type(self.module).forward(self.module, hidden_states, **arguments)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self.faster(hidden_states, self.current(dtype), mask=mask), None

    def pack(self, dtype: torch.dtype) -> tuple[tuple, tuple]:
        """Weights and bias to queries (scaled), keys and values, side by side, and of what comes out."""
        module = self.module
        weights = [module.q_proj.weight * module.scaling, module.k_proj.weight, module.v_proj.weight]
        biases = [module.q_proj.bias, module.k_proj.bias, module.v_proj.bias]
        if any(bias is None for bias in biases):
            bias = None
        else:
            bias = torch.cat([biases[0] * module.scaling, *biases[1:]])
        return packed(torch.cat(weights), bias, dtype), packed(module.out_proj.weight, module.out_proj.bias, dtype)

    def faster(self, x: torch.Tensor, packed: tuple[tuple, tuple], *, mask: torch.Tensor | None) -> torch.Tensor:
        """One product for queries, keys and values, attention, one product."""
        inner, outer = packed
        batch, frames, _ = x.shape
        tiled = torch.cpu._is_amx_tile_supported()
        x = in_tiles(x, inner[0].dtype) if tiled else x.to(inner[0].dtype)
        parts = product(x, inner).view(batch, x.shape[1], 3, self.module.num_heads, -1)
        attended = fused(parts, mask, frames=frames) if tiled else _head_by_head(parts, mask)
        return product(attended.reshape(batch, frames, -1), outer)


TILE = 32
"""Torch's attention in bfloat16 takes half as long again where frames do not fill its tiles (AMX)."""


def in_tiles(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """States (batch, frames, dim) in a precision; in bfloat16 with zeros behind them up to whole tiles."""
    lacking = -x.shape[1] % TILE if dtype == torch.bfloat16 else 0
    x = x.to(dtype)
    return torch.cat([x, x.new_zeros(len(x), lacking, x.shape[2])], dim=1) if lacking else x  # half of `pad`'s time


def fused(parts: torch.Tensor, mask: torch.Tensor | None, *, frames: int, scale: float = 1.0) -> torch.Tensor:
    """Attention by torch's kernel.

    Arguments
    ---------
    parts : torch.Tensor of shape (batch, frames or more, 3, heads, width)
        Queries, keys and values; behind `frames` whatever `in_tiles` led to.
    mask : torch.Tensor of shape (batch, 1, 1 or frames, frames), or None
        True where a key counts, the same for every query; None: everywhere.
    frames : int
        To attend to.
    scale : float
        Of scores.

    Returns
    -------
    torch.Tensor of shape (batch, frames, heads, width)
    """
    lacking = parts.shape[1] - frames
    if lacking:
        mask = parts.new_ones(1, 1, 1, frames, dtype=torch.bool) if mask is None else mask[:, :, :1]
        mask = nn.functional.pad(mask, (0, lacking))
    queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # three of (batch, heads, frames, width)
    attended = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    return attended.transpose(1, 2)[:, :frames]


def _head_by_head(parts: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """As `fused`, of frames that are all there."""
    attended = parts.new_empty(*parts.shape[:2], *parts.shape[3:])
    for i, part in enumerate(parts.permute(0, 2, 3, 1, 4)):
        for head, (query, key, value) in enumerate(zip(*part, strict=True)):  # each (frames, width)
            scores = query @ key.T  # (frames, frames)
            if mask is not None:
                scores.masked_fill_(~mask[i, 0], -torch.inf)
            attended[i, :, head] = scores.softmax(dim=-1) @ value
    return attended


@torch.no_grad()
def _self_test(faster: Faster) -> None:
    """Compare with stock on a few frames of noise; nothing to compare where stock would run."""
    module = faster.module
    weight = next(module.parameters())
    n_inputs = next(one.in_features for one in module.modules() if isinstance(one, nn.Linear))
    noise = torch.randn(1, 7, n_inputs, generator=torch.Generator().manual_seed(0)).to(weight)
    dtype = faster.dtype_for(noise)
    if dtype is None:
        return
    stock, own = (one[0] if isinstance(one, tuple) else one for one in (faster.stock(noise), faster(noise)))
    refuse_difference(own, stock, dtype=dtype, what="layers", instead="the stock ones")
