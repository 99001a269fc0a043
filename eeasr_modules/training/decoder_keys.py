"""Checks of the keys of the attention decoder, and what they amount to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eeasr_modules.exits.policies import DECODER_SIGNALS

if TYPE_CHECKING:
    from eeasr_modules.training.config import Config


def decoder_settings(config: Config) -> dict | None:
    """`decoder` of a model's `config.json`; None for CTC exits only.

    Raises
    ------
    ValueError
        When the decoder's width does not divide.
    """
    if not config.values.get("attention_decoder", False):
        return None
    dim = config.dim if config.decoder_dim is None else config.decoder_dim
    if dim % 2 or dim % config.decoder_heads:
        raise ValueError(
            f"decoder_dim (null: the encoder's) must be even and a multiple of decoder_heads, got {dim} and "
            f"{config.decoder_heads}"
        )
    return {
        "n_layers": config.decoder_layers,
        "dim": dim,
        "n_heads": config.decoder_heads,
        "ffn_dim": config.decoder_ffn_dim,
        "dropout": float(config.decoder_dropout),
    }


def check_decoder(config: Config) -> None:
    """ValueError, one sentence, where keys of the attention decoder do not go together with others."""
    from eeasr_modules.exits import parse_policies, parse_policy

    if config.decoding == "attention" and not config.attention_decoder:
        raise ValueError("decoding: attention needs a decoder: give attention_decoder: true")
    for policy in [parse_policy(config.exit_policy), *parse_policies(config.compare_policies)]:
        read = sorted(DECODER_SIGNALS & set(policy.needs))
        if read:
            raise ValueError(
                f"{policy} reads {read[0]}, which tables of CTC transcripts lack, and a run is calibrated on those: "
                "give another policy, and this one to eeasr analyze with the tables of decoding: attention"
            )
    if not config.attention_decoder:
        return
    if config.regime == "two_step":
        raise ValueError(
            "regime: two_step leaves the last exit as its first step made it, and a decoder that is shared by the "
            "exits would not: give attention_decoder: false or another regime"
        )
    if config.attention_weight >= 1:
        raise ValueError(
            f"attention_weight must be above 0 and below 1, or the exits' CTC heads would not learn, got "
            f"{config.attention_weight:g}"
        )
    if config.attention_ctc_weight >= 1:
        raise ValueError(
            f"attention_ctc_weight must lie from 0 to below 1, got {config.attention_ctc_weight:g}: for CTC alone give "
            "decoding: beam"
        )


def check_decoder_start(config: Config, start: dict) -> None:
    """ValueError where a run without training asks for a decoder that the model of `init_from` does not have.

    Arguments
    ---------
    config : Config
        Checked so far.
    start : dict
        `config.json` of `init_from`.
    """
    if config.n_epochs == 0 and config.attention_decoder and start.get("decoder") is None:
        raise ValueError(
            f"n_epochs: 0 only evaluates, but init_from '{config.init_from}' has no attention decoder: train one, or "
            "give attention_decoder: false"
        )
