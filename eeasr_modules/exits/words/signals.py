"""Signals that need no acoustics: of transcripts and of each word in them, given the exits so far, and of names.

Replay (whole tables) and the live engine (one exit at a time) compute them by the same functions, so that both give a
policy the same numbers. The reference is never read. An empty transcript scores 0 in the signals of language.

*Signals of utterances* are numbers that a policy may read. *Features of words* are what a word model sees of each word:
of a batch at one exit, all words in one array. What later exits need of those passed is kept per utterance (`Passed`),
so that live decoding pays only for the new exit: a word is aligned with the exit before, and how long it has stood is
carried along the alignments.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from eeasr_modules.exits.measure.edits import align_words, count_word_edits
from eeasr_modules.exits.words.resources import SPELLING, WordResources, WordSpelling

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


NO_NEIGHBOUR_ZIPF = 9.0  # what stands for the frequency of a neighbour at either end
NO_NEIGHBOUR_EXITS = 99.0  # and for how long it has stood
WORD_SIGNALS = ("word_entropy", "word_margin")
FEATURES = (
    *SPELLING,
    "zipf_before",
    "zipf_after",
    "zipf_two_before",
    "zipf_two_after",
    "joined_before",
    "joined_after",
    "same",
    "same_two_exits_ago",
    "exits_unchanged",
    "changes_of_place",
    "most_zipf_in_place",
    "earlier_zipf",
    "earlier_char_score_mean",
    "earlier_distance",
    "changed_before",
    "changed_after",
    "exits_unchanged_before",
    "exits_unchanged_after",
    "dropped_before",
    "place",
    "n_words",
    "n_rare",
    "rare_share",
    "changed_share",
    "exit_index",
)


class Passed(NamedTuple):
    """What an utterance's last exit leaves to the next one."""

    words: list[str]  # the transcript
    spelling: np.ndarray  # (n_words, len(SPELLING)), of each word
    unchanged: np.ndarray  # (n_words,), exits in a row, before this one, that had the word in this place
    changes: np.ndarray  # (n_words,), how often the word in this place changed
    most_zipf: np.ndarray  # (n_words,), frequency of the most frequent word that stood in this place
    scalars: np.ndarray  # (n_scalars,), signals of the utterance
    word_signals: np.ndarray  # (n_words, n_word_signals), signals of the words


def feature_names(scalars: Sequence[str], word_signals: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns that `word_features` gives."""
    of_words = [f"{name}{place}" for name in word_signals for place in ("", "_before", "_after", "_earlier")]
    return (*FEATURES, *scalars, *(f"{name}_earlier" for name in scalars), *of_words)


def word_features(
    words: Sequence[list[str]],
    passed: Sequence[Passed | None],
    *,
    exit_index: int,
    scalars: Mapping[str, np.ndarray],
    word_signals: Mapping[str, np.ndarray],
    spelling: WordSpelling,
) -> tuple[np.ndarray, np.ndarray, list[Passed]]:
    """Features of every word of a batch at one exit.

    ValueError when a signal of words does not have a number for each word. `passed` (n_utterances long): of the exit
    before; None at the first exit. `scalars` (n_utterances,): signals of the utterances. `word_signals`
    (n_utterances,): each an array with a number for each word of the transcript.

    Returns
    -------
    features : np.ndarray of shape (n_words, n_features)
        Columns as `feature_names` says; utterances one after the other.
    utterance : np.ndarray of shape (n_words,)
        Which utterance a word belongs to.
    passed : list of Passed, n_utterances long
        For the next exit.
    """
    n_words = np.array([len(row) for row in words], dtype=np.int64)
    utterance = np.repeat(np.arange(len(words)), n_words)
    flat = [word for row in words for word in row]
    spelled = spelling.rows(flat)
    utterance_scalars = np.stack([np.asarray(v, dtype=np.float64) for v in scalars.values()] or [n_words], axis=1)
    of_words = _flat_word_signals(word_signals, n_words)
    earlier = _earlier(words, passed, n_scalars=utterance_scalars.shape[1], n_word_signals=of_words.shape[1])
    aligned = earlier.source >= 0
    source = np.where(aligned, earlier.source, 0)

    unchanged = np.where(earlier.same, earlier.unchanged[source] + 1, 0)
    changes = np.where(aligned, earlier.changes[source], 0) + ~earlier.same
    zipf, first, last = spelled[:, 0], *_ends(n_words)
    most_zipf = np.maximum(zipf, np.where(aligned, earlier.most_zipf[source], 0.0))
    zipf_before, zipf_after = _before(zipf, first, NO_NEIGHBOUR_ZIPF), _after(zipf, last, NO_NEIGHBOUR_ZIPF)
    rare = np.bincount(utterance, zipf < RARE_BELOW, minlength=len(words))
    changed = (~earlier.same).astype(np.float64)
    n_safe = np.maximum(1, n_words)
    columns = [
        *spelled.T,
        zipf_before,
        zipf_after,
        _before(zipf_before, first, NO_NEIGHBOUR_ZIPF),
        _after(zipf_after, last, NO_NEIGHBOUR_ZIPF),
        *_joined_zipf(flat, first, last, spelling.resources),
        earlier.same,
        earlier.same & (earlier.unchanged[source] > 0),
        unchanged,
        changes,
        most_zipf,
        np.where(aligned, earlier.spelling[source, 0], -1.0),
        np.where(aligned, earlier.spelling[source, 3], -9.0),
        _distances(flat, earlier),
        _before(changed, first, 0.0),
        _after(changed, last, 0.0),
        _before(unchanged, first, NO_NEIGHBOUR_EXITS),
        _after(unchanged, last, NO_NEIGHBOUR_EXITS),
        earlier.dropped_before,
        np.concatenate([np.arange(n) / n for n in n_words if n] or [np.empty(0)]),
        n_words[utterance],
        rare[utterance],
        (rare / n_safe)[utterance],
        (np.bincount(utterance, changed, minlength=len(words)) / n_safe)[utterance],
        np.full(len(flat), exit_index),
    ]
    if scalars:
        columns += [*utterance_scalars[utterance].T, *earlier.scalars[utterance].T]
    for values, values_earlier in zip(of_words.T, earlier.word_signals.T):
        columns += [values, _before(values, first, 0.0), _after(values, last, 0.0)]
        columns.append(np.where(aligned, values_earlier[source], -1.0))
    features = np.stack(columns, axis=1).astype(np.float64, copy=False)

    left = [
        Passed(row, spelled[a:b], unchanged[a:b], changes[a:b], most_zipf[a:b], utterance_scalars[i], of_words[a:b])
        for i, (row, a, b) in enumerate(zip(words, np.cumsum(n_words) - n_words, np.cumsum(n_words)))
    ]
    return features, utterance, left


class _Earlier(NamedTuple):
    """The exit before, of a whole batch; `source` points into the words and arrays that follow it."""

    source: np.ndarray
    words: list[str]
    spelling: np.ndarray
    unchanged: np.ndarray
    changes: np.ndarray
    most_zipf: np.ndarray
    word_signals: np.ndarray
    same: np.ndarray
    dropped_before: np.ndarray
    scalars: np.ndarray


def _nothing_passed(n_words: int, *, n_scalars: int, n_word_signals: int) -> Passed:
    empty = np.zeros(n_words)
    return Passed(
        words=[""] * n_words,
        spelling=np.zeros((n_words, len(SPELLING))),
        unchanged=empty,
        changes=empty,
        most_zipf=empty,
        scalars=np.full(n_scalars, -1.0),
        word_signals=np.zeros((n_words, n_word_signals)),
    )


def _earlier(
    words: Sequence[list[str]], passed: Sequence[Passed | None], *, n_scalars: int, n_word_signals: int
) -> _Earlier:
    widths = {"n_scalars": n_scalars, "n_word_signals": n_word_signals}
    nothing = _nothing_passed(0, **widths)
    before = [nothing if item is None else item for item in passed]
    alignments = [align_words(item.words, row) for item, row in zip(before, words)]
    offsets = np.cumsum([0] + [len(item.words) for item in before])
    source = [np.where(a.source >= 0, a.source + offset, -1) for a, offset in zip(alignments, offsets)]
    # one word more, so that where nothing is aligned something can be read (and is not used)
    padded = [*before, _nothing_passed(1, **widths)]
    joined = {
        name: np.concatenate([getattr(item, name) for item in padded])
        for name in ("spelling", "unchanged", "changes", "most_zipf", "word_signals")
    }
    return _Earlier(
        source=_joined(source, dtype=np.int64),
        words=[word for item in padded for word in item.words],
        **joined,
        same=_joined([a.same for a in alignments], dtype=bool),
        dropped_before=_joined([a.dropped_before for a in alignments]),
        scalars=np.array([item.scalars for item in before]).reshape(len(before), n_scalars),
    )


def _joined(parts: list[np.ndarray], dtype: type = np.float64) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def _flat_word_signals(word_signals: Mapping[str, np.ndarray], n_words: np.ndarray) -> np.ndarray:
    """Signals of words, of shape (n_words, n_word_signals)."""
    columns = []
    for name, lists in word_signals.items():
        lengths = np.array([len(values) for values in lists], dtype=np.int64)
        wrong = np.flatnonzero(lengths != n_words)
        if len(wrong):
            i = wrong[0]
            raise ValueError(
                f"{name} must have a number for each word of the transcript, but utterance {i} of the batch has "
                f"{lengths[i]} for {n_words[i]} words"
            )
        columns.append(np.concatenate([np.asarray(v, dtype=np.float64) for v in lists] or [np.zeros(0)]))
    return np.stack(columns, axis=1) if columns else np.zeros((int(n_words.sum()), 0))


def _ends(n_words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks (n_words,): the first and the last word of each utterance."""
    total = int(n_words.sum())
    first, last = np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
    ends = np.cumsum(n_words)[n_words > 0]
    first[(ends - n_words[n_words > 0])] = True
    last[ends - 1] = True
    return first, last


def _before(values: np.ndarray, first: np.ndarray, otherwise: float) -> np.ndarray:
    """The value of the word before."""
    moved = np.full(len(values), otherwise)  # float64 as `otherwise` is; a third of `np.roll`'s time
    moved[1:] = values[:-1]
    moved[first] = otherwise
    return moved


def _after(values: np.ndarray, last: np.ndarray, otherwise: float) -> np.ndarray:
    """The value of the word after."""
    moved = np.full(len(values), otherwise)
    moved[:-1] = values[1:]
    moved[last] = otherwise
    return moved


def _joined_zipf(
    flat: list[str], first: np.ndarray, last: np.ndarray, resources: WordResources
) -> tuple[np.ndarray, np.ndarray]:
    """Frequency of each word joined with the one before, and with the one after; 0 at either end."""
    joined = np.zeros(len(flat) + 1)
    if len(flat) > 1:
        joined[1:-1] = [resources.zipf(a + b) for a, b in pairwise(flat)]
    return np.where(first, 0.0, joined[:-1]), np.where(last, 0.0, joined[1:])


def _distances(flat: list[str], earlier: _Earlier) -> np.ndarray:
    """Character edits to the earlier word in this place, over the length; 2 where there was none."""
    distances = np.where(earlier.source >= 0, 0.0, 2.0)
    for t in np.flatnonzero(~earlier.same & (earlier.source >= 0)):
        distances[t] = Levenshtein.distance(earlier.words[earlier.source[t]], flat[t]) / len(flat[t])
    return distances
