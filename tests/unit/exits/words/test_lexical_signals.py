import numpy as np
import pytest

from eeasr_modules.exits.words.resources import WordResources
from eeasr_modules.exits.words.signals import LEXICAL_SIGNALS, lexical_signals

WORDS = WordResources({"a": 1e-2, "cat": 1e-5, "sat": 1e-6, "crwth": 1e-8}, "by hand")  # Zipf 7, 4, 3, 1


def test_each_signal_is_what_its_definition_says():
    texts = ["a cat sat", "a crwth zzz", "s cat", "", "I'm"]
    signals = lexical_signals(texts, words=WORDS)
    assert signals["rare_share"].tolist() == pytest.approx([0, 2 / 3, 1 / 2, 0, 1])
    assert signals["rarity"].tolist() == pytest.approx([0.5 / 9, (2.5 + 3.5) / 11, 3.5 / 5, 0, 3.5 / 3])
    assert signals["degenerate_share"].tolist() == pytest.approx([0, 2 / 3, 1 / 2, 0, 0])
    assert signals["unseen_share"].tolist() == pytest.approx([0, 1 / 3, 1 / 2, 0, 1])
    spelled = -(WORDS.char_score("a") + WORDS.char_score("cat") + WORDS.char_score("sat")) / 9
    assert signals["char_lm"][0] == pytest.approx(spelled) and signals["char_lm"][3] == 0.0


def test_a_text_scores_the_same_alone_and_in_any_batch():
    rng = np.random.default_rng(0)
    vocabulary = ["a", "cat", "sat", "crwth", "zzz", "b", "tas"]
    texts = [" ".join(vocabulary[int(i)] for i in rng.integers(7, size=int(rng.integers(0, 30)))) for _ in range(50)]
    whole = lexical_signals(texts, words=WORDS)
    for i in (0, 17, 49):
        alone = lexical_signals([texts[i]], words=WORDS)
        assert {name: values[0] for name, values in alone.items()} == {n: v[i] for n, v in whole.items()}


def test_only_what_is_asked_for_comes_and_unknown_names_are_refused():
    assert list(lexical_signals(["a"], words=WORDS, names=["rarity"])) == ["rarity"]
    assert lexical_signals([], words=WORDS)["rarity"].shape == (0,)
    with pytest.raises(ValueError, match=f"unknown lexical signal 'oov'; known: {', '.join(LEXICAL_SIGNALS)}"):
        lexical_signals(["a"], words=WORDS, names=["oov"])


def test_words_of_other_scripts_are_not_called_degenerate_for_want_of_vowels():
    signals = lexical_signals(["привет мир", "été"], words=WORDS, names=["degenerate_share"])
    assert signals["degenerate_share"].tolist() == [0, 0]
