"""Calibrated policies on disk: the `policy.json` of a model folder."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.exits.calibration import Calibrated
from eeasr_modules.exits.curve import Curve
from eeasr_modules.exits.policy_text import parse_policy

POLICIES_VERSION = 1


def write_policies(path: str | Path, calibrated: Sequence[Calibrated], *, default: str | None = None) -> None:
    """Write calibrated policies as JSON; the file appears only when it is whole.

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
        "policies": [_entry(item) for item in calibrated],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)


def read_policies(path: str | Path) -> list[Calibrated]:
    """Calibrated policies from a file that `write_policies` wrote; the default one first.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    list of Calibrated

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it does not hold policies of this version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no calibrated policies at {path}; calibrate on a dev table first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
        entries = [_from_entry(entry) for entry in content["policies"]]
        default = content["policy"]
    except (json.JSONDecodeError, KeyError, TypeError) as err:
        raise ValueError(f"{path} must hold calibrated policies as write_policies leaves them, got {err!r}") from err
    if version != POLICIES_VERSION:
        raise ValueError(f"{path} must be of version {POLICIES_VERSION}, got {version}")
    return sorted(entries, key=lambda item: str(item.policy) != default)


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
    }


def _from_entry(entry: dict[str, Any]) -> Calibrated:
    grid = entry["grid"]
    return Calibrated(
        policy=parse_policy(entry["policy"]),
        open_policy=parse_policy(entry["open_policy"]),
        rule=entry["rule"],
        cost=entry["cost"],
        dev_cost=entry["dev_cost"],
        dev_wer=entry["dev_wer"],
        grid=Curve(
            tuple(parse_policy(point["policy"]) for point in grid),
            np.array([point["cost"] for point in grid]),
            np.array([point["wer"] for point in grid]),
        ),
        calibrated_on=entry["calibrated_on"],
    )
