"""Encoders by name: what a model folder's `config.json` or a YAML's flat keys describe."""

from torch import nn

from eeasr_modules.models.device import narrow_in_float32


def conformer_defaults() -> dict:
    """Settings of the Conformer and their defaults (None: must be given)."""
    import inspect

    from eeasr_modules.models.encoders.conformer import ConformerEncoder

    parameters = inspect.signature(ConformerEncoder).parameters.values()
    return {p.name: None if p.default is p.empty else p.default for p in parameters}


def huggingface_defaults() -> dict:
    """Settings of the Hugging Face encoders and their defaults."""
    import inspect

    from eeasr_modules.models.encoders.huggingface import HuggingFaceEncoder

    return {p.name: p.default for p in inspect.signature(HuggingFaceEncoder).parameters.values()}


def build_encoder(settings: dict) -> nn.Module:
    """The encoder that `settings` describe.

    Arguments
    ---------
    settings : dict
        `encoder` names the kind (`conformer`, `huggingface`); the rest are that encoder's arguments.

    Raises
    ------
    ValueError
        On an unknown kind or setting.
    """
    settings = dict(settings)
    kind = settings.pop("encoder", None)
    if kind == "conformer":
        from eeasr_modules.models.encoders.conformer import ConformerEncoder as Encoder

        known = conformer_defaults()
    elif kind == "huggingface":
        Encoder = huggingface_class(settings)
        known = huggingface_defaults()
    else:
        raise ValueError(f"expected encoder to be one of conformer, huggingface, got {kind!r}")
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"encoder '{kind}' has no setting {', '.join(unknown)}; it takes {list(known)}")
    return narrow_in_float32(Encoder(**settings))


def huggingface_class(settings: dict) -> type:
    """The adapter for the family of a checkpoint that `settings` name (`hf_config`, else `source`)."""
    from eeasr_modules.models.encoders.huggingface import HuggingFaceEncoder
    from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_config

    if settings.get("hf_config") is not None:
        model_type = settings["hf_config"].get("model_type")
    elif settings.get("source") is not None:
        model_type = checkpoint_config(settings["source"]).model_type
    else:
        model_type = None
    if model_type == "whisper":
        from eeasr_modules.models.encoders.whisper import WhisperEncoder

        return WhisperEncoder
    if model_type == "moonshine":
        from eeasr_modules.models.encoders.moonshine import MoonshineEncoder

        return MoonshineEncoder
    return HuggingFaceEncoder
