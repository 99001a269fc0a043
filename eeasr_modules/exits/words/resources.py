"""What is known about a language's words without the audio: frequency and spelling, looked up once.

Frequencies come from `wordfreq` (Speer 2022; 40 languages, offline), on the Zipf scale: the base-10 logarithm of
occurrences per billion words. Spelling is scored by an interpolated n-gram over the
letters of single words, smoothed after Witten and Bell 1991 (method C) down to a uniform distribution.
"""

import gzip
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

START, END = "\x02", "\x03"


class Grams:
    """A row of numbers for each n-gram, in arrays sorted by its letters; answers are kept.

    `letters`: codes from 0. `levels`: by length, codes (n_grams,) as digits of one number, that of the last letter
    first, rising, and the n-grams' rows (n_grams, n_numbers). `shortest`: length of the first level.
    """

    def __init__(self, letters: Mapping[str, int], levels: Sequence[tuple[np.ndarray, np.ndarray]], *, shortest: int):
        self.letters, self.levels, self.shortest = letters, levels, shortest
        self.known: dict[str, tuple[float, ...] | None] = {}

    def get(self, gram: str) -> tuple[float, ...] | None:
        """Its row; None where it is none of them."""
        if gram not in self.known:
            self.known[gram] = self._found(gram)
        return self.known[gram]

    def _found(self, gram: str) -> tuple[float, ...] | None:
        keys, rows = self.levels[len(gram) - self.shortest]
        key, base = 0, len(self.letters)
        for letter in reversed(gram):
            code = self.letters.get(letter)
            if code is None:
                return None
            key = key * base + code
        at = int(keys.searchsorted(key))
        return tuple(rows[at].tolist()) if at < len(keys) and keys[at] == key else None


@dataclass(frozen=True, eq=False)
class CharacterNgram:
    """Probabilities of words from their spelling."""

    order: int  # letters of an n-gram, at least 1; `order - 1` of them are context
    counts: Grams  # weighted counts of n-grams of every length from 1 to `order`
    contexts: Grams  # of each context ("" too): its weighted count, and how many different letters follow it
    n_letters: int  # different letters, the word's end included

    @classmethod
    def from_words(cls, weights: Mapping[str, float], *, order: int = 5) -> "CharacterNgram":
        """The model of a weighted list of words.

        Example
        -------
        >>> ngram = CharacterNgram.from_words({"the": 3.0, "then": 1.0, "hat": 1.0}, order=3)
        >>> ngram.log_probability("the") > ngram.log_probability("hte")
        True
        """
        if order < 1 or not weights:
            raise ValueError(f"a character n-gram needs an order from 1 and words, got {order} and {len(weights)}")
        text = "".join(START * (order - 1) + word + END for word in weights)
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        letters = {letter: code for code, letter in enumerate(sorted(set(text)))}
        code_of = np.zeros(int(points.max()) + 1, dtype=np.int64)
        code_of[[ord(letter) for letter in letters]] = np.arange(len(letters))
        codes, base = code_of[points], len(letters)
        lengths = [order + len(word) for word in weights]
        weight = np.repeat(np.fromiter(weights.values(), dtype=np.float64), lengths)
        # an n-gram that ends in padding predicts nothing, and contexts never reach over a word's start
        ends = np.flatnonzero(points != ord(START))
        # the last letter is the first digit: sorted once, n-grams of every length lie together
        kind = np.int64 if base**order < 2**63 else object
        keys = sum(codes[ends - i].astype(kind) * base ** (order - 1 - i) for i in range(order))
        ranked = np.argsort(keys)
        keys, weight = keys[ranked], weight[ends]
        which = np.empty(len(keys), dtype=np.int64)
        counts, contexts = [], []
        for n in range(1, order + 1):
            shown = keys // base ** (order - n)
            begins = np.concatenate([[True], shown[1:] != shown[:-1]])
            which[ranked] = np.cumsum(begins) - 1
            grams, summed = shown[begins], np.bincount(which, weight)
            before, of_context = np.unique(grams % base ** (n - 1), return_inverse=True)
            counts.append((grams, summed[:, None]))
            contexts.append((before, np.stack([np.bincount(of_context, summed), np.bincount(of_context)], axis=1)))
        return cls(
            order, Grams(letters, counts, shortest=1), Grams(letters, contexts, shortest=0), base - (START in letters)
        )

    def log_probability(self, word: str) -> float:
        """Log-probability of a word and its end; nats, below 0. Over `len(word) + 1` it is the score per character."""
        padded, total = START * (self.order - 1) + word + END, 0.0
        for i in range(self.order - 1, len(padded)):
            probability = 1.0 / self.n_letters
            for n in range(1, self.order + 1):
                seen = self.contexts.get(padded[i - n + 1 : i])
                if seen is None:
                    break
                count, types = seen
                follows = self.counts.get(padded[i - n + 1 : i + 1]) or (0.0,)
                probability = (follows[0] + types * probability) / (count + types)
            total += math.log(probability)
        return total


N_SPELLED_WORDS = 60_000  # of a frequency list; rarer ones are names and misspellings as often as words
PER_BILLION = 9.0
# words count as frequency ** 0.6: between every word once (spelling of rare ones) and running text
FLATTENING = 0.6


@dataclass(frozen=True, eq=False)
class WordResources:
    """Frequencies and spellings; every answer is kept, since transcripts repeat words."""

    frequencies: Mapping[str, float]  # share of each known word in running text, words in lower case
    source: str  # where they come from, such as "wordfreq en"
    # Zipf frequency of a word that is not in the mapping and not made of letters alone; None takes 0
    fallback: Callable[[str], float] | None = None
    _zipf: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _char_score: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def zipf(self, word: str) -> float:
        """Zipf frequency of a word, in upper or lower case; 0 where unknown."""
        known = self._zipf.get(word)
        if known is None:
            known = self._zipf[word] = self._look_up(word.lower())
        return known

    def is_seen(self, word: str) -> bool:
        """Whether a word is known at all."""
        return self.zipf(word) > 0.0

    def char_score(self, word: str) -> float:
        """Log-probability of a word's spelling, its end included.

        Returns float: nats; over `len(word) + 1` it is the score per character.
        """
        known = self._char_score.get(word)
        if known is None:
            known = self._char_score[word] = self.spelling.log_probability(word.lower())
        return known

    @cached_property
    def spelling(self) -> CharacterNgram:
        """The character n-gram of the most frequent words; made when first asked for."""
        words, shares = list(self.frequencies), np.fromiter(self.frequencies.values(), dtype=np.float64)
        ranked = (words[i] for i in np.argsort(-shares, kind="stable"))
        chosen = islice((word for word in ranked if word.replace("'", "").isalpha()), N_SPELLED_WORDS)
        return CharacterNgram.from_words({word: (self.frequencies[word] * 1e8) ** FLATTENING for word in chosen})

    def _look_up(self, word: str) -> float:
        share = self.frequencies.get(word)
        if share is not None:
            return max(0.0, math.log10(share) + PER_BILLION)
        # a word in several parts (hyphens, rare possessives) may still be made of known ones
        return self.fallback(word) if self.fallback is not None and not word.isalpha() else 0.0


@lru_cache(maxsize=8)
def word_resources(language: str = "en") -> WordResources:
    """Resources of a language from `wordfreq`; the same object on every call.

    ValueError when `wordfreq` is not installed or has no such language.
    """
    lists = _frequency_lists()
    if language not in lists:
        known = ", ".join(sorted(lists))
        raise ValueError(f"language must be one that wordfreq knows ({known}), got {language!r}")

    def zipf_of_parts(word: str) -> float:
        import wordfreq

        return float(wordfreq.zipf_frequency(word, language))

    return WordResources(_frequencies(lists[language]), f"wordfreq {language}", fallback=zipf_of_parts)


def _frequency_lists() -> dict[str, Path]:
    """Wordfreq's file of every language, the large one where there are two; wordfreq itself is not imported."""
    found = importlib.util.find_spec("wordfreq")
    if found is None:
        raise ValueError(
            "word frequencies need the package wordfreq, which is not installed: pip install 'eeasr[lexical]'"
        )
    data = Path(found.submodule_search_locations[0]) / "data"
    paths = [path for size in ("small", "large") for path in sorted(data.glob(f"{size}_*.msgpack.gz"))]
    return {path.name.split(".")[0].split("_")[1]: path for path in paths}


def _frequencies(path: Path) -> dict[str, float]:
    """As `wordfreq.get_frequency_dict`; importing its tokenizers takes longer than reading the file.

    ValueError if the file is of another format than that of wordfreq 2 and 3.
    """
    import msgpack

    header, *buckets = msgpack.unpackb(gzip.decompress(path.read_bytes()), raw=False)
    if header != {"format": "cB", "version": 1}:
        raise ValueError(f"'{path}' must be of format cB, version 1, got {header}: install wordfreq 3")
    shares: dict[str, float] = {}
    for centibels, bucket in enumerate(buckets):
        share = 10 ** (-centibels / 100)
        for word in bucket:  # faster than to join dictionaries
            shares[word] = share
    return shares


SPELLING = ("zipf", "n_chars", "char_score", "char_score_mean", "no_vowel", "split_zipf")
VOWELS = frozenset("aeiouy'")
MAX_KEPT_WORDS = 500_000


@dataclass(frozen=True, eq=False)
class WordSpelling:
    """What is known of each word by itself; kept, since transcripts repeat words."""

    resources: WordResources  # frequencies and spellings of the language
    known: dict[str, tuple[float, ...]]  # what was looked up so far

    def rows(self, words: Sequence[str]) -> np.ndarray:
        """The columns `SPELLING` of each word; shape (n_words, len(SPELLING))."""
        if len(self.known) > MAX_KEPT_WORDS:
            self.known.clear()
        return np.array([self.row(word) for word in words], dtype=np.float64).reshape(len(words), len(SPELLING))

    def row(self, word: str) -> tuple[float, ...]:
        """The columns `SPELLING` of one word."""
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
    """Spellings of a language; the same object on every call."""
    return WordSpelling(word_resources(language), {})


def common_language(tables: Sequence[Any]) -> str:
    """The language of tables that a word model is fitted on. ValueError when they are in several."""
    languages = sorted({str(table.metadata.get("language", "en")) for table in tables})
    if len(languages) > 1:
        raise ValueError(f"a word model is of one language, and the dev tables are in {', '.join(languages)}")
    return languages[0]
