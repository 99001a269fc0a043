"""The command line of `train.py` and `pretrain.py`: SpeechBrain's, with paths taken as they are written.

SpeechBrain joins overrides and cuts them at every `=`, and YAML ends a value at ` #` and reads `a: b` as a mapping: the
folder `corpus #1` was `corpus`. Keys that hold paths are taken off before either sees them.
"""

import re
from collections.abc import Sequence

import yaml

PATH = re.compile(r"(\w+_folder|\w*_file|init_from|source|distill|teacher)")
PATHS = ("audio", "leave_out")  # lists of them


def parse(argv: Sequence[str]) -> tuple[str, object, dict]:
    """The YAML, SpeechBrain's options, and the overrides as YAML reads them, but for paths.

    Arguments
    ---------
    argv : sequence of str
        YAML first, then options and `--key value` or `--key=value`.

    Returns
    -------
    path : str
        The YAML.
    run_opts : RunOptions
        SpeechBrain's.
    overrides : dict
        For `load_yaml`.

    Raises
    ------
    ValueError
        If what follows the YAML is no `--key value`.
    """
    import speechbrain as sb

    from eeasr_modules.training.config.config import parsed

    rest, paths = take_paths(argv)
    path, run_opts, overrides = sb.parse_arguments(rest)
    return path, run_opts, {**parsed(overrides), **paths}


def take_paths(argv: Sequence[str]) -> tuple[list[str], dict]:
    """Arguments without those whose key holds a path, and these by their key; the last of several counts.

    `null` is None; a text in quotes loses them, as YAML had it. A list of paths is YAML where it begins with `[`.

    Example
    -------
    >>> take_paths(["x.yaml", "--data_folder", "/x/corpus #1", "--init_from=null", "--seed", "3"])
    (['x.yaml', '--seed', '3'], {'data_folder': '/x/corpus #1', 'init_from': None})
    """
    rest, paths, at = [], {}, 0
    while at < len(argv):
        key, equals, value = argv[at].removeprefix("--").partition("=")
        said = argv[at].startswith("--") and (PATH.fullmatch(key) or key in PATHS)
        if said and not equals:
            said = at + 1 < len(argv) and not argv[at + 1].startswith("--")
            value = argv[at + 1] if said else ""
        if not said:
            rest.append(argv[at])
        else:
            paths[key] = _paths(key, value) if key in PATHS else _as_text(value)
            at += not equals
        at += 1
    return rest, paths


def _as_text(value: str) -> str | None:
    if value in ("null", "~", ""):
        return None
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _paths(key: str, value: str) -> object:
    if not value.startswith("["):
        return [_as_text(value)]
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as err:
        raise ValueError(f"{key} must be a path, or a list as in YAML ([a, 'b #1']), got {value}") from err
