"""Flat keys of a YAML file: what it includes beneath, what the command line gives on top."""

import re
from pathlib import Path


def flatten(loaded: dict) -> dict:
    """Keys of a YAML with those of its `defaults` (an included YAML) beneath; the nearer one wins.

    Example
    -------
    >>> flatten({"a": 1, "defaults": {"a": 0, "b": 2}})
    {'a': 1, 'b': 2}
    """
    defaults = loaded.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise ValueError(f"defaults must include another YAML (!include:file), got {defaults!r}")
    own = {name: value for name, value in loaded.items() if name != "defaults"}
    return {**flatten(defaults), **own} if defaults else own


def load_yaml(path: str | Path, overrides: str | dict = "") -> dict:
    """Flat keys of a YAML with overrides applied.

    Arguments
    ---------
    path : Path
        A HyperPyYAML file.
    overrides : str or dict
        As SpeechBrain's command line gives them.

    Raises
    ------
    FileNotFoundError, ValueError
        With one sentence.
    """
    from hyperpyyaml import load_hyperpyyaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such YAML: '{path}'; those of this project are in hparams/")
    replaced = parsed(overrides) if isinstance(overrides, str) else overrides
    try:
        with path.open(encoding="utf-8") as stream:
            loaded = load_hyperpyyaml(stream)
    except Exception as err:  # HyperPyYAML and ruamel raise a dozen unrelated kinds
        raise ValueError(f"'{path}' is not a valid YAML: {' '.join(str(err).split())}") from err
    if not isinstance(loaded, dict):
        raise ValueError(f"'{path}' must hold keys and values, got {type(loaded).__name__}")
    return {**flatten(loaded), **_plain(replaced)}


def parsed(overrides: str) -> dict:
    """Overrides as SpeechBrain's command line gives them; ValueError where they are no mapping."""
    import yaml

    try:
        parsed = yaml.safe_load(overrides) or {}
    except yaml.YAMLError as err:
        given = " ".join(overrides.split())
        raise ValueError(
            f"what follows the YAML must be --key value, each value a valid YAML value, got '{given}'"
        ) from err
    if not isinstance(parsed, dict):
        raise ValueError(f"what follows the YAML must be --key value, got '{overrides}' without a key")
    return parsed


def _plain(overrides: dict) -> dict:
    """Overrides as YAML 1.1 reads them, with `1e-3` a number as everywhere else."""
    number = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
    return {k: float(v) if isinstance(v, str) and number.fullmatch(v) else v for k, v in overrides.items()}
