"""Letters and marks of any script: composed, in upper case, and what stands between words.

Standard library alone: preparation spells references by it, and scoring spells transcripts.
"""

from __future__ import annotations

import unicodedata

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
