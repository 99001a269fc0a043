"""A small model of how words are spelled: an interpolated n-gram over the letters of single words.

Smoothing is that of Witten and Bell 1991 ("The zero-frequency problem", method C), as interpolated by Chen and
Goodman 1998, section 2.6, down to a uniform distribution over letters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

START, END = "\x02", "\x03"


@dataclass(frozen=True, eq=False)
class CharacterNgram:
    """Probabilities of words from their spelling.

    Arguments
    ---------
    order : int
        Letters of an n-gram, at least 1; `order - 1` of them are context.
    counts : mapping of str to float
        Weighted counts of n-grams of every length from 1 to `order`.
    contexts : mapping of str to (float, int)
        Of each context ("" too): its weighted count, and how many different letters follow it.
    n_letters : int
        Different letters, the word's end included.
    """

    order: int
    counts: Mapping[str, float]
    contexts: Mapping[str, tuple[float, int]]
    n_letters: int

    @classmethod
    def from_words(cls, weights: Mapping[str, float], *, order: int = 5) -> "CharacterNgram":
        """The model of a weighted list of words.

        Arguments
        ---------
        weights : mapping of str to float
            What each word counts.
        order : int
            Letters of an n-gram.

        Returns
        -------
        CharacterNgram

        Example
        -------
        >>> ngram = CharacterNgram.from_words({"the": 3.0, "then": 1.0, "hat": 1.0}, order=3)
        >>> ngram.log_probability("the") > ngram.log_probability("hte")
        True
        """
        if order < 1 or not weights:
            raise ValueError(f"a character n-gram needs an order from 1 and words, got {order} and {len(weights)}")
        text = "".join(START * (order - 1) + word + END for word in weights)
        letters, codes = np.unique(list(text), return_inverse=True)
        lengths = [order + len(word) for word in weights]
        weight = np.repeat(np.fromiter(weights.values(), dtype=np.float64), lengths)
        # an n-gram that ends in padding predicts nothing, and contexts never reach over a word's start
        predicts = np.flatnonzero(letters[codes] != START)
        counts: dict[str, float] = {}
        contexts: dict[str, tuple[float, int]] = {}
        for n in range(1, order + 1):
            keys, summed = _ngrams(codes, weight, ends=predicts, n=n)
            texts = ["".join(row) for row in letters[keys]]
            counts.update(zip(texts, summed.tolist()))
            for text_of, count in zip(texts, summed.tolist()):
                before, types = contexts.get(text_of[:-1], (0.0, 0))
                contexts[text_of[:-1]] = before + count, types + 1
        return cls(order, counts, contexts, int((letters != START).sum()))

    def log_probability(self, word: str) -> float:
        """Log-probability of a word and its end.

        Arguments
        ---------
        word : str
            In the letters of the model; others count as unseen.

        Returns
        -------
        float
            Nats, below 0. Over `len(word) + 1` it is the score per character.
        """
        padded, total = START * (self.order - 1) + word + END, 0.0
        for i in range(self.order - 1, len(padded)):
            probability = 1.0 / self.n_letters
            for n in range(1, self.order + 1):
                seen = self.contexts.get(padded[i - n + 1 : i])
                if seen is None:
                    break
                count, types = seen
                follows = self.counts.get(padded[i - n + 1 : i + 1], 0.0)
                probability = (follows + types * probability) / (count + types)
            total += math.log(probability)
        return total


def _ngrams(codes: np.ndarray, weight: np.ndarray, *, ends: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Different n-grams that end at given places, as letters (n_different, n), and their summed weights."""
    rows = codes[ends[:, None] + np.arange(1 - n, 1)]  # (n_ends, n)
    packed = np.zeros(len(rows), dtype=np.int64)
    base = int(codes.max()) + 1
    if base**n >= 2**63:
        different, which = np.unique(rows, axis=0, return_inverse=True)
        return different, np.bincount(which.ravel(), weight[ends])
    for column in rows.T:
        packed = packed * base + column
    _, first, which = np.unique(packed, return_index=True, return_inverse=True)
    return rows[first], np.bincount(which, weight[ends])
