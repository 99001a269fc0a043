"""Every key that a YAML may hold, with its type, and a checked configuration as objects.

Keys of one kind of encoder only are in `models.encoders`.
"""

import re
from dataclasses import dataclass

from eeasr_modules.common.keys import Key, positive
from eeasr_modules.models.encoders import ENCODERS
from eeasr_modules.models.encoders.front_end import FACTORS
from eeasr_modules.models.encoders.front_end import KINDS as DOWNSAMPLING
from eeasr_modules.models.heads import HEADS
from eeasr_modules.training.run_folder import LOGGERS
from eeasr_modules.training.schedule import REGIMES, SCHEDULES

PURPOSES = ("train", "valid", "test")


@dataclass(frozen=True)
class OtherSet:
    """Data from another folder than the one that the YAML's `data_folder` names."""

    name: str  # as in the keys: `digits`, `commonvoice_20`, `6_1`
    corpus: str  # folder of `recipes/`
    folder: str
    # "ood": a corpus that training has not. "release": more of the main corpus; speakers of training are left out.
    # "also": trained on too.
    role: str
    # train_splits, valid_splits, test_splits: of that corpus; the first two only for "also"
    train_splits: tuple[str, ...] = ()
    valid_splits: tuple[str, ...] = ()
    test_splits: tuple[str, ...] = ()

    @property
    def start(self) -> str:
        """What its keys begin with."""
        return f"{self.role}_{self.name}"

    @property
    def splits(self) -> tuple[str, ...]:
        """All its splits, each once."""
        return tuple(dict.fromkeys([*self.train_splits, *self.valid_splits, *self.test_splits]))

    @property
    def keys(self) -> dict[str, object]:
        """The YAML keys that say this."""
        said = {f"{self.start}_folder": self.folder}
        if self.role != "also":
            return {**said, f"{self.start}_splits": list(self.test_splits)}
        return said | {
            f"{self.start}_{purpose}_splits": list(getattr(self, f"{purpose}_splits")) for purpose in PURPOSES
        }


@dataclass(frozen=True)
class Config:
    """A checked configuration."""

    # every key of `keys_of(encoder)`; also `n_layers` and `dim` of an encoder whose checkpoint tells them, once it was
    # asked (see `load`)
    values: dict
    # from the `also_`, `release_` and `ood_..._folder` keys that are not null, in the order of the YAML
    other_sets: tuple[OtherSet, ...] = ()

    def __getattr__(self, name: str):
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"the configuration has no key '{name}'")
        return values[name]

    @property
    def encoder_settings(self) -> dict:
        """Arguments of `models.encoders.build_encoder`."""
        kind = self.values["encoder"]
        return {"encoder": kind, **ENCODERS[kind].settings_of(self.values)}

    @property
    def trained_corpora(self) -> list[str]:
        """Names of the corpora that are trained on, the main one first."""
        also = [other.corpus for other in self.other_sets if other.role == "also"]
        return list(dict.fromkeys([self.values["corpus"], *also]))

    @property
    def augmentations(self) -> set[str]:
        """Names of the test-time shifts that training has seen."""
        return {"fast"} if any(speed >= 120 for speed in self.values["speeds"]) else set()


EXIT_WEIGHTS = ("uniform", "linear", "increasing", "last")
EVERY = re.compile(r"every (\d+)(?: from (\d+))?")  # exit_layers without numbering each


COMMON_KEYS: dict[str, Key] = {
    # run
    "seed": Key(int, low=0),
    "output_folder": Key(str),
    "brain": Key(str),
    "logger": Key(str, choices=LOGGERS),
    # corpus
    "corpus": Key(str),
    "data_folder": Key(str),
    "train_splits": Key(str, many=True),
    "valid_splits": Key(str, many=True),
    "test_splits": Key(str, many=True),
    "shifts": Key(str, many=True),
    "normaliser": Key(str, optional=True),
    "train_utterances": positive(optional=True),
    "test_utterances": positive(optional=True),
    "train_max_s": positive(float, optional=True),
    "sample_rate": positive(),
    "cache_audio_mb": Key(int, low=0),
    # exits and policy
    "exit_layers": Key(int, many=True, text=EVERY.pattern),
    "exit_policy": Key(str),
    "exit_budget": Key(float, low=0.0),
    "exit_excess": Key(float, low=0.0, optional=True, default=None),
    "exit_risk": Key(float, many=True, optional=True, above=0.0, named=True),
    "compare_policies": Key(str),
    "words": Key(str, choices=("exit", "fused"), default="exit"),
    "single_exit_folder": Key(str, optional=True),
    # model
    "encoder": Key(str, choices=ENCODERS),
    "init_from": Key(str, optional=True),
    "keep_layers": positive(optional=True),
    "downsample": Key(str, optional=True, choices=DOWNSAMPLING),
    "downsample_factor": Key(int, choices=FACTORS),
    "upsample": Key(bool),
    "freeze_encoder": Key(bool),
    "cache_states": Key(bool),
    "head": Key(str, choices=HEADS),
    "head_dim": positive(optional=True),
    "head_dropout": Key(float, low=0.0, high=1.0),
    "share_projection": Key(bool),
    "average_states": Key(int, many=True, optional=True),
    "self_condition": Key(bool),
    "attention_decoder": Key(bool),
    "decoder_layers": positive(),
    "decoder_dim": positive(optional=True),
    "decoder_heads": positive(),
    "decoder_ffn_dim": positive(),
    "decoder_dropout": Key(float, low=0.0, high=1.0),
    "tokens": Key(str, choices=("characters", "unigram", "bpe")),
    "n_tokens": positive(optional=True),
    # training
    "n_epochs": Key(int, low=0),
    "batch_seconds": positive(float),
    "batch_utterances": positive(),
    "regime": Key(str, choices=REGIMES),
    "first_step_share": Key(float, above=0.0, high=1.0),
    "exit_weights": Key(str, choices=EXIT_WEIGHTS, listed=float),
    "confidence_weighted": Key(bool),
    "distill": Key(str, optional=True),
    "distill_alpha": Key(float, low=0.0, high=1.0, listed=float),
    "distill_transcript_share": Key(float, low=0.0, high=1.0),
    "attention_weight": Key(float, above=0.0, high=1.0),
    "label_smoothing": Key(float, low=0.0, high=1.0),
    "accumulate_batches": positive(),
    "encoder_lr": Key(float, low=0.0),
    "heads_lr": Key(float, low=0.0),
    "layer_lr_decay": Key(float, above=0.0, high=1.0),
    "lr_schedule": Key(str, choices=SCHEDULES),
    "warmup_share": Key(float, low=0.0, high=1.0),
    "final_lr_share": Key(float, low=0.0, high=1.0),
    "weight_decay": Key(float, low=0.0),
    "select_on": Key(str, choices=("mean", "last", "loss")),
    "average_checkpoints": positive(),
    "half_weights": Key(bool),
    "quantised_weights": Key(bool),
    "speeds": Key(int, many=True, low=50, high=200),
    "n_workers": Key(int, low=0),
    # test pass
    "test_batch_seconds": positive(float),
    "average_exits": Key(int, low=0),
    "nbest": Key(int, low=0),
    "decoding": Key(str, choices=("greedy", "beam", "attention")),
    "beam_size": positive(),
    "lm_file": Key(str, optional=True),
    "lm_weight": Key(float, low=0.0),
    "word_score": Key(float),
    "attention_beam_size": positive(),
    "attention_ctc_weight": Key(float, low=0.0, high=1.0),
}


def all_keys() -> dict[str, Key]:
    """Keys of any configuration, with the encoders that there are now."""
    return {name: key for kind in ENCODERS for name, key in keys_of(kind).items()}


def keys_of(encoder: str) -> dict[str, Key]:
    """Keys of a configuration with this kind of encoder; its YAML must hold those that have no default."""
    return {**COMMON_KEYS, **ENCODERS[encoder].keys}
