"""What word models know of a word by itself: its frequency and its spelling, looked up once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from eeasr_modules.exits.word_resources import WordResources, word_resources

SPELLING = ("zipf", "n_chars", "char_score", "char_score_mean", "no_vowel", "split_zipf")
VOWELS = frozenset("aeiouy'")
MAX_KEPT_WORDS = 500_000


@dataclass(frozen=True, eq=False)
class WordSpelling:
    """What is known of each word by itself; kept, since transcripts repeat words.

    Arguments
    ---------
    resources : WordResources
        Frequencies and spellings of the language.
    known : dict of str to tuple
        What was looked up so far.
    """

    resources: WordResources
    known: dict[str, tuple[float, ...]]

    def rows(self, words: Sequence[str]) -> np.ndarray:
        """The columns `SPELLING` of each word.

        Arguments
        ---------
        words : sequence of str
            Words.

        Returns
        -------
        np.ndarray of shape (n_words, len(SPELLING))
        """
        if len(self.known) > MAX_KEPT_WORDS:
            self.known.clear()
        return np.array([self.row(word) for word in words], dtype=np.float64).reshape(len(words), len(SPELLING))

    def row(self, word: str) -> tuple[float, ...]:
        """The columns `SPELLING` of one word.

        Arguments
        ---------
        word : str
            In upper or lower case.

        Returns
        -------
        tuple of float
        """
        known = self.known.get(word)
        if known is None:
            known = self.known[word] = self._look_up(word)
        return known

    def _look_up(self, word: str) -> tuple[float, ...]:
        zipf, score = self.resources.zipf, self.resources.char_score(word)
        # two words run together are a common fault of early exits: the best pair by its rarer half
        split = max((min(zipf(word[:i]), zipf(word[i:])) for i in range(1, len(word))), default=0.0)
        no_vowel = not VOWELS.intersection(word.lower())
        return zipf(word), float(len(word)), score, score / (len(word) + 1), float(no_vowel), split


@lru_cache(maxsize=8)
def word_spelling(language: str) -> WordSpelling:
    """Spellings of a language; the same object on every call.

    Arguments
    ---------
    language : str
        As for `word_resources`.

    Returns
    -------
    WordSpelling
    """
    return WordSpelling(word_resources(language), {})


def common_language(tables: Sequence[Any]) -> str:
    """The language of tables that a word model is fitted on.

    Arguments
    ---------
    tables : sequence of ExitTable
        `language` of their metadata, else English.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        When they are in several.
    """
    languages = sorted({str(table.metadata.get("language", "en")) for table in tables})
    if len(languages) > 1:
        raise ValueError(f"a word model is of one language, and the dev tables are in {', '.join(languages)}")
    return languages[0]
