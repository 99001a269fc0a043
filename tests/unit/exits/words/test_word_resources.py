import importlib.util

import pytest

from eeasr_modules.exits.words.resources import WordResources, word_resources


def test_frequencies_are_logarithms_whatever_their_case():
    words = WordResources({"the": 0.6, "cat": 0.2, "dog": 0.2}, "counts")
    assert words.zipf("the") == words.zipf("THE") == pytest.approx(8.778, abs=1e-3)  # log10(3 / 5 * 1e9)
    assert words.zipf("bird") == 0.0
    assert words.is_seen("cat") and not words.is_seen("bird")


def test_english_frequencies_rank_words_and_know_parts_of_words():
    pytest.importorskip("wordfreq")
    words = word_resources("en")
    assert words.zipf("the") > 7 > words.zipf("window") > 4 > words.zipf("koncord") == 0.0
    assert words.zipf("window-garden") > 0  # hyphens: from its parts
    assert words.char_score("window") > words.char_score("wniodw")
    assert word_resources("en") is words


def test_frequencies_are_wordfreqs_own():
    wordfreq = pytest.importorskip("wordfreq")
    for language in ("en", "cs"):  # a large list, and a small one
        ours = word_resources.__wrapped__(language).frequencies
        assert ours == wordfreq.get_frequency_dict(language) and len(ours) > 10_000


def test_unknown_languages_and_a_missing_package_are_refused(monkeypatch):
    pytest.importorskip("wordfreq")
    with pytest.raises(ValueError, match=r"language must be one that wordfreq knows .*, got 'tlh'"):
        word_resources("tlh")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wordfreq, which is not installed: pip install 'eeasr\[lexical\]'"):
        word_resources.__wrapped__("en")
