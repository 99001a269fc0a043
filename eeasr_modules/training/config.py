"""What a YAML may say, and the checks that come before anything is built.

A YAML holds flat keys; `defaults: !include:other.yaml` brings in another file's keys, which the keys beside it and the
command line replace. HyperPyYAML would let unknown nested keys and wrong types pass; here every key has a type.
"""

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path

EXIT_WEIGHT_NAMES = ("uniform", "linear", "last")
OOD_KEY = re.compile(r"ood_([a-z0-9]+)_folder")


@dataclass(frozen=True)
class Key:
    """Type and bounds of one YAML key.

    Arguments
    ---------
    kind : type
        int, float, str, bool; an int is a fine float.
    many : bool
        A list of `kind`.
    optional : bool
        null allowed.
    low, high : float or None
        Bounds, inclusive.
    above : float or None
        Bound, exclusive.
    choices : tuple
        Allowed values.
    """

    kind: type
    many: bool = False
    optional: bool = False
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple = ()

    def check(self, name: str, value: object) -> None:
        """Raise ValueError with one sentence unless `value` fits."""
        if value is None and self.optional:
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


def _positive(kind: type = int, **more) -> Key:
    return Key(int, low=1, **more) if kind is int else Key(kind, above=0, **more)


KEYS: dict[str, Key] = {
    # run
    "seed": Key(int, low=0),
    "output_folder": Key(str),
    "brain": Key(str),
    # corpus
    "corpus": Key(str),
    "data_folder": Key(str),
    "train_splits": Key(str, many=True),
    "valid_splits": Key(str, many=True),
    "test_splits": Key(str, many=True),
    "shifts": Key(str, many=True),
    "train_utterances": _positive(optional=True),
    "test_utterances": _positive(optional=True),
    "sample_rate": _positive(),
    "cache_audio_mb": Key(int, low=0),
    # exits and policy
    "exit_layers": Key(int, many=True),
    "exit_policy": Key(str),
    "exit_budget": Key(float, low=0.0),
    "compare_policies": Key(str),
    "single_exit_folder": Key(str, optional=True),
    # model
    "encoder": Key(str, choices=("conformer",)),
    "init_from": Key(str, optional=True),
    "freeze_encoder": Key(bool),
    "n_layers": _positive(),
    "dim": _positive(),
    "n_heads": _positive(),
    "ffn_dim": _positive(),
    "kernel_size": _positive(),
    "n_mels": _positive(),
    "dropout": Key(float, low=0.0, high=1.0),
    "share_projection": Key(bool),
    "head_dropout": Key(float, low=0.0, high=1.0),
    "tokens": Key(str, choices=("characters", "unigram", "bpe")),
    "n_tokens": _positive(optional=True),
    # training
    "n_epochs": Key(int, low=0),
    "batch_seconds": _positive(float),
    "batch_utterances": _positive(),
    "exit_weights": Key(str, choices=EXIT_WEIGHT_NAMES),
    "encoder_lr": Key(float, low=0.0),
    "heads_lr": Key(float, low=0.0),
    "warmup_share": Key(float, low=0.0, high=1.0),
    "final_lr_share": Key(float, low=0.0, high=1.0),
    "weight_decay": Key(float, low=0.0),
    "select_on": Key(str, choices=("mean", "last")),
    "average_checkpoints": _positive(),
    "speeds": Key(int, many=True, low=50, high=200),
    "time_masks": Key(int, low=0),
    "time_mask_frames": _positive(),
    "freq_masks": Key(int, low=0),
    "freq_mask_channels": _positive(),
    "n_workers": Key(int, low=0),
    # test pass
    "test_batch_seconds": _positive(float),
}

ENCODER_KEYS = (
    "n_layers",
    "dim",
    "n_heads",
    "ffn_dim",
    "kernel_size",
    "n_mels",
    "sample_rate",
    "dropout",
    "time_masks",
    "time_mask_frames",
    "freq_masks",
    "freq_mask_channels",
)


@dataclass(frozen=True)
class Config:
    """A checked configuration.

    Arguments
    ---------
    values : dict
        Every key of `KEYS`.
    ood_folders : dict of str to str
        Corpus (a folder of `recipes/`) -> data folder, for `ood_<corpus>_folder` keys that are not null.
    """

    values: dict
    ood_folders: dict[str, str] = dataclasses.field(default_factory=dict)

    def __getattr__(self, name: str):
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"the configuration has no key '{name}'")
        return values[name]

    @property
    def encoder_settings(self) -> dict:
        """Arguments of `models.encoders.build_encoder`."""
        return {"encoder": self.values["encoder"], **{name: self.values[name] for name in ENCODER_KEYS}}

    @property
    def augmentations(self) -> set[str]:
        """Names of the test-time shifts that training has seen."""
        return {"fast"} if any(speed >= 120 for speed in self.values["speeds"]) else set()


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


def corpus_folders(recipes: Path) -> dict[str, Path]:
    """Corpora by lower-case name: the folders of `recipes` that have a `prepare.py`."""
    return {path.parent.name.lower(): path.parent for path in sorted(recipes.glob("*/prepare.py"))}


def check(values: dict, *, recipes: Path) -> Config:
    """A `Config`, or ValueError with one sentence on the first thing that is wrong.

    Arguments
    ---------
    values : dict
        Flat keys, see `flatten`.
    recipes : Path
        The folder of corpora.
    """
    corpora = corpus_folders(recipes)
    own = {name: value for name, value in values.items() if not OOD_KEY.fullmatch(name)}
    unknown = sorted(set(own) - set(KEYS))
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}{_nearest(unknown[0], KEYS)}")
    missing = sorted(set(KEYS) - set(own))
    if missing:
        raise ValueError(f"the YAML lacks the keys {', '.join(missing)}")
    for name, value in own.items():
        KEYS[name].check(name, value)
    ood_folders = {}
    for name in values:
        if name in own:
            continue
        corpus = OOD_KEY.fullmatch(name).group(1)
        if corpus not in corpora:
            raise ValueError(f"{name}: no corpus '{corpus}' under recipes/, there are {', '.join(corpora)}")
        Key(str, optional=True).check(name, values[name])
        if values[name] is not None:
            ood_folders[corpora[corpus].name] = values[name]
    if own["corpus"].lower() not in corpora:
        raise ValueError(f"corpus must be a folder of recipes/ ({', '.join(corpora)}), got '{own['corpus']}'")
    config = Config(own, ood_folders)
    _check_together(config)
    return config


def _check_together(config: Config) -> None:
    """Checks that need more than one key; policy texts are parsed here, before any model is built."""
    from eeasr_modules.data.shifts import SHIFTS
    from eeasr_modules.exits import check_against, parse_policies, parse_policy
    from eeasr_modules.models.multi_exit import check_exit_layers

    check_exit_layers(config.exit_layers, config.n_layers)
    if config.dim % (2 * config.n_heads):
        raise ValueError(f"dim must be a multiple of 2 x n_heads, got {config.dim} and {config.n_heads}")
    if config.kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {config.kernel_size}")
    for policy in [parse_policy(config.exit_policy), *parse_policies(config.compare_policies)]:
        check_against(policy, config.exit_layers)
    budget = config.exit_budget * (config.n_layers if config.exit_budget <= 1 else 1)
    if len(config.exit_layers) > 1 and not config.exit_layers[0] <= budget <= config.n_layers:
        raise ValueError(
            f"exit_budget {config.exit_budget:g} means {budget:g} layers on average; it must lie between the first "
            f"exit, {config.exit_layers[0]}, and the last, {config.n_layers}"
        )
    for shift in config.shifts:
        if shift not in SHIFTS:
            raise ValueError(f"unknown shift '{shift}', there are {', '.join(SHIFTS)}")
    if not config.speeds:
        raise ValueError("speeds must hold at least one percentage, got []; [100] leaves the speed as it is")
    if config.tokens != "characters" and config.n_tokens is None:
        raise ValueError(f"tokens: {config.tokens} needs n_tokens, the size of the vocabulary")
    if config.freeze_encoder and config.init_from is None:
        raise ValueError("freeze_encoder: true trains heads only and needs init_from, a model folder to start from")
    if config.init_from is not None and not (Path(config.init_from) / "config.json").is_file():
        raise FileNotFoundError(f"init_from must be a model folder with a config.json, '{config.init_from}' has none")


def _nearest(name: str, known) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else f"; known keys are {', '.join(sorted(known))}"


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
    replaced = _parsed(overrides) if isinstance(overrides, str) else overrides
    try:
        with path.open(encoding="utf-8") as stream:
            loaded = load_hyperpyyaml(stream)
    except Exception as err:  # HyperPyYAML and ruamel raise a dozen unrelated kinds
        raise ValueError(f"'{path}' is not a valid YAML: {' '.join(str(err).split())}") from err
    if not isinstance(loaded, dict):
        raise ValueError(f"'{path}' must hold keys and values, got {type(loaded).__name__}")
    return {**flatten(loaded), **_plain(replaced)}


def _parsed(overrides: str) -> dict:
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


def load(path: str | Path, overrides: str | dict, *, recipes: Path) -> Config:
    """The checked configuration of a run; see `load_yaml` and `check`.

    `exit_layers` given on the command line without `output_folder` gets a run folder of its own, so that the run in
    the usual one is not disturbed: `runs/an4` becomes `runs/an4_exits_2_4_8`.
    """
    values = load_yaml(path, overrides)
    changed = load_yaml(path)
    if values.get("exit_layers") != changed.get("exit_layers") and values.get("output_folder") == changed.get(
        "output_folder"
    ):
        KEYS["exit_layers"].check("exit_layers", values["exit_layers"])
        suffix = "_".join(map(str, values["exit_layers"]))
        values["output_folder"] = f"{values['output_folder']}_exits_{suffix}"
    return check(values, recipes=recipes)
