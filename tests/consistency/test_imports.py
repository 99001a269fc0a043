"""Who imports whom: the rooms of the package, read from the source and checked in fresh interpreters."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "eeasr_modules"

# What those who transcribe use of `data`: how training reads audio and spells text.
_READ = ("audio", "audio_files", "listings", "own_data", "text")
READING = tuple(f"data.{name}" for name in _READ)
# What every room may import; it imports nothing of ours. (`old_names` where a package has the name of a module.)
TEXT = ("common",)
# What a room may import of ours. `compat` comes before torchaudio, wherever that is needed.
OURS = {
    "exits": ("old_names", *TEXT),
    "models": ("compat", *TEXT),
    "data": ("compat", *TEXT),
    "training": ("compat", "old_names", "models", "data", "exits", "runtime", *TEXT),
    "runtime": ("compat", "models", "exits", *READING, *TEXT),
    "report": ("exits", *TEXT),
    "demo": ("compat", "runtime", "exits", *READING),
    "compat.py": (),
    "common": (),
    "shipped": ("runtime",),  # what a model folder tells transformers
    "old_names.py": (),
    "__init__.py": ("compat", "old_names"),
}
# What nothing of the room may import, not even inside a function.
NEVER = {
    "exits": {"torch", "torchaudio", "speechbrain", "transformers", "matplotlib"},
    "report": {"torch", "torchaudio", "speechbrain", "transformers", "pyarrow"},
    "models": {"matplotlib", "pyarrow"},
}
# Modules that alone may import a package in their room, and where: "top" or "function" (only inside one).
ONLY_IN = {
    ("exits", "pyarrow"): ({"files.py"}, "function"),
    ("exits", "wordfreq"): (None, "function"),
    ("models", "speechbrain"): (
        {
            "attention.py",
            "ctc.py",
            "conformer.py",
            "front_end.py",
            "heads.py",
        },
        "function",
    ),
    ("report", "matplotlib"): (None, "function"),
}
# Imported when a room without torch is imported: nothing heavier than these.
LIGHT = ("torch", "torchaudio", "speechbrain", "transformers", "pyarrow", "sklearn", "matplotlib", "wordfreq")


def imports(path):
    """Every import of a file as (dotted name, line, name of the function around it or None)."""
    found = []

    def visit(node, function):
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
            if isinstance(child, ast.Import):
                found.extend((alias.name, child.lineno, function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = path.relative_to(ROOT).parts[: -child.level]
                    base = ".".join(filter(None, (*above, base)))
                found.extend((f"{base}.{alias.name}", child.lineno, function) for alias in child.names)
            visit(child, inside)

    visit(ast.parse(path.read_text("utf-8")), None)
    return found


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0]


def files(*rooms):
    """Python files of the package in these rooms, of all when none is named."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if not rooms or room_of(path) in rooms]


def within(name, allowed):
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def test_the_reader_of_imports_sees_what_is_inside_functions_and_relative(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "eeasr_modules" / "exits" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text("import numpy as np\ndef fit():\n    from sklearn.tree import T\nfrom ..models import walk\n")
    assert imports(path) == [
        ("numpy", 1, None),
        ("sklearn.tree.T", 3, "fit"),
        ("eeasr_modules.models.walk", 4, None),
    ]


@pytest.mark.parametrize("room", sorted(OURS))
def test_a_room_imports_only_the_rooms_it_may(room):
    here = files(room)
    if not here:
        pytest.skip(f"eeasr_modules/{room} is not there yet")
    wrong = []
    for path in here:
        for name, line, _ in imports(path):
            if not name.startswith("eeasr_modules.") or name == "eeasr_modules.__version__":
                continue
            inner = name.removeprefix("eeasr_modules.")
            if inner.split(".")[0] != room and not within(inner, OURS[room]):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_file_of_the_package_stands_outside_the_known_rooms():
    known = {*OURS, "cli.py", "commands"}  # these two may use every room, inside a command
    strangers = [str(path.relative_to(ROOT)) for path in files() if room_of(path) not in known]
    assert not strangers, f"say in OURS what these may import: {strangers}"


@pytest.mark.parametrize("room", sorted(NEVER))
def test_a_room_never_imports_what_it_must_do_without(room):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(room)
        for name, line, _ in imports(path)
        if name.split(".")[0] in NEVER[room]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("room", "package"), sorted(ONLY_IN))
def test_heavy_packages_are_imported_only_where_they_are_used(room, package):
    modules, _ = ONLY_IN[room, package]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}{'' if function else ' at its top'}"
        for path in files(room)
        for name, line, function in imports(path)
        if name.split(".")[0] == package and (function is None or (modules is not None and path.name not in modules))
    ]
    assert not wrong, "\n".join(wrong)


def test_exits_import_scikit_learn_only_inside_a_fit():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name} in {function or 'its top'}"
        for path in files("exits")
        for name, line, function in imports(path)
        if name.split(".")[0] == "sklearn" and "fit" not in (function or "")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_command_line_imports_inside_each_command():
    paths = [PACKAGE / "cli.py", *files("commands")]
    assert len(paths) > 3
    top = {name for path in paths for name, _, function in imports(path) if function is None}
    allowed = set(sys.stdlib_module_names) | {"__future__"}
    heavy = {n for n in top if n.split(".")[0] not in allowed and not n.startswith("eeasr_modules.commands.options.")}
    assert not heavy, heavy


def circles(imported):
    """Modules that import each other, by way of others or not: lists of names; what a module imports by name."""
    found, reach = [], {}
    for start in imported:
        seen, waiting = set(), [*imported[start]]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += imported.get(name, ())
        reach[start] = seen
    for name in imported:
        if name in reach[name] and not any(name in one for one in found):
            found.append(sorted(other for other in reach[name] if name in reach.get(other, ())))
    return found


def test_no_modules_import_each_other_for_types_or_late():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files()}
    modules = {name: path for name, path in modules.items() if not name.endswith("__init__")}
    imported = {}
    for name, path in modules.items():
        names = [one for one, _, _ in imports(path)]
        imported[name] = {one if one in modules else one.rpartition(".")[0] for one in names} & set(modules)
    assert len(imported) > 100 and sum(map(len, imported.values())) > 300
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles(imported) == []


def mends_torchaudio(path):
    """Whether importing this file calls `ensure_torchaudio`: itself, its room, or what its top imports."""
    waiting, seen = [path], set()
    while waiting:
        path = waiting.pop()
        if path in seen or path.name == "compat.py" or not path.exists():
            continue
        seen.add(path)
        if re.search(r"^(compat\.)?ensure_torchaudio\(\)", path.read_text("utf-8"), re.M):
            return True
        ours = [name for name, _, function in imports(path) if function is None and name.startswith("eeasr_modules.")]
        parts = [name.split(".") for name in ours]
        inner = path.relative_to(ROOT).parents if path.is_relative_to(ROOT) else ()
        waiting += [ROOT / parent / "__init__.py" for parent in inner if parent.parts[:1] == (PACKAGE.name,)]
        waiting += [ROOT.joinpath(*part[:n]).with_suffix(".py") for part in parts for n in (2, 3, 4)]
        waiting += [ROOT.joinpath(*part[:2], "__init__.py") for part in parts]
    return False


def test_what_needs_speechbrain_or_transformers_mends_torchaudio_first():
    outside = {"speechbrain", "transformers", "torchaudio"}
    wrong = [
        str(path.relative_to(ROOT))
        for path in files("models", "data", "training", "runtime")
        if outside & {name.split(".")[0] for name, _, _ in imports(path)}
        and not mends_torchaudio(path)
        and "ensure_torchaudio()" not in path.read_text("utf-8")  # called where they are imported: as good
    ]
    assert not wrong, f"call compat.ensure_torchaudio() first in {wrong}"


def test_recipes_import_only_how_to_read_a_corpus():
    allowed = ("data.manifest", "data.text", "data.audio_files", "data.own_data", *TEXT)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / "recipes").rglob("*.py"))
        if path.parent.name != "Pretrain" and path.name != "label.py"  # programs, not corpora
        for name, line, _ in imports(path)
        if name.startswith("eeasr_modules.") and not within(name.removeprefix("eeasr_modules."), allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_train_py_only_wires():
    path = ROOT / "train.py"
    if not path.exists():
        pytest.skip("train.py is not there yet")
    wrong = [
        f"train.py:{line} imports {name}"
        for name, line, _ in imports(path)
        if name.startswith("eeasr_modules.")
        and not within(name.removeprefix("eeasr_modules."), ("compat", "training", "report"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "module", ["eeasr_modules", "eeasr_modules.exits", "eeasr_modules.report", "eeasr_modules.cli"]
)
def test_in_a_fresh_interpreter_nothing_heavy_comes_along(module):
    path = ROOT.joinpath(*module.split("."))
    if not path.is_dir() and not path.with_suffix(".py").exists():
        pytest.skip(f"{module} is not there yet")
    code = f"import sys, {module}\nprint(*[name for name in {LIGHT!r} if name in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


NOT_NEEDED_TO_HEAR = ("transformers", "torchaudio", "speechbrain", "scipy", "sklearn", "pandas", "pyarrow", "jiwer")
NOT_NEEDED_TO_HEAR += ("torch._dynamo", "wordfreq", "matplotlib", "huggingface_hub")


def test_transcribing_with_the_shipped_model_imports_nothing_that_it_does_not_need(tmp_path):
    rng = np.random.default_rng(0)  # at another rate, so that it is resampled; the words are whatever they are
    soundfile.write(tmp_path / "noise.wav", 0.1 * rng.standard_normal(48000).astype(np.float32), 48000)
    argv = ["transcribe", str(PACKAGE / "shipped" / "base"), str(tmp_path / "noise.wav")]
    code = "import sys\nfrom eeasr_modules.cli import main\nsaid = main(sys.argv[1:])\n"
    code += f"print('LOADED', said, *[name for name in {NOT_NEEDED_TO_HEAR!r} if name in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "LOADED 0", done.stdout + done.stderr
