"""Texts brought into one form: letters and marks of any script, Whisper's normaliser of English, numbers as words.

Standard library alone: preparation normalises references by it, and scoring transcripts. Whisper's normaliser is that
of the Open ASR Leaderboard. How `137` was read cannot be seen in it: up to 3 digits, or with commas, are a count; 4 are
a year or one by one; more, or a zero in front, one by one.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import re
import unicodedata
from pathlib import Path

APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼ`´ʹ＇"), "'")
_BREAKS = dict.fromkeys(map(ord, '-‐‑‒–—―−/_…,;:!?"'), " ")  # not the full stop: U.S. is one word
# Marks that stand within words, of those outside ASCII: middle dot, hyphenation point, geresh, gershayim, and the
# Armenian apostrophe, emphasis, exclamation and question marks. Every other punctuation there is between words.
_WITHIN_WORDS = "·‧׳״՚՛՜՞"
_MORE_BREAKS = "\u200b\u0387"  # zero-width space; Greek colon, which composing makes a middle dot


def composed(text: str) -> str:
    """The text with accents and other marks in their letters where Unicode has such letters (NFC).

    Example
    -------
    >>> len("e\u0301te\u0301"), len(composed("e\u0301te\u0301"))
    (5, 3)
    """
    return unicodedata.normalize("NFC", text)


def upper_case(text: str) -> str:
    """Unicode's upper case, composed; but Georgian in the letters in which it is written, which have no case.

    `str.upper` gives Georgian capitals (Mtavruli), for headlines, which no vocabulary and few fonts have.

    Example
    -------
    >>> upper_case("été თბილისი")
    'ÉTÉ თბილისი'
    """
    if any("\u10d0" <= one <= "\u10ff" or "\u1c90" <= one <= "\u1cbf" for one in text):
        return composed("".join(_upper_but_georgian(one) for one in composed(text)))
    return composed(composed(text).upper())


def _upper_but_georgian(character: str) -> str:
    if "\u1c90" <= character <= "\u1cbf":
        return character.lower()
    return character if "\u10d0" <= character <= "\u10ff" else character.upper()


def separated(text: str) -> str:
    """The text with spaces in place of dashes and of other marks that stand between words, in any script.

    Within ASCII full stops, brackets and the like stay; outside it all punctuation becomes a space but for marks that
    stand within words.

    Example
    -------
    >>> separated("ሰላም፡ለዓለም बस।अब בית־ספר x・y col·legi U.S.")
    'ሰላም ለዓለም बस अब בית ספר x y col·legi U.S.'
    """
    return "".join(" " if _is_break(one) else one for one in text.translate(_BREAKS))


def _is_break(character: str) -> bool:
    if character.isascii() or character in _WITHIN_WORDS:
        return False
    return character in _MORE_BREAKS or unicodedata.category(character)[0] == "P"


def normalise_words(text: str) -> str:
    """Upper-case letters of any script with their marks, digits, apostrophes; what stands between words is one space.

    Example
    -------
    >>> normalise_words("Room 12, isn’t it? क्या हाल है")
    "ROOM 12 ISN'T IT क्या हाल है"
    """
    kept = []
    for character in upper_case(separated(text.translate(APOSTROPHES))):
        category = unicodedata.category(character)
        if category[0] in "LMN" or character == "'":
            kept.append(character)
        elif category != "Cf" and character not in _WITHIN_WORDS:  # joiners and soft hyphens are within words
            kept.append(" ")
    return " ".join("".join(kept).split())


_BELOW_100 = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
_SMALL = _BELOW_100.split()
_UNITS = {10**12: "trillion", 10**9: "billion", 10**6: "million", 1000: "thousand", 100: "hundred"}
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_ORDINALS["twelve"] = "twelfth"
_MONEY = {"$": ("dollar", "cent"), "£": ("pound", "p"), "€": ("euro", "cent")}
_SYMBOLS = {"%": " percent ", "&": " and ", "+": " plus ", "°": " degrees ", "@": " at "}
_COUNT = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+"
_NUMBER = rf"(?:{_COUNT})(?:\.[0-9]+)*"
_MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
_RULES = [  # what is written, and how its match is said; in this order
    (r"(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])(?!(?:st|nd|rd|th|s)\b)", lambda _: " "),
    (rf"([$£€])({_NUMBER})( (?:{'|'.join(_UNITS.values())})\b)?", lambda found: _money(*found.groups())),
    (r"([0-9]{1,2})((?::[0-9]{2})+)(?![0-9])( *[ap]\.?m\b)?", lambda found: _time(*found.groups())),
    (r"(?<![0-9])(?:[0-9]-)?(?:[0-9]{3}-)+[0-9]{4}(?![0-9])", lambda found: _one_by_one(found[0].replace("-", ""))),
    (rf"\b({_MONTH}) ([0-9]{{1,2}})(?![0-9:.]|st|nd|rd|th)", lambda found: f"{found[1]} {ordinal(int(found[2]))}"),
    (rf"({_COUNT})(?:st|nd|rd|th)\b", lambda found: ordinal(int(found[1].replace(",", "")))),
    (r"([0-9]+)'?s\b", lambda found: re.sub("ys$", "ies", f"{_number(found[1])}s")),
    (_NUMBER, lambda found: _number(found[0])),
    ("[%&+°@]", lambda found: _SYMBOLS[found[0]]),
]


def say_numbers(text: str) -> str:
    """The text with numbers, sums of money, times and symbols in words.

    Example
    -------
    >>> say_numbers("On May 2, 1965 he paid $3.50 at 7:05.")
    'On May second, nineteen sixty five he paid three dollars fifty cents at seven oh five.'
    """
    for written, said in _RULES:
        text = re.sub(written, said, text, flags=re.IGNORECASE)
    return " ".join(text.split())


def cardinal(number: int) -> str:
    """A number from 0 as a count: `cardinal(1305)` is "one thousand three hundred and five"."""
    for unit, name in _UNITS.items():
        if number >= unit:
            head, rest = divmod(number, unit)
            joint = " and " if rest < 100 else " "
            return f"{cardinal(head)} {name}" + (joint + cardinal(rest) if rest else "")
    if number < 20:
        return _SMALL[number]
    return _SMALL[18 + number // 10] + (f" {_SMALL[number % 10]}" if number % 10 else "")


def ordinal(number: int) -> str:
    """Its place in a row: `ordinal(21)` is "twenty first"."""
    *before, last = cardinal(number).split()
    return " ".join([*before, _ORDINALS.get(last) or re.sub("y$", "ie", last) + "th"])


def year(number: int) -> str:
    """Four digits as a year: `year(1905)` is "nineteen oh five"."""
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    return f"{cardinal(century)} {_pair(f'{rest:02}') if rest else 'hundred'}"


def _pair(text: str) -> str:
    """Minutes, or the end of a year."""
    return f"oh {cardinal(int(text))}" if text[0] == "0" else cardinal(int(text))


def _one_by_one(text: str) -> str:
    return " ".join(_SMALL[int(digit)] for digit in text)


def _number(text: str) -> str:
    whole, *decimals = text.split(".")
    plain = whole.replace(",", "")
    if plain == whole and not decimals and len(plain) == 4 and 1100 <= int(plain) < 2100:
        return year(int(plain))
    in_a_row = (len(plain) == 4 and plain[2:] != "00") or (len(plain) > 4 and plain[-3:] != "000")
    zero_first = len(plain) > 1 and plain[0] == "0"
    apart = len(plain) > 15 or zero_first or (in_a_row and plain == whole and not decimals)
    said = _one_by_one(plain) if apart else cardinal(int(plain))
    return " point ".join([said, *map(_one_by_one, decimals)])


def _money(sign: str, amount: str, unit: str | None) -> str:
    whole, _, decimals = amount.partition(".")
    large, small = _MONEY[sign]
    if unit or (decimals and len(decimals) != 2):
        return f"{_number(amount)}{unit or ''} {large}s"
    plain = whole.replace(",", "")[:15]
    said = f"{cardinal(int(plain))} {large}{'s' * (plain != '1')}"
    if not decimals.strip("0"):
        return said
    return f"{said} {cardinal(int(decimals))} {small}{'s' * (decimals != '01' and small != 'p')}"


def _time(hour: str, minutes: str, half: str | None) -> str:
    if minutes == ":00":
        return cardinal(int(hour)) + (half or " o'clock")
    return " ".join([cardinal(int(hour)), *map(_pair, minutes[1:].split(":"))]) + (half or "")


logger = logging.getLogger(__name__)

VARIABLE = "EEASR_WHISPER_SPELLING"


def spelling_file() -> Path | None:
    """Whisper's map of British to American spelling; None where there is none.

    It is `normalizer.json` in a Whisper checkpoint and `english.json` in the package openai-whisper. The variable
    `EEASR_WHISPER_SPELLING` may name one; else those of installed packages and downloaded checkpoints are looked for.

    FileNotFoundError when the variable names no file.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise FileNotFoundError(f"{VARIABLE} must name Whisper's normalizer.json or english.json, got '{named}'")
        return Path(named)
    found = []
    for package, inside in (("whisper", "normalizers/english.json"), ("whisper_normalizer", "english.json")):
        if (spec := importlib.util.find_spec(package)) is not None and spec.origin:
            found.append(Path(spec.origin).parent / inside)
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    found += sorted(Path(hub).expanduser().glob("models--*whisper*/snapshots/*/normalizer.json"))
    return next((path for path in found if path.is_file()), None)


@functools.cache
def _normaliser(path: Path | None):
    try:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    except ImportError as err:
        raise ValueError(f"the normaliser whisper is that of transformers, which cannot be imported ({err})") from err
    if path is None:
        logger.warning(
            "Whisper's spelling map is not here, so that British spelling counts as an error: let %s name the "
            "normalizer.json of a Whisper checkpoint",
            VARIABLE,
        )
    return EnglishTextNormalizer({} if path is None else json.loads(path.read_text(encoding="utf-8")))


def normalise_whisper(text: str) -> str:
    """Lower case without punctuation and brackets; numbers in digits, contractions written out.

    Example
    -------
    >>> normalise_whisper("Mr. Brown won't pay twenty-one dollars!")
    'mister brown will not pay $21'
    """
    return " ".join(_normaliser(spelling_file())(text).split())
