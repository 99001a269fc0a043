"""Signals that ask whether a transcript looks like language: from the words of one exit alone.

Replay and live decoding compute them by the same function. The reference is never read, and an utterance's
numbers do not depend on the others beside it. An empty transcript scores 0 everywhere.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

from eeasr_modules.exits.word_resources import WordResources

RARE_BELOW = 1.5  # Zipf: under 32 occurrences in a billion words
RARITY_BELOW = 3.5
# one-letter words less frequent than this are spelling leftovers: above it are "a" and "i", or "y" and "o" in Spanish
LETTER_WORD_FROM = 5.9
LEXICAL_SIGNALS = ("rare_share", "rarity", "char_lm", "degenerate_share", "unseen_share")


def lexical_signals(
    hypotheses: Sequence[str], *, words: WordResources, names: Sequence[str] = LEXICAL_SIGNALS
) -> dict[str, np.ndarray]:
    """Lexical signals of one exit.

    Arguments
    ---------
    hypotheses : sequence of str, n_utterances long
        Transcripts.
    words : WordResources
        Frequencies and spellings.
    names : sequence of str
        Which; each costs time of its own.

    Returns
    -------
    dict of str to np.ndarray of shape (n_utterances,)
        float64. `rare_share`: share of words with a Zipf frequency under 1.5. `rarity`: sum over words of
        max(0, 3.5 - Zipf), per character. `char_lm`: negative log-probability of the spellings (nats), per
        character, ends of words included. `degenerate_share`: share of words without a vowel, or of one letter that
        is no usual word. `unseen_share`: share of words that are not known at all. Higher is worse in all.

    Raises
    ------
    ValueError
        When a name is unknown.

    Example
    -------
    >>> from eeasr_modules.exits.word_resources import WordResources
    >>> words = WordResources.from_texts(["the cat sat"])
    >>> lexical_signals(["the cat", "thc cat", ""], words=words, names=["unseen_share"])
    {'unseen_share': array([0. , 0.5, 0. ])}
    """
    unknown = [name for name in names if name not in _PER_WORD]
    if unknown:
        raise ValueError(f"unknown lexical signal {unknown[0]!r}; known: {', '.join(LEXICAL_SIGNALS)}")
    split = [text.split() for text in hypotheses]
    n_words = np.array([len(row) for row in split], dtype=np.float64)
    n_chars = np.array([len(text) for text in hypotheses], dtype=np.float64)
    utterance = np.repeat(np.arange(len(split)), n_words.astype(np.int64))
    per = {"words": np.maximum(1.0, n_words), "chars": np.maximum(1.0, n_chars)}
    said = [word for row in split for word in row]
    distinct = set(said)  # a table says most of its words many times
    signals = {}
    for name in names:
        of_word, over = _PER_WORD[name]
        of = {word: of_word(words, word) for word in distinct}
        values = [of[word] for word in said]
        # bincount adds in the order of the words, so the sum is the same in every batch
        summed = np.bincount(utterance, np.asarray(values, dtype=np.float64), minlength=len(split))
        signals[name] = summed / per[over]
    return signals


def _is_degenerate(words: WordResources, word: str) -> bool:
    letters = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if c.isalpha())
    if len(letters) == 1 and len(word) == 1:
        return words.zipf(word) < LETTER_WORD_FROM
    return letters.isascii() and letters != "" and not set(word) & {"'"} and not set(letters) & set("aeiouy")


# name -> what a word adds, and what the sum is divided by
_PER_WORD = {
    "rare_share": (lambda words, word: words.zipf(word) < RARE_BELOW, "words"),
    "rarity": (lambda words, word: max(0.0, RARITY_BELOW - words.zipf(word)), "chars"),
    "char_lm": (lambda words, word: -words.char_score(word), "chars"),
    "degenerate_share": (_is_degenerate, "words"),
    "unseen_share": (lambda words, word: not words.is_seen(word), "words"),
}
