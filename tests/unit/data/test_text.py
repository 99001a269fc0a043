"""Normalisers, vocabularies and the CTC collapse."""

import json
import subprocess
import sys

import pytest

from eeasr_modules.common.normalise import normalise_words
from eeasr_modules.data.text import (
    BLANK,
    NORMALISERS,
    CharVocabulary,
    load_vocabulary,
    normalise_an4,
    normalise_english,
    normalise_letters,
    normalise_ml_superb,
    train_sentencepiece,
)


@pytest.mark.parametrize(
    ("published", "normalised"),
    [
        ("My very best concert bonnet.", "MY VERY BEST CONCERT BONNET"),
        ("Spanish-American — war", "SPANISH AMERICAN WAR"),
        ("old people’s  home\n", "OLD PEOPLE'S HOME"),
        ("the 'Sunny Garcia Surfing' game", "THE SUNNY GARCIA SURFING GAME"),
        ("The 'dogs' bark, the dogs' bone", "THE DOGS BARK THE DOGS' BONE"),
        ("'Tis nothin' but rock 'n roll ' '", "'TIS NOTHIN' BUT ROCK 'N ROLL"),
        ("Café Gdańsk, naïve", "CAFE GDANSK NAIVE"),
        ("U.S. army,navy", "US ARMY NAVY"),
        ("...!", ""),
        ("Room 12", None),
        ("50% & more", None),
        ("Привет", None),
        ("½ a pint", None),
    ],
)
def test_english_is_spelled_with_letters_apostrophe_and_space(published, normalised):
    assert normalise_english(published) == normalised


def test_a_normalised_sentence_stays_as_it_is():
    once = normalise_english("'Tis the “dogs’” café — nothin' else.")
    assert normalise_english(once) == once


def test_characters_without_spelling_are_removed_or_named_on_request():
    assert normalise_english("B 52 bomber", unreadable="remove") == "B BOMBER"
    with pytest.raises(ValueError, match="'5'"):
        normalise_english("B 52 bomber", unreadable="raise")
    with pytest.raises(ValueError, match="drop, remove or raise"):
        normalise_english("B", unreadable="ignore")


@pytest.mark.parametrize(
    "line", ["<s> YES </s> (an251-fash-b)", "YES (an251-fash-b)", "<S> yes </S>", "<s>YES</s>(an251-fash-b) "]
)
def test_an4_lines_lose_sentence_marks_and_id(line):
    assert normalise_an4(line) == "YES"


def test_characters_survive_encoding_decoding_and_saving(tmp_path):
    vocabulary = CharVocabulary()
    assert (vocabulary.tokens[:3], len(vocabulary), vocabulary.blank_index) == ((BLANK, " ", "A"), 29, 0)
    text = "DON'T PANIC"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    vocabulary.save(tmp_path / "model")
    loaded = load_vocabulary(tmp_path / "model")
    assert loaded.tokens == vocabulary.tokens
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["vocab.json"]


def test_decoding_leaves_out_blanks_and_spare_spaces():
    vocabulary = CharVocabulary()
    assert vocabulary.decode([1, 0, 2, 1, 1, 3, 1]) == "A B"


def test_a_missing_character_is_named():
    with pytest.raises(ValueError, match=r"no character 'É'.*'CAFÉ'"):
        CharVocabulary().encode("CAFÉ")


def test_a_checkpoint_vocabulary_keeps_its_own_blank_and_space(tmp_path):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T", "'"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.blank_index == 1
    assert vocabulary.encode("E T") == [5, 4, 6]
    assert vocabulary.decode([0, 5, 4, 1, 6, 2]) == "E T"


def test_vocabularies_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a token <blank>"):
        CharVocabulary(["A", "B"])
    with pytest.raises(ValueError, match="unique"):
        CharVocabulary([BLANK, "A", "A"])
    with pytest.raises(FileNotFoundError, match="found neither"):
        load_vocabulary(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<blank>": 0, "A": 2}')
    with pytest.raises(ValueError, match="without gaps"):
        load_vocabulary(tmp_path)


def test_spellings_are_what_each_token_adds_to_a_transcript():
    assert CharVocabulary().spellings[:3] == ("", " ", "A")
    assert CharVocabulary(["<pad>", "<s>", "|", "A"]).spellings == ("", "", " ", "A")


SENTENCES = [f"{first} {second}" for first in ("ENTER", "RUBOUT", "ERASE") for second in ("SIX", "SEVEN", "TEN")]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_subwords_survive_encoding_decoding_and_saving(tmp_path, model_type):
    vocabulary = train_sentencepiece(SENTENCES, tmp_path, size=18, model_type=model_type)
    assert (len(vocabulary), vocabulary.tokens[vocabulary.blank_index]) == (18, BLANK)
    loaded = load_vocabulary(tmp_path)
    for sentence in SENTENCES:
        ids = loaded.encode(sentence)
        assert vocabulary.blank_index not in ids
        assert loaded.decode([0, *ids, 0]) == sentence
        assert "".join(loaded.spellings[index] for index in [0, *ids, 0]).strip() == sentence
    with pytest.raises(ValueError, match=r"cannot spell.*Q"):
        loaded.encode("SIX Q")


def test_too_many_subwords_for_the_texts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot make 5000 unigram tokens"):
        train_sentencepiece(SENTENCES, tmp_path, size=5000)
    assert not list(tmp_path.iterdir())


def test_reading_a_vocabulary_needs_neither_torch_nor_speechbrain():
    code = "import sys, eeasr_modules.data.text; print({'torch', 'speechbrain', 'numpy'} & set(sys.modules))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("published", "normalised"),
    [
        ("„Straße“, sagte Jürgen – nie!", "STRASSE SAGTE JÜRGEN NIE"),
        ("Où est l’été ?", "OÙ EST L'ÉTÉ"),
        ("e\u0301te\u0301", "ÉTÉ"),  # decomposed as some TSVs have it
        ("Мир, труд", "МИР ТРУД"),
        ("हिन्दी में", "हिन्दी में"),  # vowel signs are marks, not letters
        ("'zitiert' 'n", "ZITIERT N"),
        ("...!", ""),
        ("Zimmer 12", None),
        ("5 €", None),
        ("a & b", None),
    ],
)
def test_other_languages_keep_their_letters(published, normalised):
    assert normalise_letters(published) == normalised


def test_letters_without_spelling_are_removed_or_named_on_request():
    assert normalise_letters("Zimmer 12 €", unreadable="remove") == "ZIMMER"
    with pytest.raises(ValueError, match="no spelling for '1'"):
        normalise_letters("Zimmer 12", unreadable="raise")
    with pytest.raises(ValueError, match="must be drop, remove or raise"):
        normalise_letters("x", unreadable="keep")


@pytest.mark.parametrize(
    ("published", "normalised"),
    [
        ("ሰላም፡ለዓለም", "ሰላም ለዓለም"),  # Ethiopic wordspace
        ("בית־ספר", "בית ספר"),  # maqaf
        ("մեծ֊մայր", "ՄԵԾ ՄԱՅՐ"),  # Armenian hyphen
        ("one－two", "ONE TWO"),  # full-width hyphen
        ("one\u200btwo", "ONE TWO"),  # zero-width space
        ("نعم،لا", "نعم لا"),
        ("बस।अब॥फिर", "बस अब फिर"),
        ("col·legi", "COLLEGI"),
        ("ինչո՞ւ", "ԻՆՉՈՒ"),  # a question mark within the word
        ("თბილისი", "თბილისი"),
        ("\u1c97\u1c91\u1c98\u1c9a\u1c98\u1ca1\u1c98", "თბილისი"),  # in headline capitals
        ("e\u0301te\u0301", "ÉTÉ"),
    ],
)
def test_marks_between_words_of_any_script_are_spaces_and_letters_stay(published, normalised):
    assert normalise_letters(published) == normalised
    assert normalise_words(published) == normalised


def test_words_keep_combining_marks_and_joiners():
    hindi = "क्या हाल है मेरे दोस्त अब बताओ"
    assert normalise_words(hindi + "।") == hindi and len(hindi.split()) == 7
    assert normalise_words("می\u200cروم") == "میروم"
    assert normalise_words("one_two U.S. it\u2019s 3") == "ONE TWO U S IT'S 3"


@pytest.mark.parametrize("rule", ["letters", "ml_superb", "english"])
def test_every_rule_gives_the_same_of_composed_and_decomposed_text(rule):
    assert NORMALISERS[rule]("e\u0301te\u0301 co\u0302te\u0301") == NORMALISERS[rule]("été côté")


def test_georgian_has_no_upper_case_in_any_rule():
    assert normalise_ml_superb("თბილისი a") == "თბილისი A"
