"""Which device models run on."""

import torch


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
