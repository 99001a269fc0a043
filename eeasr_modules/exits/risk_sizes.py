"""How many speakers a promise needs, and the smallest that some can keep: arithmetic without any recording.

A policy without a single error more than its reference loses -eps on every block; still, nobody can tell it from one
that loses B on a share eps / B of them as long as none of those was drawn, which happens with probability
(1 - eps / B)^n. No method certifies at level a before that is at most a.
"""

import math
from collections.abc import Sequence

import numpy as np

from eeasr_modules.exits.risk_losses import RiskTarget, block_p_values, scaled_losses

EPS_SHOWN = (0.25, 0.5, 1.0, 2.0, 5.0)
CLIPS_SHOWN = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_MOST = 10**6  # blocks looked for


def blocks_needed(target: RiskTarget) -> int:
    """Fewest blocks, all of the same words, with which a policy without any excess error can be certified.

    Arguments
    ---------
    target : RiskTarget
        With its clip given.

    Returns
    -------
    int
        For the test of the mean, by the target's method; the test of the tail follows what the blocks allow,
        unless a tail was asked for.

    Raises
    ------
    ValueError
        When there is no clip.

    Example
    -------
    >>> blocks_needed(RiskTarget(0.5, 0.1, clip=100, p_value="exact")), blocks_needed(RiskTarget(0.5, 0.1, clip=2))
    (598, 11)
    """
    if target.clip is None:
        raise ValueError("blocks are counted for a given clip, got none; give RiskTarget a clip")
    low, high = 0, math.ceil(math.log(target.level) / math.log1p(-target.eps / target.clip))
    if target.tail is not None:
        high = max(high, math.ceil(math.log(target.level) / math.log1p(-target.tail)))
    while not _certifies_flawless(high, target):
        low, high = high, 2 * high
        if high > _MOST:
            return high
    while high > low + 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _certifies_flawless(middle, target) else (middle, high)
    return high


def needed_table(
    delta: float = 0.1,
    *,
    eps_values: Sequence[float] = EPS_SHOWN,
    clips: Sequence[float] = CLIPS_SHOWN,
    blocks: str = "speakers",
) -> str:
    """Blocks needed for each eps and clip, in Markdown.

    Arguments
    ---------
    delta : float
        Of the promise.
    eps_values, clips : sequence of float
        In WER points; eps down, clips across. Where the clip is not above eps nothing stands.
    blocks : str
        What they are called.

    Returns
    -------
    str
    """
    head = f"| {blocks} needed | " + " | ".join(f"B {clip:g}" for clip in clips) + " |"
    lines = [head, "|---" + "|---:" * len(clips) + "|"]
    for eps in eps_values:
        needed = [
            str(blocks_needed(RiskTarget(eps, delta, blocks=blocks, clip=clip))) if clip > eps else "-"
            for clip in clips
        ]
        lines.append(f"| eps {eps:g} | " + " | ".join(needed) + " |")
    return "\n".join(lines)


def smallest_eps(words: np.ndarray, *, target: RiskTarget, block_words: float | None = None) -> float:
    """Smallest eps that blocks of these sizes can certify for a policy that has no excess error at all.

    A policy with fewer errors than its reference may get below it by betting, no other.

    Arguments
    ---------
    words : np.ndarray of shape (n_blocks,)
        Reference words of each block.
    target : RiskTarget
        Its eps is not used, nor is it where the clip follows eps.
    block_words : float or None
        The scale S; None takes the mean.

    Returns
    -------
    float
        In WER points, to 1 %; nan where not even 100 points can be certified.

    Example
    -------
    >>> smallest_eps(np.full(20, 1000.0), target=RiskTarget(eps=1, p_value="hoeffding_bentkus", clip=4)).__round__(2)
    0.56
    """
    scale = float(np.mean(words)) if block_words is None else block_words

    def certifies(eps: float) -> bool:
        clip = target.clip if target.clip is not None else RiskTarget(eps).clip_at(scale)
        if clip <= eps:
            return True
        losses = scaled_losses(np.zeros((len(words), 1)), words, eps=eps, clip=clip, block_words=scale)
        tested = block_p_values(losses, target, limit=eps / clip, uniforms=np.full(len(words), 0.5), prior=None)
        return bool(tested[0] <= target.level)

    low, high = 1e-4, 100.0 if target.clip is None else target.clip * (1 - 1e-9)
    if not certifies(high):
        return float("nan")
    while high > low * 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if certifies(middle) else (middle, high)
    return high


def _certifies_flawless(n_blocks: int, target: RiskTarget) -> bool:
    """Whether so many blocks of the same words, none with an excess error, pass both tests."""
    zeros, limit = np.zeros((n_blocks, 1)), target.eps / target.clip
    passed = block_p_values(zeros, target, limit=limit, uniforms=np.full(n_blocks, 0.5)) <= target.level
    return bool(passed[0]) and (1.0 - target.tail_at(n_blocks)) ** n_blocks <= target.level * (1 + 1e-9)
