"""What word models are fitted on: the errors that a later exit removes in the place of each word.

References are read here and nowhere else among the word models; nothing of it is there when decoding.
"""

from collections.abc import Sequence

import numpy as np

from eeasr_modules.exits.word_alignment import reference_slots, slot_owners


def word_gains(hypotheses: np.ndarray, references: Sequence[str]) -> list[np.ndarray]:
    """Errors that going on to each later exit removes in the place of each word.

    Both transcripts are aligned with the reference, and the difference of their errors in each of its slots goes to
    the word that owns the slot. Summed over the words of an utterance this is the difference of its errors, unless
    its transcript is empty.

    Arguments
    ---------
    hypotheses : np.ndarray of str objects, of shape (n_utterances, n_exits)
        Transcripts.
    references : sequence of str, n_utterances long
        What was said.

    Returns
    -------
    list of np.ndarray of shape (n_words, n_exits)
        For each exit but the last, the words of all utterances one after the other; 0 for exits before it.

    Example
    -------
    >>> word_gains(np.array([["the kat sat", "the cat sat"]], dtype=object), ["the cat sat"])
    [array([[0., 0.],
           [0., 1.],
           [0., 0.]])]
    """
    n_exits = hypotheses.shape[1]
    gains: list[list[np.ndarray]] = [[] for _ in range(n_exits - 1)]
    for texts, reference in zip(hypotheses, references):
        reference_words = reference.split()
        slots = [reference_slots(reference_words, text.split()) for text in texts]
        errors = np.stack([one.errors for one in slots], axis=1)  # (n_slots, n_exits)
        for k in range(n_exits - 1):
            removed = errors[:, k, None] - errors
            removed[:, :k] = 0.0
            of_words = np.zeros((len(slots[k].of_word), n_exits))
            if len(of_words):
                np.add.at(of_words, slot_owners(slots[k]), removed)
            gains[k].append(of_words)
    return [np.concatenate(rows) if rows else np.zeros((0, n_exits)) for rows in gains]
