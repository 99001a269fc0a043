"""Which utterances CTC cannot align, because they have more tokens than frames."""

import itertools
import logging
from collections.abc import Callable, Mapping

import torch

logger = logging.getLogger(__name__)


def frames_needed(tokens: list[int]) -> int:
    """Frames of the shortest CTC path: one a token, and a blank between equal ones.

    Example
    -------
    >>> frames_needed([5, 3, 3, 3])
    6
    """
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def warn_of_short(
    items: Mapping[str, dict],
    *,
    encode: Callable[[str], list[int]],
    frames_for: Callable[[torch.Tensor], torch.Tensor],
    sample_rate: int,
) -> int:
    """How many utterances have too few frames for their tokens: nothing is learned from them, which is logged.

    Arguments
    ---------
    items : mapping
        As `manifest_items` gives them.
    encode : callable
        Text -> token indices.
    frames_for : callable
        The encoder's: samples -> frames.
    sample_rate : int
        Hz.
    """
    n_samples = torch.tensor([round(item["duration"] * sample_rate) for item in items.values()])
    n_frames = frames_for(n_samples).tolist()
    needed = (frames_needed(encode(item["words"])) for item in items.values())
    short = [utt_id for utt_id, has, needs in zip(items, n_frames, needed, strict=True) if has < needs]
    if short:
        logger.warning(
            "%d of %d training utterances (%.1f %%) have fewer frames than CTC needs for their tokens, and teach "
            "nothing (the first is %s): give tokens: bpe, a smaller downsample_factor, or downsample: null",
            len(short),
            len(items),
            100.0 * len(short) / len(items),
            short[0],
        )
    return len(short)
