"""Which device models run on, and what products are computed in: 16 bits by autocast, or true float32.

Narrow convolutions over time stay in float32 on a CPU whatever is asked: see `NarrowConvolution`.
"""

import platform
import threading
from pathlib import Path

import torch
from torch import nn


def checked_device(device: str) -> str:
    """`device`, such as cpu, cuda or cuda:1; ValueError, one sentence, where torch cannot use it.

    Example
    -------
    >>> checked_device("cpu")
    'cpu'
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).splitlines()[0].split(". ")[0].rstrip(".")
        raise ValueError(f"device must be one that torch can use here, such as cpu, got {device!r}: {reason}") from err
    return device


def wait_for(device: torch.device) -> None:
    """Return when all that a GPU was given is done; at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def isa() -> str:
    """The vector instructions that torch found, and whether there are matrix units."""
    amx = "AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
    return f"{torch.backends.cpu.get_cpu_capability()}, {amx}"


def processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


NARROW = 16
"""Convolutions with fewer input channels a group than this (and more than one) are narrow."""

HALVES = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}  # this library's names and SpeechBrain's


def computed_in(precision: str, device: torch.device):
    """What a batch that is read, not trained on, runs inside.

    SpeechBrain allows TF32 when it is imported: on a GPU the inputs of float32 products then lose 13 of their 23 bits.
    Log-probs of small models were up to 0.006 from a CPU's with it (on an H200), enough to turn near ties.

    `precision`: bfloat16 (or bf16) and float16 (fp16): autocast. Any other, such as float32 and int8: products of
    float32 numbers, none of them in TF32.

    Example
    -------
    >>> with computed_in("float32", torch.device("cpu")):
    ...     torch.backends.cuda.matmul.allow_tf32
    False
    """
    if precision in HALVES:
        return torch.autocast(device.type, dtype=HALVES[precision])
    return _whole_float32


class _WholeFloat32:
    """No TF32 while somebody, in any thread, is inside; afterwards what was allowed before.

    Where convolutions and recurrences have precisions of their own, which somebody then chose with care and these two
    switches cannot say, all stays as it is.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._before: tuple[bool, bool] | None = None

    def __enter__(self):
        with self._lock:
            if not self._inside:
                self._before = _allowed_tf32()
                _allow_tf32(self._before and (False, False))
            self._inside += 1

    def __exit__(self, *_):
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _allow_tf32(self._before)


def _allowed_tf32() -> tuple[bool, bool] | None:
    try:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    except RuntimeError:  # parts of them differ
        return None


def _allow_tf32(products_and_convolutions: tuple[bool, bool] | None) -> None:
    if products_and_convolutions is not None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products_and_convolutions


_whole_float32 = _WholeFloat32()


def narrow_in_float32(module: nn.Module) -> nn.Module:
    """The same module, its narrow convolutions over time computed in float32 wherever it runs on a CPU in 16 bits.

    It is changed in place; weights, their names and classes stay.

    Example
    -------
    >>> conv = narrow_in_float32(nn.Conv1d(8, 16, kernel_size=16, groups=2))
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     conv(torch.randn(1, 8, 50)).dtype
    torch.bfloat16
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv1d) and 1 < conv.in_channels // conv.groups < NARROW:
            conv._conv_forward = NarrowConvolution(conv)
    return module


class NarrowConvolution:
    """What a narrow `Conv1d` computes with, in place of `Conv1d._conv_forward`: 16 bits on a CPU become float32.

    On CPUs with AMX, oneDNN (torch 2.13) gives wrong numbers, not rounded ones, for a forward in bfloat16 with 2 to 14
    channels a group and some 64 products or more a group and output (relative error above 1, grouped or not);
    16 channels and more, one channel (depthwise), short kernels and the backward are right. The result has the 16 bits
    that were asked for.

    `conv`: the convolution; weight norm and other parametrisations allowed.
    """

    def __init__(self, conv: nn.Conv1d):
        self.conv = conv

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """(batch, channels, frames) -> (batch, out channels, its frames)."""
        forward = type(self.conv)._conv_forward
        mixed = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if mixed else x.dtype
        if x.device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
            return forward(self.conv, x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            bias = None if bias is None else bias.float()
            return forward(self.conv, x.float(), weight.float(), bias).to(dtype)
