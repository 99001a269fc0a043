"""Keys of a YAML: the type and bounds that a value must have."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """Type and bounds of one YAML key."""

    kind: type  # int, float, str, bool; an int is a fine float
    many: bool = False  # a list of `kind`
    optional: bool = False  # null allowed
    # low, high: bounds, inclusive
    low: float | None = None
    high: float | None = None
    above: float | None = None  # bound, exclusive
    choices: Collection = ()  # allowed values
    text: str | None = None  # regular expression of a text that is allowed too
    listed: type | None = None  # a list of numbers of this kind, from 0 up, is allowed too
    named: bool = False  # numbers by name are allowed too; what names, is checked where they are read
    default: object = ...  # what a YAML means that leaves the key out; `...` where it must not

    def check(self, name: str, value: object) -> None:
        """Raise ValueError with one sentence unless `value` fits."""
        if value is None and self.optional:
            return
        if self.text is not None and isinstance(value, str) and re.fullmatch(self.text, value):
            return
        if self.listed is not None and isinstance(value, list):
            Key(self.listed, many=True, low=0).check(name, value)
            return
        if self.named and isinstance(value, dict):
            return
        values = value if self.many else [value]
        if self.many and not isinstance(value, list):
            raise ValueError(f"{name} must be a list of {self.kind.__name__}, got {value!r}")
        for one in values:
            right = isinstance(one, self.kind) or (self.kind is float and isinstance(one, int))
            if not right or (isinstance(one, bool) and self.kind is not bool):
                wanted = f"a list of {self.kind.__name__}" if self.many else self.kind.__name__
                raise ValueError(f"{name} must be {wanted}{' or null' if self.optional else ''}, got {value!r}")
            if self.choices and one not in self.choices:
                raise ValueError(f"{name} must be one of {', '.join(map(str, self.choices))}, got {one!r}")
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{name} must be a finite number, got {one!r}")
            if (self.low is not None and one < self.low) or (self.high is not None and one > self.high):
                bounds = f"be at least {self.low}" if self.high is None else f"lie between {self.low} and {self.high}"
                raise ValueError(f"{name} must {bounds}, got {one!r}")
            if self.above is not None and one <= self.above:
                raise ValueError(f"{name} must be above {self.above}, got {one!r}")


def positive(kind: type = int, **more) -> Key:
    """A key whose value is above 0: from 1 up where it is a whole number."""
    return Key(int, low=1, **more) if kind is int else Key(kind, above=0, **more)
