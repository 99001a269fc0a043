"""Numbers as English says them: what a decoder writes in digits, in the words that a transcript has.

How `137` was read cannot be seen in it. Here: up to 3 digits, or with commas, as a count; 4 as a year or one by one;
more, or a zero in front, one by one.
"""

import re

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
