"""Policies from text: `entropy(0.12)`, `patience(2, 0.1)`, `any(entropy(0.1), patience(1, 0))`.

The text is what YAML, command line, tables and reports hold; `str(policy)` gives it back. It is read as
Python syntax by `ast`, and only names of policies, numbers, parentheses and the words of patience are let through:
nothing is run. Where several policies may stand, `paper` stands for all of `PAPER`.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from eeasr_modules.exits.policies.combine import BETWEEN_FORM, Between, Combination
from eeasr_modules.exits.policies.protocol import KINDS, Fitted, Policy, finite_number
from eeasr_modules.exits.policies.rules import (
    COMPARED,
    EMITTED,
    PATIENCE_SIGNALS,
    THRESHOLD_SIGNALS,
    MostConfident,
    Patience,
    Random,
    Static,
    Threshold,
)

OWN_POLICIES = "EEASR_POLICIES"  # environment: Python files or modules that register policies, as PATH separates them


def _of_threshold(family: type, name: str) -> Callable[..., Policy]:
    return lambda threshold=None: family(name, threshold)


def _between(*given: Any) -> Between:
    if len(given) not in (1, 3):
        raise ValueError(f"between must be written {BETWEEN_FORM}, got {len(given)} arguments")
    return Between(*given) if len(given) == 3 else Between(None, None, given[0])


def _patience(name: str) -> Callable[..., Patience]:
    form = (
        f"{name}(k, threshold), or {name}(k) to have the threshold calibrated, and at the end perhaps pairs (compared "
        "with the whole run) and first (whose first member is emitted)"
    )

    def made(*given: Any) -> Patience:
        words = [one for one in given if isinstance(one, str)]
        numbers = given[: len(given) - len(words)]
        said = {("compared" if word in COMPARED else "emits"): word for word in words}
        if not 1 <= len(given) - len(words) <= 2:
            raise ValueError(f"{name} must be written {form}, got {len(given) - len(words)} arguments")
        if len(said) < len(words) or any(isinstance(one, str) for one in numbers):
            raise ValueError(f"{name} must be written {form}")
        return Patience(name, *numbers, **said)

    return made


def _entropy_per_token(threshold: float, number_of_tokens: int) -> Threshold:
    """The same threshold where entropy is a mean over frames and tokens, in the unit of `entropy`."""
    if isinstance(number_of_tokens, bool) or not isinstance(number_of_tokens, int) or number_of_tokens < 1:
        raise ValueError(f"entropy_per_token needs a whole number of tokens from 1, got {number_of_tokens!r}")
    value = finite_number("entropy_per_token", "threshold", threshold)
    return Threshold("entropy", float(f"{value * number_of_tokens:.12g}"))


# name in a policy's text -> what makes it from its arguments (numbers and policies, in order); everything else that is
# to know of a policy (needs, step, thresholds to try) its class brings
POLICIES: dict[str, Callable[..., Policy]] = {
    "static": Static,
    "random": Random,
    **{name: _of_threshold(Threshold, name) for name in THRESHOLD_SIGNALS},
    **{name: _patience(name) for name in PATIENCE_SIGNALS},
    "entropy_per_token": _entropy_per_token,
    "most_confident": MostConfident,
    **{name: _of_threshold(Fitted, name) for name in KINDS},
    "any": lambda *parts: Combination("any", parts),
    "all": lambda *parts: Combination("all", parts),
    "between": _between,
}


def register(policy: type[Policy]) -> None:
    """Give a policy its line in the table of names, so that texts may name it.

    ValueError when it is no such class, or the name is taken.
    """
    name = getattr(policy, "name", None)
    if not (isinstance(policy, type) and issubclass(policy, Policy) and isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"expected a class that derives from Policy and has a name such as plateau, got {policy!r}")
    known = getattr(POLICIES.get(name), "__qualname__", None)
    if name in (*SETS, *COMPARED, *EMITTED) or known not in (None, policy.__qualname__):  # a file may be run twice
        raise ValueError(f"the name {name} is taken: give {policy.__qualname__} another")
    POLICIES[name] = policy


def _load_own() -> None:
    """Import what `EEASR_POLICIES` names, once."""
    for one in filter(None, os.environ.get(OWN_POLICIES, "").split(os.pathsep)):
        path = Path(one).resolve()
        if one in sys.modules or str(path) in sys.modules:
            continue
        if not (path.is_file() if one.endswith(".py") else _is_module(one)):
            raise FileNotFoundError(f"{OWN_POLICIES} names {one}, which is neither a .py file nor an installed module")
        if not one.endswith(".py"):
            importlib.import_module(one)
            continue
        spec = importlib.util.spec_from_file_location(str(path), path)
        sys.modules[str(path)] = loaded = importlib.util.module_from_spec(spec)  # dataclasses look there for it
        spec.loader.exec_module(loaded)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package around it is missing
        return False


# All rules of Berrebbi et al. (2022) as their code has them (docs/paper.md): with the thresholds published there, whose
# entropies are means over frames and the 32 tokens, and calibrated. The last is not theirs: what self-speculative
# decoding accepts a transcript by.
PAPER = (
    "static",
    "random",
    "confidence(0.9)",
    "confidence(0.955)",
    "confidence",
    "entropy_per_token(0.005, 32)",
    "entropy_per_token(0.0045, 32)",
    "entropy",
    "margin(0.55)",
    "margin",
    "most_confident",
    "patience(2, 0.1, pairs, first)",
    "patience(2, pairs, first)",
    "patience_bce(4, 0.04, pairs, first)",
    "patience_bce(4, pairs, first)",
    "max_entropy(0.5)",
    "max_entropy(0.7)",
    "max_entropy",
)
SETS = {"paper": PAPER}  # a name in a list of policies -> the policies that it stands for


def parse_policy(text: str) -> Policy:
    """One policy from its text, such as `entropy(0.12)`; without its threshold (`entropy`, `patience(2)`) it is open.

    ValueError when the text is no policy; the sentence says which part and what would be right.

    Example
    -------
    >>> print(parse_policy("between(4, 10,  patience(2, .1))"))
    between(4, 10, patience(2, 0.1))
    >>> parse_policy("entropy").is_open
    True
    """
    policies = parse_policies(text)
    if len(policies) != 1:
        raise ValueError(f"expected one policy, got {len(policies)} in {text!r}")
    return policies[0]


def parse_policies(text: str | Iterable[str]) -> list[Policy]:
    """Several policies from a text with commas between them, or a list of texts; `paper` stands for all of `PAPER`.

    ValueError as `parse_policy`.

    Example
    -------
    >>> [str(policy) for policy in parse_policies("entropy(1), patience(2, 0)")]
    ['entropy(1)', 'patience(2, 0)']
    """
    if not isinstance(text, str):
        return [policy for part in text for policy in parse_policies(part)]
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as err:
        raise ValueError(f"expected a policy such as entropy(0.12), got {text!r}, which cannot be read") from err
    nodes = tree.elts if isinstance(tree, ast.Tuple) else [tree]
    return [policy for node in nodes for policy in _policies(node, text)]


def _policies(node: ast.expr, text: str) -> list[Policy]:
    """One policy, or those of a named set."""
    if isinstance(node, ast.Name) and node.id in SETS:
        return parse_policies(SETS[node.id])
    return [_policy(node, text)]


def _policy(node: ast.expr, text: str) -> Policy:
    value = _value(node, text)
    if not isinstance(value, Policy):
        raise ValueError(f"expected a policy such as entropy(0.12), got {value!r} in {text!r}")
    return value


def _value(node: ast.expr, text: str) -> Any:
    """A policy, a number, or a word of patience."""
    if isinstance(node, ast.Name) and node.id in (*COMPARED, *EMITTED):
        return node.id
    if isinstance(node, ast.Name):
        return _build(node.id, (), text)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.keywords:
            raise ValueError(f"arguments of a policy have no names: write entropy(0.12), got {text!r}")
        return _build(node.func.id, tuple(_value(arg, text) for arg in node.args), text)
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError) as err:
        raise ValueError(
            f"a policy holds only names of policies and numbers, got {ast.unparse(node)!r} in {text!r}"
        ) from err
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a policy holds only names of policies and numbers, got {value!r} in {text!r}")
    return value


def _build(name: str, arguments: tuple, text: str) -> Policy:
    if name not in POLICIES:
        _load_own()
    if name not in POLICIES:
        close = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; {OWN_POLICIES} may name a file that registers your own"
        raise ValueError(f"unknown policy {name!r} in {text!r}; known: {', '.join(POLICIES)}{hint}")
    try:
        inspect.signature(POLICIES[name]).bind(*arguments)
    except TypeError as err:
        raise ValueError(f"{name} must be written {_form(name)}, got {len(arguments)} arguments, in {text!r}") from err
    try:
        return POLICIES[name](*arguments)
    except ValueError as err:
        raise ValueError(f"{err}, in {text!r}") from err


def _form(name: str) -> str:
    """How a policy is written: with all its arguments, and without those that may be calibrated."""
    every = inspect.signature(POLICIES[name]).parameters.values()
    needed = [one.name for one in every if one.default is one.empty]
    forms = [f"{name}({', '.join(names)})" if names else name for names in ([one.name for one in every], needed)]
    return forms[0] if forms[0] == forms[1] else f"{forms[0]}, or {forms[1]} to have it calibrated"
