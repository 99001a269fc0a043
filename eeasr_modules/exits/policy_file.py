"""Calibrated policies on disk: the `policy.json` of a model folder, and the fitted models that it names beside it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.exits.calibration import Calibrated
from eeasr_modules.exits.curve import Curve
from eeasr_modules.exits.drift import DriftReference
from eeasr_modules.exits.fitted import FittedModel
from eeasr_modules.exits.fitted_file import read_fitted, write_fitted
from eeasr_modules.exits.fitting import models_of, with_models
from eeasr_modules.exits.policy_text import parse_policy

POLICIES_VERSION = 1


def write_policies(path: str | Path, calibrated: Sequence[Calibrated], *, default: str | None = None) -> None:
    """Write calibrated policies as JSON; the file appears only when it is whole, its fitted models before it.

    Arguments
    ---------
    path : str or Path
        Such as `policy.json` in a model folder.
    calibrated : sequence of Calibrated
        At least one.
    default : str or None
        Text of the policy that decides where none is named; None takes the first.
    """
    if not calibrated:
        raise ValueError(f"{path} must hold at least one policy, got none")
    path = Path(path)
    default = default or str(calibrated[0].policy)
    parse_policy(default)
    content = {
        "schema_version": POLICIES_VERSION,
        "policy": default,
        "model_digest": calibrated[0].calibrated_on.get("model_digest"),
        "fitted": {name: write_fitted(path.parent, model) for name, model in _models(path, calibrated).items()},
        "policies": [_entry(item) for item in calibrated],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)


def read_policies(path: str | Path, *, model_digest: str | None = None) -> list[Calibrated]:
    """Calibrated policies from a file that `write_policies` wrote; the default one first.

    Arguments
    ---------
    path : str or Path
        The file.
    model_digest : str or None
        The recogniser that they are to decide for; None does not ask.

    Returns
    -------
    list of Calibrated

    Raises
    ------
    FileNotFoundError
        When there is no such file, or a fitted model is not beside it.
    ValueError
        When it does not hold policies of this version, or those of another recogniser.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no calibrated policies at {path}; calibrate on a dev table first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
        theirs, default = content["model_digest"], content["policy"]
        fitted = dict(content.get("fitted", {}))  # files of before there were fitted policies have none
        entries = content["policies"]
        items = [_from_entry(entry, {}) for entry in entries]
    except (json.JSONDecodeError, KeyError, TypeError) as err:
        raise ValueError(f"{path} must hold calibrated policies as write_policies leaves them, got {err!r}") from err
    if version != POLICIES_VERSION:
        raise ValueError(f"{path} must be of version {POLICIES_VERSION}, got {version}")
    if model_digest is not None and theirs is not None and theirs != model_digest:
        raise ValueError(
            f"{path} was calibrated on the exits of model {theirs}, but this is model {model_digest}; calibrate on a "
            f"dev table of this model"
        )
    if fitted:
        models = {
            name: read_fitted(path.parent, name, model_digest=model_digest, digest=digest)
            for name, digest in fitted.items()
        }
        items = [_from_entry(entry, models) for entry in entries]
    return sorted(items, key=lambda item: str(item.policy) != default)


def _models(path: Path, calibrated: Sequence[Calibrated]) -> dict[str, FittedModel]:
    """Every fitted model that the policies need, by name."""
    found: dict[str, FittedModel] = {}
    for item in calibrated:
        for name, model in models_of(item.policy).items():
            if found.setdefault(name, model) is not model:
                raise ValueError(
                    f"{path} holds one fitted model of each name, but {name} comes with several; calibrate all on the "
                    f"same dev table"
                )
    return found


def _entry(item: Calibrated) -> dict[str, Any]:
    points = zip(item.grid.policies, item.grid.cost.tolist(), item.grid.wer.tolist())
    return {
        "policy": str(item.policy),
        "open_policy": str(item.open_policy),
        "rule": item.rule,
        "cost": item.cost,
        "dev_cost": item.dev_cost,
        "dev_wer": item.dev_wer,
        "calibrated_on": item.calibrated_on,
        "grid": [{"policy": str(policy), "cost": cost, "wer": wer} for policy, cost, wer in points],
        "drift": None if item.drift is None else {"signal": item.drift.signal, "scores": item.drift.scores},
        "promise": item.promise,
    }


def _from_entry(entry: dict[str, Any], models: Mapping[str, FittedModel]) -> Calibrated:
    grid, drift = entry["grid"], entry.get("drift")  # files of before there was a watch have none
    return Calibrated(
        policy=with_models(parse_policy(entry["policy"]), models),
        open_policy=parse_policy(entry["open_policy"]),
        rule=entry["rule"],
        cost=entry["cost"],
        dev_cost=entry["dev_cost"],
        dev_wer=entry["dev_wer"],
        grid=Curve(
            tuple(with_models(parse_policy(point["policy"]), models) for point in grid),
            np.array([point["cost"] for point in grid]),
            np.array([point["wer"] for point in grid]),
        ),
        calibrated_on=entry["calibrated_on"],
        drift=None if drift is None else DriftReference(drift["signal"], tuple(drift["scores"])),
        promise=entry.get("promise"),  # files of before certificates said what they rest on have none
    )
