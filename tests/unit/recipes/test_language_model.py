"""Text for a language model: what is kept out of it."""

import importlib.util

import pytest


@pytest.fixture(scope="module")
def make(root):
    spec = importlib.util.spec_from_file_location("language_model", root / "recipes/LanguageModel/make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SENTENCES = [
    "He went up unto the mountain.",
    "And he went up unto the hill!",
    "They came down again.",
    "They came down again",
]


def test_left_out_sentences_and_repeats_are_dropped(make):
    kept = list(make.clean(SENTENCES, left_out={"HE WENT UP UNTO THE MOUNTAIN"}))
    assert [" ".join(words) for words in kept] == ["AND HE WENT UP UNTO THE HILL", "THEY CAME DOWN AGAIN"]


def test_a_shared_run_of_words_drops_a_sentence_as_well(make):
    left_out = {"HE WENT UP UNTO THE MOUNTAIN"}
    kept = [" ".join(words) for words in make.clean(SENTENCES, left_out=left_out, run=5)]
    assert kept == ["THEY CAME DOWN AGAIN"]
    kept = [" ".join(words) for words in make.clean(SENTENCES, left_out=left_out, run=6)]
    assert kept == ["AND HE WENT UP UNTO THE HILL", "THEY CAME DOWN AGAIN"]
