"""Numbers in words: examples, and properties held against Whisper's normaliser, which goes the other way."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eeasr_modules.common.normalise import cardinal, normalise_whisper, ordinal, say_numbers, year
from eeasr_modules.data.text import plain_words

PLACES = """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
    sixteenth seventeenth eighteenth nineteenth twentieth
"""


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 10**9 - 1))  # "one" it leaves as a word
def test_whispers_normaliser_reads_a_count_back(number):
    assert normalise_whisper(cardinal(number)) == str(number)


def test_a_place_is_a_count_whose_last_word_is_another():
    assert [ordinal(number) for number in range(1, 21)] == PLACES.split()
    assert [ordinal(number) for number in (90, 100, 2022)] == [
        "ninetieth",
        "one hundredth",
        "two thousand and twenty second",
    ]


def test_whispers_normaliser_reads_every_year_back():
    for number in range(1100, 2100):
        if number % 100 > 9:  # "nineteen oh five" it does not join
            assert normalise_whisper(year(number)) == str(number)
    assert [year(n) for n in (1900, 1905, 2000, 2005)] == [
        "nineteen hundred",
        "nineteen oh five",
        "two thousand",
        "two thousand and five",
    ]


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="0123456789,.:-$£%&+° apmstndrhM'", max_size=30))
def test_no_text_has_a_digit_left_and_words_stay_as_they_are(text):
    said = say_numbers(text)
    assert not re.search(r"[0-9%&+°]", said) and say_numbers(said) == said
    assert re.fullmatch("[A-Z' ]*", plain_words(text))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Enter 9169.", "ENTER NINE ONE SIX NINE"),
        ("Rubout gmef39", "RUBOUT GMEF THIRTY NINE"),
        ("11:27, 57", "ELEVEN TWENTY SEVEN FIFTY SEVEN"),
        ("January 7, 1967.", "JANUARY SEVENTH NINETEEN SIXTY SEVEN"),
        ("655-8740", "SIX FIVE FIVE EIGHT SEVEN FOUR ZERO"),
        ("1-800-555-1234", "ONE EIGHT ZERO ZERO FIVE FIVE FIVE ONE TWO THREE FOUR"),
        ("in 1914-1918", "IN NINETEEN FOURTEEN NINETEEN EIGHTEEN"),
        ("15213 and 15,213", "ONE FIVE TWO ONE THREE AND FIFTEEN THOUSAND TWO HUNDRED AND THIRTEEN"),
        ("at 7:05 a.m. or 8:00", "AT SEVEN OH FIVE AM OR EIGHT O'CLOCK"),
        ("$1.5 million, £2.10, $1", "ONE POINT FIVE MILLION DOLLARS TWO POUNDS TEN P ONE DOLLAR"),
        ("the 21st of the 1920s", "THE TWENTY FIRST OF THE NINETEEN TWENTIES"),
        ("007, 0.25%", "ZERO ZERO SEVEN ZERO POINT TWO FIVE PERCENT"),
        ("AT&T: 20°C", "AT AND T TWENTY DEGREES C"),
        ("9" * 500, " ".join(["NINE"] * 500)),
    ],
)
def test_numbers_are_said_as_people_say_them(written, said):
    assert plain_words(written) == said
