"""Signals that need no acoustics: from the transcripts so far, from one exit's words, from an utterance's name.

Replay (whole tables) and the live engine (one exit at a time) compute them by the same functions, so that both give a
policy the same numbers. The reference is never read. An empty transcript scores 0 in the signals of language.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.measure.edits import count_word_edits
from eeasr_modules.exits.words.resources import WordResources

TEXT_SIGNALS = ("char_change", "word_change", "n_chars", "n_words")
_LAGGED = re.compile(r"(char_change|word_change)_([2-9]|[1-9][0-9]+)")


def text_lag(name: str) -> tuple[str, int] | None:
    """What a signal such as `char_change_2` compares: the change since the exit so many before.

    Returns tuple of (str, int), or None: signal and lag, from 2; None where the name is none of these.

    Example
    -------
    >>> text_lag("char_change_2"), text_lag("char_change")
    (('char_change', 2), None)
    """
    found = _LAGGED.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def text_signals_at_exit(hypotheses: Sequence[str], previous: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Text signals of one exit, given the transcripts of the exit before; the first compares with empty ones (None).

    Returns dict of str to np.ndarray of shape (n_utterances,): `char_change` and `word_change` (edits to the previous
    transcript over max(1, own length)), `n_chars`, `n_words`; all float64.

    Example
    -------
    >>> signals = text_signals_at_exit(["abcd ef"], ["abc ef"])
    >>> signals["word_change"], signals["n_chars"]
    (array([0.5]), array([7.]))
    """
    if previous is None:
        previous = [""] * len(hypotheses)
    if len(previous) != len(hypotheses):
        raise ValueError(
            f"previous must hold a transcript for each of the {len(hypotheses)} utterances, got {len(previous)}"
        )
    return {
        **{name: change(name, hypotheses, previous) for name in ("char_change", "word_change")},
        "n_chars": np.array([len(text) for text in hypotheses], dtype=np.float64),
        "n_words": np.array([len(text.split()) for text in hypotheses], dtype=np.float64),
    }


def change(name: str, hypotheses: Sequence[str], earlier: Sequence[str] | None) -> np.ndarray:
    """How much transcripts changed since an earlier exit; shape (n_utterances,), edits over max(1, own length).

    The name is `char_change` or `word_change`; None for an earlier exit that is not there compares with empty ones.
    """
    earlier = [""] * len(hypotheses) if earlier is None else earlier
    edits = Levenshtein.distance if name == "char_change" else count_word_edits
    length = [len(text) if name == "char_change" else len(text.split()) for text in hypotheses]
    changed = np.array([edits(old, new) for old, new in zip(earlier, hypotheses)], dtype=np.float64)
    return changed / np.maximum(1.0, np.array(length, dtype=np.float64))


def text_signals(hypotheses: np.ndarray) -> dict[str, np.ndarray]:
    """Text signals of every exit; each of shape (n_utterances, n_exits), as `text_signals_at_exit`."""
    n_exits = hypotheses.shape[1]
    per_exit = [text_signals_at_exit(hypotheses[:, k], hypotheses[:, k - 1] if k else None) for k in range(n_exits)]
    return {name: np.stack([signals[name] for signals in per_exit], axis=1) for name in TEXT_SIGNALS}


def uniform(utt_ids: Sequence[str], exit_layer: int, *, seed: int = 0) -> np.ndarray:
    """A number in [0, 1) per utterance that looks random and depends on nothing but its arguments; float64.

    Neither the order of the utterances nor the batch they are in matters, so chance decides live and in
    replay alike.

    Example
    -------
    >>> a, b = uniform(["x", "y"], 4), uniform(["y", "x"], 4)
    >>> bool(a[0] == b[1]), bool(a[0] != a[1])
    (True, True)
    """
    # 53 bits: the most that a float64 below 1 holds, so 1.0 itself cannot come out of rounding
    digests = [
        hashlib.blake2b(f"{seed}\x1f{exit_layer}\x1f{utt_id}".encode(), digest_size=8).digest() for utt_id in utt_ids
    ]
    return np.array([(int.from_bytes(digest, "big") >> 11) * 2.0**-53 for digest in digests])


RARE_BELOW = 1.5  # Zipf: under 32 occurrences in a billion words
RARITY_BELOW = 3.5
# one-letter words less frequent than this are spelling leftovers: above it are "a" and "i", or "y" and "o" in Spanish
LETTER_WORD_FROM = 5.9
LEXICAL_SIGNALS = ("rare_share", "rarity", "char_lm", "degenerate_share", "unseen_share")


def lexical_signals(
    hypotheses: Sequence[str], *, words: WordResources, names: Sequence[str] = LEXICAL_SIGNALS
) -> dict[str, np.ndarray]:
    """Lexical signals of one exit.

    Returns dict of str to np.ndarray of shape (n_utterances,): float64. `rare_share`: share of words with a Zipf
    frequency under 1.5. `rarity`: sum over words of max(0, 3.5 - Zipf), per character. `char_lm`: negative
    log-probability of the spellings (nats), per character, ends of words included. `degenerate_share`: share of words
    without a vowel, or of one letter that is no usual word. `unseen_share`: share of words that are not known at all.
    Higher is worse in all. ValueError when a name is unknown. `names`: which; each costs time of its own.

    Example
    -------
    >>> from eeasr_modules.exits.words.resources import WordResources
    >>> words = WordResources({"the": 0.3, "cat": 0.3, "sat": 0.3}, "a text")
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
