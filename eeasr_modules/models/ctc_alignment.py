"""Where in the audio a known transcript lies: the likeliest CTC path that spells it."""

from collections.abc import Sequence

import numpy as np


def aligned_path(log_probs: np.ndarray, tokens: Sequence[int], *, blank_index: int) -> np.ndarray | None:
    """The likeliest token of each frame among the paths that collapse to a transcript (Viterbi).

    Arguments
    ---------
    log_probs : np.ndarray of shape (frames, tokens)
        Of one utterance, without padding.
    tokens : sequence of int
        The transcript.
    blank_index : int
        Index of blank.

    Returns
    -------
    np.ndarray of shape (frames,), or None
        None where the frames are too few to spell it.

    Example
    -------
    >>> log_probs = np.log([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.3, 0.5, 0.2]])
    >>> aligned_path(log_probs, [1, 1], blank_index=0).tolist()
    [0, 1, 0, 1]
    """
    labels = np.full(2 * len(tokens) + 1, blank_index)
    labels[1::2] = tokens
    n_frames, n_states = len(log_probs), len(labels)
    if not n_frames:
        return np.zeros(0, dtype=np.int64) if not len(tokens) else None
    skips = np.zeros(n_states, dtype=bool)  # states that may come straight from the token before, over the blank
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    score = np.full(n_states, -np.inf)
    score[:2] = log_probs[0, labels[:2]]
    came = np.zeros((n_frames, n_states), dtype=np.int64)
    for frame in range(1, n_frames):
        one = np.concatenate([[-np.inf], score[:-1]])
        two = np.where(skips, np.concatenate([[-np.inf] * 2, score[:-2]])[:n_states], -np.inf)
        ways = np.stack([score, one, two])
        came[frame] = ways.argmax(axis=0)
        score = ways.max(axis=0) + log_probs[frame, labels]
    state = n_states - 1
    if n_states > 1 and score[-2] > score[-1]:
        state -= 1
    if not np.isfinite(score[state]):
        return None
    path = np.empty(n_frames, dtype=np.int64)
    for frame in range(n_frames - 1, -1, -1):
        path[frame] = labels[state]
        state -= came[frame, state]
    return path
