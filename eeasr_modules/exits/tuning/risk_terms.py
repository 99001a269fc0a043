"""The terms of a certificate: how many speakers a promise needs, by arithmetic without any recording; and its words.

A policy without a single error more than its reference loses -eps on every block; still, nobody can tell it from one
that loses B on a share eps / B of them as long as none of those was drawn, which happens with probability
(1 - eps / B)^n. No method certifies at level a before that is at most a.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eeasr_modules.exits.tuning.risk_losses import WORST_POINTS, RiskTarget, block_p_values, scaled_losses

EPS_SHOWN = (0.25, 0.5, 1.0, 2.0, 5.0)
CLIPS_SHOWN = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_MOST = 10**6  # blocks looked for


def blocks_needed(target: RiskTarget) -> int:
    """Fewest blocks, all of the same words, with which a policy without any excess error can be certified.

    Returns int: for the test of the mean, by the target's method; the test of the tail follows what the blocks allow,
    unless a tail was asked for. ValueError when there is no clip.

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

    `eps_values` and `clips`: in WER points; eps down, clips across. Where the clip is not above eps nothing stands.
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

    Returns float: in WER points, to 1 %; nan where not even 100 points can be certified. `words` (n_blocks,): reference
    words of each block. `target`: its eps is not used, nor is it where the clip follows eps. `block_words`: the scale
    S; None takes the mean.

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


ONE = {"speakers": "speaker", "utterances": "utterance"}


def promise(target: RiskTarget, *, clip: float, tail: float, n_blocks: int, n_above: int) -> str:
    """What is promised, with all its parts.

    Example
    -------
    >>> promise(RiskTarget(0.5), clip=2, tail=0.072, n_blocks=40, n_above=0)[:76]
    'with probability 0.9 over the draw of 40 speakers, taken to be exchangeable '
    """
    drawn, worst = target.blocks, f"{WORST_POINTS:g} points"
    draw = f"with probability {1 - target.delta:g} over the draw of {n_blocks} {drawn}, taken to be exchangeable with"
    share = f"at most {100 * tail:.3g} % of {drawn} lose more ({n_above} of these {n_blocks})"
    if clip >= WORST_POINTS:
        return (
            f"{draw} those to come: at most {what(target)} over all {drawn}, if none loses more than {clip:.4g} "
            f"points, which is assumed; {share}"
        )
    everyone = target.bound_on_all(clip=clip, tail=tail)
    return (
        f"{draw} those to come: at most {what(target)} over the {drawn} that lose at most {clip:.3g} points (the clip, "
        f"chosen, not measured); {share}; over all {drawn} at most {everyone:.3g} points, if none loses over {worst}"
    )


def refusal(
    target: RiskTarget,
    *,
    clip: float,
    tail: float,
    n_blocks: int,
    smallest: float,
    p: float,
    tail_p: float,
    excess: float,
) -> str:
    """Why nothing is promised, and how many blocks it would take where they are too few.

    `p`, `tail_p`, `excess`: of the costliest threshold: p-values of the mean and of the tail, and WER points above the
    reference.
    """
    none, of, drawn = f"no certificate can be issued for at most {what(target)}", target.level, target.blocks
    if not smallest <= target.eps or (1 - tail) ** n_blocks > of * (1 + 1e-9):
        least = (
            "there is no eps that they can" if math.isnan(smallest) else f"the least they can is {smallest:.2f} points"
        )
        needed = blocks_needed(
            RiskTarget(target.eps, target.delta, p_value=target.p_value, clip=clip, tail=target.tail)
        )
        return (
            f"{none}: at a clip of {clip:.3g} points that takes {needed} {drawn}, even without any excess error, "
            f"and there are {n_blocks}; {least}"
        )
    first = f"{none}: at a clip of {clip:.3g} points the costliest threshold"
    if excess > target.eps and target.loss == "changed":
        return f"{first} changes {excess:.2f} % on the calibration data themselves"
    if excess > target.eps:
        return f"{first} is {excess:.2f} points above it on the calibration data themselves"
    if p > of:
        return f"{first} has p-value {p:.3g}, above {of:g}"
    return f"{first} has too many {drawn} that lose more: p-value {tail_p:.3g}, above {of:g}"


def assumptions(target: RiskTarget, *, clip: float, block_words: float, has_source: bool) -> tuple[str, ...]:
    """What a promise rests on.

    `clip` and `block_words`: in WER points, and the words of a mean block. `has_source`: whether thresholds and scale
    came from other data.
    """
    drawn, one = target.blocks, ONE[target.blocks]
    found = [
        f"{drawn} are exchangeable with those of calibration: other corpora, noise or microphones void the promise",
        f"the clip of {clip:.4g} points was chosen, not measured: {one}s above it, with more than "
        f"{clip * block_words / 100:.3g} errors more in one of {block_words:.3g} words, are promised as a share",
        f"what is said of all {drawn} takes none to lose more than {max(clip, WORST_POINTS):.4g} points",
    ]
    if target.loss == "changed":
        found.append(
            "no label was read: points are per cent of the last exit's words; WER rises by at most that times the last "
            "exit's words per reference word, and how good the last exit is, is not said"
        )
    if not has_source:
        found.append(f"thresholds tried and the words of a mean {one} count as given: they come from the same {drawn}")
    return tuple(found)


def certificate_lines(promise: Mapping[str, Any], *, delta: float) -> list[str]:
    """What to print of a certificate: the statement and its assumptions, or what others would need.

    Returns list of str: where nothing is certified, the last ones are the table of speakers needed.
    """
    if promise["certified"]:
        return [promise["statement"], *(f"assumed: {one}" for one in promise["assumptions"])]
    return [promise["statement"], *needed_lines(needed_table(delta, blocks=promise["blocks"]), delta=delta)]


def needed_lines(table: str, *, delta: float) -> list[str]:
    """The table of speakers needed, with a line above that says what it shows."""
    head = f"needed, even without any excess error, for eps at a clip of B WER points and delta {delta:g}:"
    return [head, *table.splitlines()]


def what(target: RiskTarget) -> str:
    """Such as "0.5 WER points above the last exit", or "2 % of the last exit's words changed"."""
    if target.loss == "changed":
        return f"{target.eps:g} % of the last exit's words changed (inserted, deleted or substituted)"
    exit_name = "the last exit" if target.reference == "last" else f"layer {target.reference}"
    return f"{target.eps:g} WER points above {exit_name}"
