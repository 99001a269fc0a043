"""A module of transformers whose forward is computed another way, where that is foreseen.

Foreseen are float32 or bfloat16 weights on the CPU, without gradients. `module.forward = Faster(module, None)` swaps,
`del module.forward` brings the class's own forward back.
"""

from collections.abc import Iterable

import torch
from torch import nn

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest difference of a self-test on noise, in standard deviations of the output (or in ones)."""


class Faster:
    """A module's forward, computed another way where that is foreseen; weights are packed when they have changed.

    Arguments
    ---------
    module : nn.Module
        Whose forward.
    dtype : torch.dtype or None
        Of the products; None: as the weights, or as autocast asks.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype | None):
        self.module, self.dtype = module, dtype
        self.packed, self.packed_from = None, None

    def __getstate__(self) -> dict:
        return {**vars(self), "packed": None, "packed_from": None}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.dtype_for(x)
        if dtype is None:
            return self.stock(x)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self.faster(x, self.current(dtype)).to(x.dtype if self.dtype else dtype)

    def stock(self, x: torch.Tensor) -> torch.Tensor:
        """What the module's class does."""
        return type(self.module).forward(self.module, x)

    def dtype_for(self, x: torch.Tensor) -> torch.dtype | None:
        """Precision of the products for this input; None where the module's own code has to run."""
        weights, mixed = list(self.module.parameters()), torch.is_autocast_enabled("cpu")
        known = x.device.type == "cpu" and x.dtype in TOLERANCE and all(
            one.device.type == "cpu" and (one.dtype == x.dtype or (mixed and one.dtype in TOLERANCE)) for one in weights
        )  # fmt: skip
        gradients = torch.is_grad_enabled() and (x.requires_grad or any(one.requires_grad for one in weights))
        if not known or gradients or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return None
        if self.dtype is not None:
            return self.dtype
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return dtype if dtype in TOLERANCE else None

    def swap(self) -> None:
        """Put it beside the class's forward, not in its place."""
        self.module.forward = self

    def current(self, dtype: torch.dtype):
        """Packed weights, made again after a load, a cast or an optimiser's step."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        state = dtype, tuple((id(one), one.data_ptr(), -1 if one.is_inference() else one._version) for one in tensors)
        packed_from, packed = self.packed_from, self.packed  # in this order: other threads set them in the other
        if packed_from != state:
            packed = self.pack(dtype)
            self.packed, self.packed_from = packed, state
        return packed


def refuse_difference(own: torch.Tensor, stock: torch.Tensor, *, dtype: torch.dtype, what: str, instead: str) -> None:
    """RuntimeError where a self-test came out more than `TOLERANCE` away from stock.

    Arguments
    ---------
    own, stock : torch.Tensor of one shape
        Of the same noise.
    dtype : torch.dtype
        Of the products.
    what, instead : str
        What was made faster, and what to take in place of it, for the message.
    """
    difference = (own.float() - stock.float()).abs().max().item() / max(1.0, stock.float().std().item())
    if not difference <= TOLERANCE[dtype]:
        raise RuntimeError(
            f"the faster {what}: noise comes out {difference:.2g} away from what transformers' own code gives (at most "
            f"{TOLERANCE[dtype]:g} is expected): use {instead}"
        )


def bring_stock_back(modules: Iterable[nn.Module]) -> None:
    """Undo `Faster.swap` in those of the modules where it was done."""
    for module in modules:
        if isinstance(vars(module).get("forward"), Faster):
            del module.forward
