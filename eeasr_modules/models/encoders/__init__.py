"""Encoders by name: an entry of `ENCODERS` brings all that YAML, model folder, training and benchmark know of one."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from eeasr_modules.common.keys import Key, positive
from eeasr_modules.models.device import narrow_in_float32


@dataclass(frozen=True)
class Checkpoint:
    """How a kind of encoder starts from the weights of others; each function gets settings by name, as a YAML has them.

    Arguments
    ---------
    shape : function
        To a dict of `n_layers` and `dim`; no weights are read.
    variant : function or None
        To the dotted name of the class for these settings, which takes the same arguments; None: `EncoderKind.path`.
    vocabulary : function or None
        To the tokens of the checkpoint's own CTC head in the order of their ids, None where it has none.
    kept : tuple of str
        Settings that a model folder knows, so that training on from it needs no checkpoint.
    """

    shape: Callable[[Mapping], dict[str, int]]
    variant: Callable[[Mapping], str] | None = None
    vocabulary: Callable[[Mapping], list[str] | None] | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncoderKind:
    """A kind of encoder: all that is known of it outside of its class.

    Arguments
    ---------
    path : str
        Dotted name of the class (an `nn.Module` that follows `models.walk.Encoder`), imported when one is built. Of a
        YAML's keys it gets those that are its arguments, `sample_rate` and `downsample` among them if it takes them.
    keys : dict of str to Key
        Keys of a YAML that only some kinds have. `n_layers` and `dim` are among them, unless `checkpoint` tells them.
    fixed : tuple of str
        Keys that give weights their shape, beside `n_layers` and `dim`: a run is not gone on with, and a model folder
        not started from, where they differ.
    check : function or None
        Gets the YAML's values by name; raises ValueError, one sentence, where they do not go together.
    stock : str or None
        Dotted name of a function from an encoder and a number of layers to a function from waveforms and valid samples
        to (states, n_frames): the first layers as the library that they come from runs them, to compare the walk with.
    library : str
        Whose forward `stock` is.
    checkpoint : Checkpoint or None
        None: weights of its own, to begin with.
    """

    path: str
    keys: Mapping[str, Key]
    fixed: tuple[str, ...] = ()
    check: Callable[[Mapping], None] | None = None
    stock: str | None = None
    library: str = ""
    checkpoint: Checkpoint | None = None

    @cached_property
    def arguments(self) -> dict:
        """Settings that the class takes, and their defaults (None also where one must be given)."""
        parameters = inspect.signature(_named(self.path)).parameters.values()
        return {one.name: None if one.default is one.empty else one.default for one in parameters}

    def settings_of(self, values: Mapping) -> dict:
        """Those of a YAML's values that the class takes, in the order that model folders and their digests have."""
        names = dict.fromkeys(("sample_rate", "downsample", "downsample_factor", *self.keys, *self.arguments))
        return {name: values[name] for name in names if name in values and name in self.arguments}

    def build(self, settings: Mapping) -> nn.Module:
        """An encoder with these settings."""
        variant = self.checkpoint and self.checkpoint.variant
        return _named(variant(settings) if variant else self.path)(**settings)

    def stock_forward(self, encoder: nn.Module, n_layers: int) -> Callable:
        """The stock forward of an encoder's first layers; see `stock`."""
        return _named(self.stock)(encoder, n_layers)


def _named(path: str):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def build_encoder(settings: dict) -> nn.Module:
    """The encoder that `settings` describe.

    `settings`: `encoder` names the kind (a key of `ENCODERS`); the rest are that encoder's arguments.

    ValueError on an unknown kind or setting.
    """
    settings = dict(settings)
    name = settings.pop("encoder", None)
    if name not in ENCODERS:
        raise ValueError(
            f"expected encoder to be one of {', '.join(ENCODERS)}, got {name!r}; import first what registers another"
        )
    known = ENCODERS[name].arguments
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"encoder '{name}' has no setting {', '.join(unknown)}; it takes {list(known)}")
    return narrow_in_float32(ENCODERS[name].build(settings))


CONFORMER_KEYS: dict[str, Key] = {
    "n_layers": positive(),
    "dim": positive(),
    "n_heads": positive(),
    "ffn_dim": positive(),
    "kernel_size": positive(),
    "n_mels": positive(),
    "dropout": Key(float, low=0.0, high=1.0),
    "layerdrop": Key(float, low=0.0, high=1.0),
    "gradient_checkpointing": Key(bool),
    "time_masks": Key(int, low=0),
    "time_mask_frames": positive(),
    "freq_masks": Key(int, low=0),
    "freq_mask_channels": positive(),
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
    "mask_time_length": positive(),
    "mask_feature_prob": Key(float, low=0.0, high=1.0),
    "mask_feature_length": positive(),
    "decoder": Key(str, optional=True, choices=("own",), default=None),
    "decoder_beams": Key(int, low=1, default=1),
    "decoder_draft": Key(bool, default=False),
    "decoder_floor": Key(float, low=0.0, high=1.0, default=0.5),
}


def _check_conformer(values: Mapping) -> None:
    if values["dim"] % (2 * values["n_heads"]):
        raise ValueError(f"dim must be a multiple of 2 x n_heads, got {values['dim']} and {values['n_heads']}")
    if values["kernel_size"] % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {values['kernel_size']}")


def _check_huggingface(values: Mapping) -> None:
    if values["source"] is None and values["init_from"] is None:
        raise ValueError("encoder: huggingface needs source, a hub id or a local folder (or init_from, a model folder)")
    if values["sample_rate"] != 16000:
        raise ValueError(f"encoder huggingface hears 16000 Hz, sample_rate is {values['sample_rate']}")


def _huggingface_shape(settings: Mapping) -> dict[str, int]:
    from eeasr_modules.models.encoders import huggingface_checkpoint as reading

    if settings.get("hf_config") is not None:
        return reading.shape_of(settings["hf_config"])
    checkpoint = reading.checkpoint_config(settings["source"])
    reading.check_attention(checkpoint, settings["attention"])
    return reading.shape_of(reading.as_json(checkpoint))


def _huggingface_variant(settings: Mapping) -> str:
    """The adapter for the family of the checkpoint that `settings` name (`hf_config`, else `source`)."""
    from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_config

    family = None
    if settings.get("hf_config") is not None:
        family = settings["hf_config"].get("model_type")
    elif settings.get("source") is not None:
        family = checkpoint_config(settings["source"]).model_type
    return {
        "whisper": "eeasr_modules.models.encoders.whisper.WhisperEncoder",
        "moonshine": "eeasr_modules.models.encoders.moonshine.MoonshineEncoder",
        "wav2vec2-conformer": "eeasr_modules.models.encoders.huggingface_conformer.Wav2Vec2ConformerEncoder",
        "wav2vec2-bert": "eeasr_modules.models.encoders.huggingface_conformer.Wav2Vec2BertEncoder",
    }.get(family, ENCODERS["huggingface"].path)


def _huggingface_vocabulary(settings: Mapping) -> list[str] | None:
    from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_vocabulary

    return checkpoint_vocabulary(settings["source"], target_lang=settings["target_lang"])


ENCODERS: dict[str, EncoderKind] = {
    "conformer": EncoderKind(
        "eeasr_modules.models.encoders.conformer.ConformerEncoder",
        CONFORMER_KEYS,
        fixed=("n_heads", "ffn_dim", "kernel_size", "n_mels"),
        check=_check_conformer,
        stock="eeasr_modules.models.encoders.conformer.stock_forward",
        library="SpeechBrain",
    ),
    "huggingface": EncoderKind(
        "eeasr_modules.models.encoders.huggingface.HuggingFaceEncoder",
        HUGGINGFACE_KEYS,
        fixed=("source", "target_lang"),
        check=_check_huggingface,
        stock="eeasr_modules.models.encoders.huggingface.stock_forward",
        library="transformers",
        checkpoint=Checkpoint(
            shape=_huggingface_shape,
            variant=_huggingface_variant,
            vocabulary=_huggingface_vocabulary,
            kept=("source", "hf_config", "normalise_wavs"),
        ),
    ),
}
