"""Checks of the keys that say how exits are trained, and what they amount to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eeasr_modules.training.cheaper_keys import check_teacher_input
from eeasr_modules.training.regimes import OWN_TEACHERS, Regime

if TYPE_CHECKING:
    from eeasr_modules.training.config import Config


def check_regime(config: Config) -> None:
    """Raise ValueError or FileNotFoundError, one sentence, where keys of training do not go together."""
    if config.freeze_encoder and config.regime not in ("joint", "heads_only"):
        raise ValueError(f"freeze_encoder: true is for regime heads_only, got regime: {config.regime}: leave one out")
    if config.self_condition and (config.freeze_encoder or config.regime in ("two_step", "heads_only")):
        raise ValueError(
            "self_condition: true changes what the encoder's layers see, and a frozen encoder cannot learn from it: "
            "give self_condition: false or another regime"
        )
    folder = None if config.distill in (None, *OWN_TEACHERS) else Path(config.distill)
    if folder is not None and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"distill must be null, {', '.join(OWN_TEACHERS)} or a model folder with a config.json, got '{folder}'"
        )
    if folder is not None:
        check_teacher_input(config, folder)
    check_cached_states(config)
    if config.regime == "two_step" and config.share_projection:
        raise ValueError(
            "regime: two_step freezes the last head while the others train, so they cannot share its projection: "
            "give share_projection: false"
        )
    if config.regime == "two_step" and config.select_on != "mean":
        raise ValueError(
            f"select_on: {config.select_on} may choose a checkpoint of the first of two_step's steps, whose exits are "
            "untrained: give select_on: mean"
        )


def check_cached_states(config: Config) -> None:
    """ValueError, one sentence, where `cache_states` is asked for and states do change from one epoch to the next."""
    if not config.cache_states:
        return
    reasons = {
        "freeze_encoder: true (its encoder learns)": not (config.freeze_encoder or config.regime == "heads_only"),
        "speeds: [100] (another speed gives other states)": config.speeds != [100],
        "attention_decoder: false": config.attention_decoder,
        "upsample: false": config.upsample,
        "distill: null, self or best (a teacher hears the audio)": config.distill not in (None, *OWN_TEACHERS),
    }
    wanted = [reason for reason, broken in reasons.items() if broken]
    if wanted:
        raise ValueError(f"cache_states: true computes the encoder's states once and needs {'; '.join(wanted)}")


def regime_of(config: Config) -> Regime:
    """The regime of a configuration with its exits placed; ValueError where weights or epochs do not fit it."""
    from eeasr_modules.models.losses import exit_weights

    weights = tuple(exit_weights(config.exit_weights, len(config.exit_layers)))
    if config.n_epochs == 0:  # nothing is trained: any regime will do
        return Regime("joint", weights, n_epochs=0)
    return Regime(config.regime, weights, n_epochs=config.n_epochs, first_share=config.first_step_share)


def alphas_of(config: Config) -> tuple[float, ...]:
    """`distill_alpha` of each exit; ValueError where the list does not fit."""
    alphas, n_exits = config.distill_alpha, len(config.exit_layers)
    if not isinstance(alphas, list):
        return (float(alphas),) * n_exits
    if len(alphas) != n_exits or max(alphas) > 1:
        raise ValueError(f"distill_alpha must be {n_exits} numbers from 0 to 1, one for each exit, got {alphas}")
    return tuple(map(float, alphas))
