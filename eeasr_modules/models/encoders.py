"""Encoders by name: what a model folder's `config.json` or a YAML's flat keys describe."""

from torch import nn


def conformer_defaults() -> dict:
    """Settings of the Conformer and their defaults (None: must be given)."""
    import inspect

    from eeasr_modules.models.conformer import ConformerEncoder

    parameters = inspect.signature(ConformerEncoder).parameters.values()
    return {p.name: None if p.default is p.empty else p.default for p in parameters}


def build_encoder(settings: dict) -> nn.Module:
    """The encoder that `settings` describe.

    Arguments
    ---------
    settings : dict
        `encoder` names the kind (`conformer`); the rest are that encoder's arguments.

    Raises
    ------
    ValueError
        On an unknown kind or setting.
    """
    from eeasr_modules.models.conformer import ConformerEncoder

    kinds = {"conformer": ConformerEncoder}
    settings = dict(settings)
    kind = settings.pop("encoder", None)
    if kind not in kinds:
        raise ValueError(f"expected encoder to be one of {', '.join(kinds)}, got {kind!r}")
    unknown = sorted(set(settings) - set(conformer_defaults()))
    if unknown:
        raise ValueError(f"encoder '{kind}' has no setting {', '.join(unknown)}; it takes {list(conformer_defaults())}")
    return kinds[kind](**settings)
