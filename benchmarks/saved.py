"""How results are kept: JSON with few lines, pictures with few colours."""

import json
from pathlib import Path
from typing import Any


def json_lines(content: dict[str, Any], *, depth: int = 2) -> str:
    """JSON with a line for each entry down to `depth` keys: short, and a change is seen line by line.

    Example
    -------
    >>> print(json_lines({"sets": {"a": {"wer": [1, 2]}, "b": None}, "seed": 3}), end="")
    {
    "sets": {
    "a": {"wer":[1,2]},
    "b": null
    },
    "seed": 3
    }
    """

    def lines(value: Any, depth: int) -> str:
        if not (isinstance(value, dict | list) and value and depth):
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        if isinstance(value, list):
            return "[\n" + ",\n".join(lines(one, depth - 1) for one in value) + "\n]"
        entries = [f"{json.dumps(key)}: {lines(one, depth - 1)}" for key, one in value.items()]
        return "{\n" + ",\n".join(entries) + "\n}"

    return lines(content, depth) + "\n"


def few_colours(path: Path, *, n_colours: int = 64) -> None:
    """A PNG written again with a palette: a third of its size, and no line looks different."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(n_colours)
    small.save(path, optimize=True)
