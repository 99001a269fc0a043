"""Checks of the keys that make an encoder cheaper: layers left out, shorter input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eeasr_modules.training.config import Config


def kept_depth(config: Config, n_layers: int) -> int:
    """Layers of the encoder once `keep_layers` has taken the last ones of `n_layers` off.

    Raises
    ------
    ValueError
        If there are fewer than `keep_layers`, or the exits do not end with the last that is left.
    """
    kept, exit_layers = config.keep_layers, config.exit_layers
    if kept is None:
        return n_layers
    if kept > n_layers:
        raise ValueError(f"keep_layers must be at most {n_layers} (the encoder's layers), got {kept}")
    if not isinstance(exit_layers, str) and exit_layers[-1:] != [kept]:
        raise ValueError(
            f"exit_layers must rise and end at {kept} (keep_layers, the last layer that is left), got {exit_layers}"
        )
    return kept


def check_kept_conformer(config: Config) -> None:
    """ValueError where `keep_layers` has no trained Conformer to take layers off."""
    if config.keep_layers is not None and config.init_from is None:
        raise ValueError(
            f"keep_layers: {config.keep_layers} leaves out layers of a trained encoder and needs init_from, a model "
            f"folder to start from; for a small encoder from scratch give n_layers: {config.keep_layers}"
        )


def check_upsample(config: Config) -> None:
    """ValueError where `upsample` has nothing to make good, or somebody who counts frames otherwise."""
    if not config.upsample:
        return
    if config.downsample is None:
        raise ValueError(
            "upsample: true gives back the frames that downsample takes away, but downsample is null: leave one out"
        )
    if config.attention_decoder:
        raise ValueError(
            "upsample: true is for CTC, which needs a frame for every token; an attention decoder needs none: give "
            "attention_decoder: false or upsample: false"
        )


def check_cheaper_start(config: Config, start: dict) -> None:
    """ValueError where the model of `init_from`, with the config `start`, cannot become the one of the YAML."""
    before = {"downsample": None, "downsample_factor": 2, **start["encoder"], "upsample": start.get("upsample", False)}
    if before["downsample"] is not None:
        names = ("downsample", "downsample_factor", *(["upsample"] if before["upsample"] else []))
        for name in names:
            if before[name] != config.values[name]:
                raise ValueError(
                    f"init_from '{config.init_from}' is a model with {name} {before[name]}, but the YAML has {name} "
                    f"{config.values[name]}: they must be the same"
                )
    changed = [name for name in ("downsample", "upsample") if before[name] != config.values[name]]
    if config.n_epochs == 0 and (changed or config.keep_layers is not None):
        raise ValueError(
            f"n_epochs: 0 only evaluates, but keep_layers, downsample or upsample makes another model of init_from "
            f"'{config.init_from}': train it, or leave them null"
        )


def check_teacher_input(config: Config, folder: Path) -> None:
    """ValueError where the teacher in `folder` hears its input at another length, and so gives other frames."""
    teacher = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    theirs = teacher.get("encoder", {})
    ours = (config.downsample, config.downsample_factor if config.downsample else None, config.upsample)
    before = theirs.get("downsample")
    given = (before, theirs.get("downsample_factor", 2) if before else None, teacher.get("upsample", False))
    if theirs.get("encoder") == config.encoder and ours != given:
        raise ValueError(
            f"distill '{folder}' is a teacher with downsample {given[0]}, downsample_factor {given[1]} and upsample "
            f"{given[2]}, this run has {ours[0]}, {ours[1]} and {ours[2]}: frames are compared one by one, so they "
            "must be the same"
        )
