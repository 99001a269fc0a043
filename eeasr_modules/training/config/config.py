"""What a YAML may say, what it includes, and the checks that come before anything is built.

A YAML holds flat keys; `defaults: !include:other.yaml` brings in another file's keys, which the keys beside it and the
command line replace. HyperPyYAML would let unknown nested keys and wrong types pass; here every key has a type.

SpeechBrain's command line joins overrides and cuts them at every `=`, and YAML ends a value at ` #` and reads `a: b` as
a mapping: the folder `corpus #1` was `corpus`. Keys that hold paths are taken off before either sees them.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from eeasr_modules.models.encoders import ENCODERS
from eeasr_modules.training.config.checks import (
    OTHER_KEY,
    all_exit_layers,
    alphas_of,
    check_cheaper_start,
    check_decoder,
    check_decoder_start,
    check_encoder,
    check_regime,
    check_upsample,
    decoder_settings,
    kept_depth,
    other_sets,
    regime_of,
)
from eeasr_modules.training.config.keys import COMMON_KEYS, EVERY, PURPOSES, Config, all_keys, keys_of


def flatten(loaded: dict) -> dict:
    """Keys of a YAML with those of its `defaults` (an included YAML) beneath; the nearer one wins.

    Where the nearer one names another kind of encoder, keys that only the other kind has do not count.

    Example
    -------
    >>> flatten({"a": 1, "defaults": {"a": 0, "b": 2}})
    {'a': 1, 'b': 2}
    """
    defaults = loaded.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise ValueError(f"defaults must include another YAML (!include:file), got {defaults!r}")
    own = {name: value for name, value in loaded.items() if name != "defaults"}
    if not defaults:
        return own
    beneath = flatten(defaults)
    theirs, ours = (ENCODERS.get(values.get("encoder", beneath.get("encoder"))) for values in (beneath, own))
    if theirs is not None and ours is not None:
        beneath = {name: beneath[name] for name in beneath if name not in theirs.keys or name in ours.keys}
    return {**beneath, **own}


def load_yaml(path: str | Path, overrides: str | dict = "") -> dict:
    """Flat keys of a YAML with overrides applied. FileNotFoundError or ValueError with one sentence."""
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


def corpus_folders(recipes: Path) -> dict[str, Path]:
    """Corpora by lower-case name: the folders of `recipes` that have a `prepare.py`."""
    return {path.parent.name.lower(): path.parent for path in sorted(recipes.glob("*/prepare.py"))}


def check(values: dict, *, recipes: Path) -> Config:
    """A `Config`, or ValueError with one sentence on the first thing that is wrong."""
    corpora = corpus_folders(recipes)
    own = {name: value for name, value in values.items() if not OTHER_KEY.fullmatch(name)}
    unknown = sorted(set(own) - set(all_keys()))
    if unknown:
        known = keys_of(own["encoder"]) if own.get("encoder") in (*ENCODERS,) else all_keys()
        raise ValueError(f"unknown key {', '.join(unknown)}{_nearest(unknown[0], known)}")
    if "encoder" not in own:
        raise ValueError("the YAML lacks the keys encoder")
    COMMON_KEYS["encoder"].check("encoder", own["encoder"])
    keys = keys_of(own["encoder"])
    for name in sorted(set(own) - set(keys)):
        kind = next(kind for kind, theirs in ENCODERS.items() if name in theirs.keys)
        raise ValueError(f"{name} belongs to encoder {kind}, this run has encoder {own['encoder']}: leave it out")
    own = {**{name: key.default for name, key in keys.items() if key.default is not ...}, **own}
    missing = sorted(set(keys) - set(own))
    if missing:
        raise ValueError(f"the YAML lacks the keys {', '.join(missing)}")
    for name, value in own.items():
        keys[name].check(name, value)
    if own["corpus"].lower() not in corpora:
        raise ValueError(f"corpus must be a folder of recipes/ ({', '.join(corpora)}), got '{own['corpus']}'")
    own = {**own, "corpus": corpora[own["corpus"].lower()].name}
    config = Config(own, other_sets(values, corpora, trained_on=own["corpus"].lower()))
    _check_together(config)
    if config.regime == "heads_only":
        config = dataclasses.replace(config, values={**config.values, "freeze_encoder": True})
    return config if "n_layers" not in own else with_depth(config, n_layers=own["n_layers"], dim=own["dim"])


def _check_together(config: Config) -> None:
    """Checks that need more than one key, but not the encoder's depth; policy texts are parsed here."""
    from eeasr_modules.data.pipeline import SHIFTS
    from eeasr_modules.data.text import NORMALISERS
    from eeasr_modules.exits import parse_policies, parse_policy
    from eeasr_modules.exits.policies.protocol import reach_of
    from eeasr_modules.exits.tuning.risk_losses import target_of

    for text in (config.exit_policy, config.compare_policies):
        (parse_policy if text is config.exit_policy else parse_policies)(text)
    for shift in config.shifts:
        if shift not in SHIFTS:
            raise ValueError(f"unknown shift '{shift}', there are {', '.join(SHIFTS)}")
    if config.words == "fused" and reach_of(parse_policy(config.exit_policy)):
        raise ValueError(f"{config.exit_policy} chooses whose words are said, as words: fused does: take one of them")
    if config.exit_risk is not None:
        try:
            target_of(config.exit_risk)
        except ValueError as err:
            raise ValueError(
                f"exit_risk must be [eps, delta], [eps, delta, clip] or {{changed: eps, delta: delta}} with delta "
                f"between 0 and 1 and clip above eps, got {config.exit_risk}"
            ) from err
        if not parse_policy(config.exit_policy).is_open:
            raise ValueError(
                f"exit_risk chooses the threshold of exit_policy, but {config.exit_policy} has one: "
                "leave its number out"
            )
    if config.normaliser not in (None, "none", *NORMALISERS):
        raise ValueError(f"normaliser must be null, none or one of {', '.join(NORMALISERS)}, got '{config.normaliser}'")
    if not config.speeds:
        raise ValueError("speeds must hold at least one percentage, got []; [100] leaves the speed as it is")
    if config.tokens != "characters" and config.n_tokens is None:
        raise ValueError(f"tokens: {config.tokens} needs n_tokens, the size of the vocabulary")
    if config.n_epochs == 0 and config.init_from is None:
        raise ValueError("n_epochs: 0 only evaluates and needs init_from, a trained model folder")
    for name in ("average_exits", "nbest"):
        if getattr(config, name) == 1:
            raise ValueError(f"{name} must be 0 (none) or at least 2, got 1")
    _check_splits(config)
    check_regime(config)
    check_decoder(config)
    check_encoder(config)
    check_upsample(config)
    if config.init_from is not None:
        _check_start(config)


def _check_splits(config: Config) -> None:
    """No split twice, and none for both choosing and testing."""
    for purpose in PURPOSES:
        splits = getattr(config, f"{purpose}_splits")
        twice = sorted({split for split in splits if splits.count(split) > 1})
        if twice:
            raise ValueError(f"{purpose}_splits names {', '.join(twice)} twice, got {splits}: name each split once")
    both = sorted(set(config.valid_splits) & set(config.test_splits))
    if both:
        raise ValueError(
            f"test_splits and valid_splits both name {', '.join(both)}: checkpoints and thresholds are chosen on "
            "valid_splits, so test on another"
        )


def with_depth(config: Config, *, n_layers: int, dim: int) -> Config:
    """The configuration with its depth known: exits placed, and exits, policies and budget checked against it.

    `n_layers`, `dim`: of the encoder, before `keep_layers` takes the last layers off.

    ValueError on an exit or a policy's layer that there is not, or a budget that no choice of exits has.
    """
    from eeasr_modules.exits import check_against, parse_policies, parse_policy
    from eeasr_modules.exits.policies.protocol import reach_of
    from eeasr_modules.models.multi_exit import check_exit_layers

    exit_layers, n_layers = config.exit_layers, kept_depth(config, n_layers)
    if isinstance(exit_layers, str):
        exit_layers = spread(exit_layers, n_layers)
    check_exit_layers(exit_layers, n_layers)
    config = dataclasses.replace(
        config, values={**config.values, "exit_layers": exit_layers, "n_layers": n_layers, "dim": dim}
    )
    regime_of(config)  # weights and epochs fit it
    alphas_of(config)
    decoder_settings(config)
    exit_layers = all_exit_layers(config)
    for policy in [parse_policy(config.exit_policy), *parse_policies(config.compare_policies)]:
        check_against(policy, exit_layers)
        if exit_layers != config.exit_layers and reach_of(policy):
            raise ValueError(f"{policy} may emit an earlier exit than it stops at, which is not for decoder: own")
    deepest = exit_layers[-1]
    budget = config.exit_budget * (deepest if config.exit_budget <= 1 else 1)
    if len(exit_layers) > 1 and not exit_layers[0] <= budget <= deepest:
        raise ValueError(
            f"exit_budget {config.exit_budget:g} means {budget:g} layers on average; it must lie between the first "
            f"exit, {exit_layers[0]}, and the last, {deepest}"
        )
    if config.n_epochs == 0:
        _check_exits_trained(config)
    return config


def spread(text: str, n_layers: int) -> list[int]:
    """Exits at even distances that end at the last layer.

    Example
    -------
    >>> spread("every 2", 12), spread("every 5 from 10", 24)
    ([2, 4, 6, 8, 10, 12], [14, 19, 24])
    """
    step, first = EVERY.fullmatch(text).groups()
    step, first = int(step), int(first or step)
    if not (step >= 1 and 1 <= first <= n_layers):
        raise ValueError(f"exit_layers: {text} gives no exits for an encoder of {n_layers} layers")
    return list(range(n_layers, first - 1, -step))[::-1]


def _start(config: Config) -> dict:
    """`config.json` of the model folder `init_from`."""
    path = Path(config.init_from) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"init_from must be a model folder with a config.json, '{config.init_from}' has none")
    return json.loads(path.read_text(encoding="utf-8"))


def corpora_of(model_config: dict) -> list[str]:
    """Corpora that a model folder's `config.json` says it was trained on; empty where it does not say."""
    if "corpora" in model_config:
        return list(model_config["corpora"])
    return [model_config["corpus"]] if model_config.get("corpus") else []  # folders written by version 0.1


def _check_start(config: Config) -> None:
    """The model of `init_from` has an encoder of the shape that the YAML describes."""
    start = _start(config)
    theirs = start["encoder"]
    for name in ("encoder", "n_layers", "dim", *ENCODERS[config.encoder].fixed, "sample_rate"):
        if config.values.get(name) is not None and theirs.get(name, config.values[name]) != config.values[name]:
            raise ValueError(
                f"init_from '{config.init_from}' is a model with {name} {theirs[name]}, but the YAML has {name} "
                f"{config.values[name]}: they must be the same"
            )
    check_cheaper_start(config, start)
    check_decoder_start(config, start)
    if start.get("self_condition", False) and not config.self_condition:
        raise ValueError(f"init_from '{config.init_from}' is a self-conditioned model: give self_condition: true")
    theirs = corpora_of(start)
    if config.n_epochs == 0 and theirs and config.corpus.lower() not in map(str.lower, theirs):
        raise ValueError(
            f"init_from '{config.init_from}' was trained on {', '.join(theirs)}, but corpus is {config.corpus}: "
            "without training it must be one of them, or sets would be labelled wrongly"
        )


def _check_exits_trained(config: Config) -> None:
    trained = _start(config).get("exit_layers", [])
    fresh = [layer for layer in config.exit_layers if layer not in trained]
    if fresh:
        raise ValueError(
            f"n_epochs: 0 only evaluates, but init_from '{config.init_from}' has exits after layers {trained}, none "
            f"after {', '.join(map(str, fresh))}"
        )
    if config.self_condition and config.exit_layers != trained:
        raise ValueError(
            f"n_epochs: 0 only evaluates, and the self-conditioned model of init_from '{config.init_from}' needs all "
            f"of its exits, after layers {trained}, got {config.exit_layers}"
        )


def _nearest(name: str, known) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else f"; known keys are {', '.join(sorted(known))}"


def load(path: str | Path, overrides: str | dict, *, recipes: Path) -> Config:
    """The checked configuration of a run, its exits placed; see `load_yaml`, `check` and `with_depth`.

    A checkpoint is asked for the encoder's depth here (its settings only, no weights). `exit_layers` or `source`
    given on the command line without `output_folder` get a run folder of their own, so that the run in the usual one
    is not disturbed: `runs/an4` becomes `runs/an4_exits_2_4_8`.
    """
    values = load_yaml(path, overrides)
    before = load_yaml(path)
    if values.get("output_folder") == before.get("output_folder"):
        if values.get("source") != before.get("source") and values.get("source"):
            values["output_folder"] = f"{values['output_folder']}_{Path(str(values['source'])).name}"
        if values.get("exit_layers") != before.get("exit_layers"):
            layers = values["exit_layers"]
            COMMON_KEYS["exit_layers"].check("exit_layers", layers)
            suffix = layers.replace(" ", "_") if isinstance(layers, str) else "_".join(map(str, layers))
            values["output_folder"] = f"{values['output_folder']}_exits_{suffix}"
    config = check(values, recipes=recipes)
    return config if "n_layers" in config.values else with_depth(config, **_checkpoint_shape(config))


def _checkpoint_shape(config: Config) -> dict[str, int]:
    """`n_layers` and `dim` of what the encoder starts from."""
    settings = config.values if config.init_from is None else _start(config)["encoder"]
    return ENCODERS[config.encoder].checkpoint.shape(settings)


PATH = re.compile(r"(\w+_folder|\w*_file|init_from|source|distill|teacher)")
PATHS = ("audio", "leave_out")  # lists of them


def parse(argv: Sequence[str]) -> tuple[str, object, dict]:
    """The YAML, SpeechBrain's options, and the overrides as YAML reads them, but for paths.

    ValueError if what follows the YAML is no `--key value`.

    Returns
    -------
    path : str
        The YAML.
    run_opts : RunOptions
        SpeechBrain's.
    overrides : dict
        For `load_yaml`.
    """
    import speechbrain as sb

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
