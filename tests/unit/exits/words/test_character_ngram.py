import math
from itertools import pairwise

import numpy as np
import pytest

from eeasr_modules.exits.words.resources import END, START, CharacterNgram


def test_probabilities_of_all_words_up_to_a_length_sum_to_less_than_one_and_grow_towards_it():
    ngram = CharacterNgram.from_words({"a": 2.0, "ab": 1.0, "b": 1.0}, order=3)
    words = ["a", "b", *[x + y for x in "ab" for y in "ab"]]
    words += [x + y + z for x in "ab" for y in "ab" for z in "ab"]
    total = sum(math.exp(ngram.log_probability(word)) for word in ["", *words])
    assert 0.9 < total < 1.0


def test_a_single_letter_word_has_the_probability_of_witten_and_bell():
    ngram = CharacterNgram.from_words({"a": 3.0, "b": 1.0}, order=1)
    # unigram over a, b, END: 8 tokens, 3 types, uniform 1/3
    p = {"a": (3 + 3 / 3) / 11, "b": (1 + 3 / 3) / 11, END: (4 + 3 / 3) / 11}
    assert ngram.log_probability("a") == pytest.approx(math.log(p["a"]) + math.log(p[END]))
    assert sum(p.values()) == pytest.approx(1.0)


def test_counts_are_weighted_and_padding_is_never_predicted():
    ngram = CharacterNgram.from_words({"ab": 2.0, "ac": 0.5}, order=2)
    expected = {"a": 2.5, "ab": 2.0, "ac": 0.5, START + "a": 2.5, END: 2.5, "c": 0.5}
    assert {gram: ngram.counts.get(gram) for gram in expected} == {gram: (n,) for gram, n in expected.items()}
    assert ngram.contexts.get("a") == (2.5, 2) and ngram.contexts.get("") == (7.5, 4)
    assert all(ngram.counts.get(gram) is None for gram in (START, "a" + START, END + START, "ca", "é"))
    assert ngram.n_letters == 4  # a, b, c and the end


def test_words_like_those_of_the_list_score_above_others_and_unknown_letters_are_finite():
    words = dict.fromkeys(["walking", "talking", "walked", "talked", "walks", "talks"], 1.0)
    ngram = CharacterNgram.from_words(words, order=5)
    assert ngram.log_probability("walk") > ngram.log_probability("klaw") > ngram.log_probability("é漢ß!")
    assert np.isfinite(ngram.log_probability("é漢ß!"))


def test_large_alphabets_are_counted_as_small_ones():
    letters = [chr(0x4E00 + i) for i in range(300)]
    words = {a + b: 1.0 for a, b in pairwise(letters)}
    small = CharacterNgram.from_words(words, order=2)
    large = CharacterNgram.from_words(words, order=8)  # 303 ** 8 does not fit into 64 bits
    grams = [*letters, *words, *(word[::-1] for word in words), END, letters[-1] + END]
    counted = [small.counts.get(gram) for gram in grams]
    assert [large.counts.get(gram) for gram in grams] == counted and counted.count(None) == len(words)
    assert [large.contexts.get(one) for one in letters] == [small.contexts.get(one) for one in letters]


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match="needs an order from 1 and words, got 5 and 0"):
        CharacterNgram.from_words({})
