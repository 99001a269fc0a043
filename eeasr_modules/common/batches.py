"""Utterances of similar length together."""

from __future__ import annotations

from collections.abc import Sequence


def length_batches(
    durations_s: Sequence[float], batch_seconds: float, *, longest_first: bool = False
) -> list[list[int]]:
    """Positions in batches of similar length whose padded length is at most `batch_seconds` (one at the least).

    `longest_first`: from the longest to the shortest, not the other way; equally long ones keep their order.

    Example
    -------
    >>> length_batches([3.0, 1.0, 1.5, 9.0], 4.0)
    [[1, 2], [0], [3]]
    >>> length_batches([3.0, 1.0, 1.5, 9.0], 4.0, longest_first=True)
    [[3], [0], [2, 1]]
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(durations_s)), key=durations_s.__getitem__, reverse=longest_first):
        longest = durations_s[batches[-1][0] if batches and longest_first else position]
        if batches and longest * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches
