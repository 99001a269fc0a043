"""Every key that a YAML may hold, with its type; some belong to one kind of encoder only."""

import math
import re
from dataclasses import dataclass

from eeasr_modules.models.encoders.downsampling import FACTORS
from eeasr_modules.models.encoders.downsampling import KINDS as DOWNSAMPLING
from eeasr_modules.models.heads import HEADS
from eeasr_modules.training.logs import LOGGERS
from eeasr_modules.training.optimiser import SCHEDULES
from eeasr_modules.training.regimes import REGIMES

EXIT_WEIGHT_NAMES = ("uniform", "linear", "increasing", "last")
EVERY = re.compile(r"every (\d+)(?: from (\d+))?")  # exit_layers without numbering each


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
    text : str or None
        Regular expression of a text that is allowed too.
    listed : type or None
        A list of numbers of this kind, from 0 up, is allowed too.
    """

    kind: type
    many: bool = False
    optional: bool = False
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple = ()
    text: str | None = None
    listed: type | None = None

    def check(self, name: str, value: object) -> None:
        """Raise ValueError with one sentence unless `value` fits."""
        if value is None and self.optional:
            return
        if self.text is not None and isinstance(value, str) and re.fullmatch(self.text, value):
            return
        if self.listed is not None and isinstance(value, list):
            Key(self.listed, many=True, low=0).check(name, value)
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
    "train_utterances": _positive(optional=True),
    "test_utterances": _positive(optional=True),
    "train_max_s": _positive(float, optional=True),
    "sample_rate": _positive(),
    "cache_audio_mb": Key(int, low=0),
    # exits and policy
    "exit_layers": Key(int, many=True, text=EVERY.pattern),
    "exit_policy": Key(str),
    "exit_budget": Key(float, low=0.0),
    "exit_risk": Key(float, many=True, optional=True, above=0.0),
    "compare_policies": Key(str),
    "single_exit_folder": Key(str, optional=True),
    # model
    "encoder": Key(str, choices=("conformer", "huggingface")),
    "init_from": Key(str, optional=True),
    "keep_layers": _positive(optional=True),
    "downsample": Key(str, optional=True, choices=DOWNSAMPLING),
    "downsample_factor": Key(int, choices=FACTORS),
    "upsample": Key(bool),
    "freeze_encoder": Key(bool),
    "cache_states": Key(bool),
    "head": Key(str, choices=HEADS),
    "head_dim": _positive(optional=True),
    "head_dropout": Key(float, low=0.0, high=1.0),
    "share_projection": Key(bool),
    "self_condition": Key(bool),
    "attention_decoder": Key(bool),
    "decoder_layers": _positive(),
    "decoder_dim": _positive(optional=True),
    "decoder_heads": _positive(),
    "decoder_ffn_dim": _positive(),
    "decoder_dropout": Key(float, low=0.0, high=1.0),
    "tokens": Key(str, choices=("characters", "unigram", "bpe")),
    "n_tokens": _positive(optional=True),
    # training
    "n_epochs": Key(int, low=0),
    "batch_seconds": _positive(float),
    "batch_utterances": _positive(),
    "regime": Key(str, choices=REGIMES),
    "first_step_share": Key(float, above=0.0, high=1.0),
    "exit_weights": Key(str, choices=EXIT_WEIGHT_NAMES, listed=float),
    "confidence_weighted": Key(bool),
    "distill": Key(str, optional=True),
    "distill_alpha": Key(float, low=0.0, high=1.0, listed=float),
    "distill_transcript_share": Key(float, low=0.0, high=1.0),
    "attention_weight": Key(float, above=0.0, high=1.0),
    "label_smoothing": Key(float, low=0.0, high=1.0),
    "accumulate_batches": _positive(),
    "encoder_lr": Key(float, low=0.0),
    "heads_lr": Key(float, low=0.0),
    "layer_lr_decay": Key(float, above=0.0, high=1.0),
    "lr_schedule": Key(str, choices=SCHEDULES),
    "warmup_share": Key(float, low=0.0, high=1.0),
    "final_lr_share": Key(float, low=0.0, high=1.0),
    "weight_decay": Key(float, low=0.0),
    "select_on": Key(str, choices=("mean", "last", "loss")),
    "average_checkpoints": _positive(),
    "half_weights": Key(bool),
    "quantised_weights": Key(bool),
    "speeds": Key(int, many=True, low=50, high=200),
    "n_workers": Key(int, low=0),
    # test pass
    "test_batch_seconds": _positive(float),
    "average_exits": Key(int, low=0),
    "nbest": Key(int, low=0),
    "decoding": Key(str, choices=("greedy", "beam", "attention")),
    "beam_size": _positive(),
    "lm_file": Key(str, optional=True),
    "lm_weight": Key(float, low=0.0),
    "word_score": Key(float),
    "attention_beam_size": _positive(),
    "attention_ctc_weight": Key(float, low=0.0, high=1.0),
}

CONFORMER_KEYS: dict[str, Key] = {
    "n_layers": _positive(),
    "dim": _positive(),
    "n_heads": _positive(),
    "ffn_dim": _positive(),
    "kernel_size": _positive(),
    "n_mels": _positive(),
    "dropout": Key(float, low=0.0, high=1.0),
    "layerdrop": Key(float, low=0.0, high=1.0),
    "gradient_checkpointing": Key(bool),
    "time_masks": Key(int, low=0),
    "time_mask_frames": _positive(),
    "freq_masks": Key(int, low=0),
    "freq_mask_channels": _positive(),
}

# n_layers and dim are the checkpoint's
HUGGINGFACE_KEYS: dict[str, Key] = {
    "source": Key(str, optional=True),
    "target_lang": Key(str, optional=True),
    "attention": Key(str, optional=True, choices=("sdpa", "eager")),
    "checkpoint_head": Key(bool),
    "padded_front_end": Key(bool),
    "freeze_feature_extractor": Key(bool),
    "gradient_checkpointing": Key(bool),
    "dropout": Key(float, optional=True, low=0.0, high=1.0),
    "layerdrop": Key(float, low=0.0, high=1.0),
    "mask_time_prob": Key(float, low=0.0, high=1.0),
    "mask_time_length": _positive(),
    "mask_feature_prob": Key(float, low=0.0, high=1.0),
    "mask_feature_length": _positive(),
}

ENCODER_KEYS: dict[str, dict[str, Key]] = {"conformer": CONFORMER_KEYS, "huggingface": HUGGINGFACE_KEYS}
KEYS: dict[str, Key] = {**COMMON_KEYS, **CONFORMER_KEYS, **HUGGINGFACE_KEYS}


def keys_of(encoder: str) -> dict[str, Key]:
    """Keys of a configuration with this kind of encoder, all of which its YAML must hold."""
    return {**COMMON_KEYS, **ENCODER_KEYS[encoder]}
