"""What is known about a language's words without the audio: how frequent they are and how they are spelled.

Frequencies come from `wordfreq` (Speer 2022; word lists of 40 languages, offline), or from counts of training
transcripts. They are on the Zipf scale: the base-10 logarithm of occurrences per billion words, so that 7 is "the",
3 is a word that one meets now and then, and 0 is a word that is not listed.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from eeasr_modules.exits.character_ngram import CharacterNgram

N_SPELLED_WORDS = 60_000  # of a frequency list; rarer ones are names and misspellings as often as words
PER_BILLION = 9.0
# words count as frequency ** 0.6: between every word once (spelling of rare ones) and running text
FLATTENING = 0.6


@dataclass(frozen=True, eq=False)
class WordResources:
    """Frequencies and spellings; every answer is kept, since transcripts repeat words.

    Arguments
    ---------
    frequencies : mapping of str to float
        Share of each known word in running text, words in lower case.
    source : str
        Where they come from, such as "wordfreq en".
    fallback : callable or None
        Zipf frequency of a word that is not in the mapping and not made of letters alone; None takes 0.
    """

    frequencies: Mapping[str, float]
    source: str
    fallback: Callable[[str], float] | None = None
    _zipf: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _char_score: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, source: str = "training transcripts") -> "WordResources":
        """Resources from transcripts, such as those of the training set.

        Arguments
        ---------
        texts : iterable of str
            Words separated by whitespace.
        source : str
            What they are.

        Returns
        -------
        WordResources

        Example
        -------
        >>> words = WordResources.from_texts(["go on", "go"])
        >>> round(words.zipf("GO"), 2), words.is_seen("stop")
        (8.82, False)
        """
        counts = Counter(word for text in texts for word in text.lower().split())
        total = sum(counts.values())
        if total == 0:
            raise ValueError(f"word counts need at least one word, and {source} hold none")
        return cls({word: count / total for word, count in counts.items()}, source)

    def zipf(self, word: str) -> float:
        """Zipf frequency of a word.

        Arguments
        ---------
        word : str
            In upper or lower case.

        Returns
        -------
        float
            0 where unknown.
        """
        known = self._zipf.get(word)
        if known is None:
            known = self._zipf[word] = self._look_up(word.lower())
        return known

    def is_seen(self, word: str) -> bool:
        """Whether a word is known at all.

        Arguments
        ---------
        word : str
            In upper or lower case.

        Returns
        -------
        bool
        """
        return self.zipf(word) > 0.0

    def char_score(self, word: str) -> float:
        """Log-probability of a word's spelling, its end included.

        Arguments
        ---------
        word : str
            In upper or lower case.

        Returns
        -------
        float
            Nats; over `len(word) + 1` it is the score per character.
        """
        known = self._char_score.get(word)
        if known is None:
            known = self._char_score[word] = self.spelling.log_probability(word.lower())
        return known

    @cached_property
    def spelling(self) -> CharacterNgram:
        """The character n-gram of the most frequent words; made when first asked for."""
        ranked = sorted(
            (word for word in self.frequencies if _is_spelled(word)), key=self.frequencies.get, reverse=True
        )
        return CharacterNgram.from_words(
            {word: (self.frequencies[word] * 1e8) ** FLATTENING for word in ranked[:N_SPELLED_WORDS]}
        )

    def _look_up(self, word: str) -> float:
        share = self.frequencies.get(word)
        if share is not None:
            return max(0.0, math.log10(share) + PER_BILLION)
        # a word in several parts (hyphens, rare possessives) may still be made of known ones
        return self.fallback(word) if self.fallback is not None and not word.isalpha() else 0.0


@lru_cache(maxsize=8)
def word_resources(language: str = "en") -> WordResources:
    """Resources of a language from `wordfreq`; the same object on every call.

    Arguments
    ---------
    language : str
        Code such as "en" or "de".

    Returns
    -------
    WordResources

    Raises
    ------
    ValueError
        When `wordfreq` is not installed or has no such language.
    """
    try:
        import wordfreq
    except ImportError as err:
        raise ValueError(
            "word frequencies need the package wordfreq, which is not installed: pip install 'eeasr[lexical]'"
        ) from err
    known = sorted(wordfreq.available_languages())
    if language not in known:
        raise ValueError(f"language must be one that wordfreq knows ({', '.join(known)}), got {language!r}")
    return WordResources(
        wordfreq.get_frequency_dict(language),
        f"wordfreq {language}",
        fallback=lambda word: float(wordfreq.zipf_frequency(word, language)),
    )


def _is_spelled(word: str) -> bool:
    return word.replace("'", "").isalpha()
