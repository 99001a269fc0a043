"""What products are computed in: 16 bits by autocast, or float32 that is float32 on a GPU too."""

import threading

import torch

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

    Arguments
    ---------
    precision : str
        bfloat16 (or bf16) and float16 (fp16): autocast. Any other, such as float32 and int8: products of float32
        numbers, none of them in TF32.
    device : torch.device
        Where the model is.

    Returns
    -------
    context manager

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
