"""Learning rate as a pure function of progress: nothing to checkpoint, the same after a resume."""

import math


def warmup_cosine(progress: float, *, warmup_share: float, final_share: float) -> float:
    """Share of the peak learning rate.

    Arguments
    ---------
    progress : float
        Share of all updates that are done, 0 to 1.
    warmup_share : float
        Share of updates with a linear rise.
    final_share : float
        What is left of the peak at the end of the cosine (Loshchilov & Hutter 2017).

    Example
    -------
    >>> [round(warmup_cosine(p, warmup_share=0.1, final_share=0.0), 3) for p in (0.05, 0.1, 0.55, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup_share:
        return progress / warmup_share
    done = min(1.0, (progress - warmup_share) / max(1e-9, 1.0 - warmup_share))
    return final_share + (1.0 - final_share) * 0.5 * (1.0 + math.cos(math.pi * done))
