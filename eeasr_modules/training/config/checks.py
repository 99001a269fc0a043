"""Checks of the keys that say which encoder, decoder, regime and other sets, and what they amount to.

Data beside the corpus that a YAML names first:

    also_<corpus>[_<name>]_folder, _train_splits, _valid_splits, _test_splits    another corpus to train on
    release_<name>_folder, _splits           more of the main corpus to test on, without the speakers of training
    ood_<corpus>[_<name>]_folder, _splits    a corpus that training has not, to test on
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from eeasr_modules.common.keys import Key
from eeasr_modules.exits.policies.protocol import DECODER_SIGNALS
from eeasr_modules.models.encoders import ENCODERS
from eeasr_modules.training.config.keys import PURPOSES, Config, OtherSet
from eeasr_modules.training.schedule import OWN_TEACHERS, Regime


def kept_depth(config: Config, n_layers: int) -> int:
    """Layers of the encoder once `keep_layers` has taken the last ones of `n_layers` off.

    ValueError if there are fewer than `keep_layers`, or the exits do not end with the last that is left.
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


def check_encoder(config: Config) -> None:
    """ValueError where keys of the encoder do not go together, or need weights that it does not start from."""
    kind = ENCODERS[config.encoder]
    if kind.check is not None:
        kind.check(config.values)
    if config.downsample is not None and "downsample" not in kind.arguments:
        raise ValueError(f"downsample: {config.downsample} is not for encoder {config.encoder}: give downsample: null")
    if kind.checkpoint is not None:
        return
    if (config.freeze_encoder or config.regime == "heads_only") and config.init_from is None:
        raise ValueError("freeze_encoder: true trains heads only and needs init_from, a model folder to start from")
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


def decoder_settings(config: Config) -> dict | None:
    """`decoder` of a model's `config.json`; None for CTC exits only.

    ValueError when the decoder's width does not divide.
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


def own_decoder_settings(config: Config) -> dict | None:
    """`own_decoder` of a model's `config.json`; None where the last CTC exit is the deepest.

    ValueError when the checkpoint's own decoder cannot follow this run's encoder, or there is none.
    """
    from eeasr_modules.models.encoders.own_decoder import shape_of_decoder

    if config.values.get("decoder") is None:
        return None
    wanted = {
        "freeze_encoder: true (it does not follow an encoder that has learnt)": not (
            config.freeze_encoder or config.regime == "heads_only"
        ),
        "source, a checkpoint's folder or hub id": config.source is None,
        "init_from, a model folder of this source, or null": (
            config.init_from is not None and not (Path(config.init_from) / "config.json").is_file()
        ),
        "keep_layers: null": config.keep_layers is not None,
        "downsample: null": config.downsample is not None,
        "attention_decoder: false": config.attention_decoder,
        "decoding: greedy": config.decoding != "greedy",
        "decoder_draft: false with decoder_beams above 1": config.decoder_draft and config.decoder_beams > 1,
        "words: exit": config.words != "exit",
    }
    lacking = [name for name, broken in wanted.items() if broken]
    if lacking:
        raise ValueError(f"decoder: own needs {'; '.join(lacking)}")
    source = str(Path(config.source).resolve()) if Path(config.source).is_dir() else config.source
    return {
        "source": source,
        "exit_layer": shape_of_decoder(source).exit_layer(beams=config.decoder_beams),
        **({"beams": config.decoder_beams} if config.decoder_beams > 1 else {}),
        "draft": config.decoder_draft,
        "floor": float(config.decoder_floor),
    }


def all_exit_layers(config: Config) -> list[int]:
    """Layers of the exits, that of the checkpoint's own decoder the last; of a configuration with its exits placed."""
    own = own_decoder_settings(config)
    return [*config.exit_layers, *([] if own is None else [own["exit_layer"]])]


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
    """ValueError where a run without training asks for a decoder that the model of `init_from` does not have."""
    if config.n_epochs == 0 and config.attention_decoder and start.get("decoder") is None:
        raise ValueError(
            f"n_epochs: 0 only evaluates, but init_from '{config.init_from}' has no attention decoder: train one, or "
            "give attention_decoder: false"
        )


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
    from eeasr_modules.training.objectives import exit_weights

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


OTHER_KEY = re.compile(r"(ood|release|also)_([a-z0-9]+(?:_[a-z0-9]+)*?)_(folder|(?:(?:train|valid|test)_)?splits)")


def other_sets(values: dict, corpora: dict[str, Path], *, trained_on: str) -> tuple[OtherSet, ...]:
    """What the `also_`, `release_` and `ood_` keys say, those with a folder, in the order of the YAML.

    ValueError with one sentence: a corpus that there is not, splits without their folder, no split at all.
    """
    found = []
    said = {key: OTHER_KEY.fullmatch(key).groups() for key in values if OTHER_KEY.fullmatch(key)}
    for key, (role, name, what) in sorted(said.items(), key=lambda one: one[1][2] == "folder"):  # splits first
        start = f"{role}_{name}"
        corpus = trained_on if role == "release" else name.split("_")[0]
        if corpus not in corpora:
            raise ValueError(f"{key}: no corpus '{corpus}' under recipes/, there are {', '.join(corpora)}")
        if what != "folder":
            _check_splits(key, values, start, corpora[corpus].name, by_purpose=role == "also")
            continue
        Key(str, optional=True).check(key, values[key])
        if values[key] is not None:
            found.append(OtherSet(name, corpora[corpus].name, values[key], role, **_splits(values, start, role)))
    return tuple(found)


def _check_splits(key: str, values: dict, start: str, corpus: str, *, by_purpose: bool) -> None:
    Key(str, many=True).check(key, values[key])
    if f"{start}_folder" not in values:
        raise ValueError(f"{key} needs {start}_folder beside it, the data that these splits are of")
    if by_purpose == key.endswith(f"{start}_splits"):
        wanted = f"{start}_train_splits, _valid_splits and _test_splits" if by_purpose else f"{start}_splits"
        raise ValueError(f"unknown key {key}: the splits of {start}_folder are said by {wanted}")
    if not by_purpose and not values[key]:
        raise ValueError(f"{key} is empty: it must name at least one split of {corpus}")


def _splits(values: dict, start: str, role: str) -> dict[str, tuple[str, ...]]:
    if role != "also":
        return {"test_splits": tuple(values.get(f"{start}_splits", ["test"]))}
    said = {f"{purpose}_splits": tuple(values.get(f"{start}_{purpose}_splits", [])) for purpose in PURPOSES}
    if not said["train_splits"]:
        raise ValueError(
            f"{start}_folder needs {start}_train_splits, what to train on there; a corpus that is only tested on is "
            f"ood_{start.removeprefix('also_')}_folder"
        )
    return said
