"""Every public name says what it gives; its "Arguments" are of its signature, without those that name and type say."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *sorted((ROOT / "eeasr_modules").rglob("*.py")),
    *sorted((ROOT / "recipes").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *ROOT.glob("train.py"),
]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def public(tree):
    """(dotted name, node, class around it or None) of each public function, class and method."""
    for node in tree.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node, None
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, FUNCTION) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner, node


def documented(docstring):
    """Names in a docstring's "Arguments" section; None without the section.

    Example
    -------
    >>> documented("X.\\n\\nArguments\\n---------\\na, b : int\\n    2.\\n*c : str\\n\\nRaises\\n------\\nE")
    ['a', 'b', 'c']
    """
    lines = docstring.splitlines()
    rule = next(
        (i for i, line in enumerate(lines) if line.strip() == "---------" and "Arguments" in lines[i - 1]),
        None,
    )
    if rule is None:
        return None
    names = []
    for line, following in zip(lines[rule + 1 :], [*lines[rule + 2 :], ""]):
        if re.fullmatch(r"-{3,}", following.strip()):
            break
        entry = re.match(r"((?:\*{0,2}\w+)(?:, \*{0,2}\w+)*)\s*(?::|$)", line)  # not indented: an entry
        if entry:
            names.extend(name.lstrip("*") for name in entry.group(1).split(", "))
    return names


def parameters(node):
    """Names in a function's signature, without self and cls."""
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    names += [arguments.vararg.arg] if arguments.vararg else []
    names += [a.arg for a in arguments.kwonlyargs]
    return names + ([arguments.kwarg.arg] if arguments.kwarg else [])


def class_parameters(node, classes):
    """What a class is made with: `__init__`'s parameters, or a dataclass's fields; None if a base decides."""
    for inner in node.body:
        if isinstance(inner, FUNCTION) and inner.name == "__init__":
            return parameters(inner)
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return None
    fields = []
    for base in map(ast.unparse, node.bases):
        if base not in classes:
            return None
        fields += class_parameters(classes[base], classes) or []
    for inner in node.body:
        if not isinstance(inner, ast.AnnAssign) or "ClassVar" in ast.unparse(inner.annotation):
            continue
        if inner.value is not None and "init=False" in ast.unparse(inner.value).replace(" ", ""):
            continue
        if inner.target.id not in fields:
            fields.append(inner.target.id)
    return fields


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_has_a_docstring(path):
    tree = ast.parse(path.read_text("utf-8"))
    missing = [f"{name} (line {node.lineno})" for name, node, _ in public(tree) if not ast.get_docstring(node)]
    if not ast.get_docstring(tree) and tree.body:
        missing.insert(0, "the module itself")
    assert not missing, f"{path.relative_to(ROOT)} lacks docstrings: {', '.join(missing)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arguments_sections_name_what_is_in_the_signature(path):
    tree = ast.parse(path.read_text("utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    wrong = []
    for name, node, _ in public(tree):
        said = documented(ast.get_docstring(node) or "")
        real = class_parameters(node, classes) if isinstance(node, ast.ClassDef) else parameters(node)
        if said is not None and real is not None and (set(said) - set(real) or len(set(said)) < len(said)):
            wrong.append(f"{name} (line {node.lineno}) documents {said}, takes {real}")
    assert not wrong, "\n".join(wrong)


def test_a_wrong_arguments_section_is_seen():
    tree = ast.parse(
        "@dataclass\nclass A:\n    a: int\n    c: ClassVar[int] = 1\n    b: int = field(default=0)\n"
        "    d: int = field(init=False)\n"
        "class B:\n    def __init__(self, x, *, y): pass\n    def m(self, p, /, q, *r, s, **t): pass\n"
    )
    first, second = tree.body
    assert class_parameters(first, {}) == ["a", "b"]
    assert class_parameters(second, {}) == ["x", "y"]
    assert parameters(second.body[1]) == ["p", "q", "r", "s", "t"]
