"""Policies on disk: the `policy.json` of a model folder, and beside it the fitted models that it names.

A fitted model is `<name>.json`, and `<name>.npz` for large arrays. Nothing is run on reading: no pickle.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from eeasr_modules.common.files import write_aside
from eeasr_modules.exits.policies.protocol import KINDS, FittedModel, Policy
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.calibration import Calibrated, Curve
from eeasr_modules.exits.tuning.replay import models_of, with_models
from eeasr_modules.exits.tuning.watches import DriftReference

FITTED_VERSION = 1


def write_fitted(folder: str | Path, model: FittedModel) -> str:
    """Write a fitted model; its JSON file appears last and whole. Gives the digest for `read_fitted`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {key: np.asarray(value) for key, value in model.arrays().items()}
    content = {
        "schema_version": FITTED_VERSION,
        "name": model.name,
        "exit_layers": [int(layer) for layer in model.exit_layers],
        "model_digest": model.model_digest,
        "fitted_on": dict(model.fitted_on),
        **model.content(),
        "arrays_digest": _arrays_digest(arrays) if arrays else None,
    }
    text = json.dumps(content, indent=1) + "\n"
    if arrays:
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        write_aside(folder / f"{model.name}.npz", file.getvalue())
    write_aside(folder / f"{model.name}.json", text)
    return _text_digest(text)


def read_fitted(
    folder: str | Path,
    name: str,
    *,
    model_digest: str | None = None,
    digest: str | None = None,
    made_by: Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Any] | None = None,
) -> FittedModel:
    """A fitted model that `write_fitted` wrote.

    FileNotFoundError when a file is not there; ValueError when it is none of this version, is another than was asked
    for, or was fitted on another recogniser. `name`: a key of `KINDS`, unless `made_by` is given. `model_digest`: the
    recogniser that it is to decide for; None does not ask. `digest`: what `write_fitted` returned; None does not ask.
    `made_by`: makes the model of the file's content and arrays; None for the one that `KINDS` names.
    """
    if made_by is None and name not in KINDS:
        raise ValueError(f"a fitted policy must be one of {', '.join(KINDS)}, got {name!r}")
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        what = name if made_by else f"the policy {name}"
        raise FileNotFoundError(f"no fitted model of {what} at {path}; calibrate it on a dev table")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        version, theirs = content["schema_version"], content["model_digest"]
        if version != FITTED_VERSION or content["name"] != name:
            raise ValueError(
                f"{path} must hold {name} of version {FITTED_VERSION}, got {content['name']} of version {version}"
            )
        arrays = _read_arrays(path.with_suffix(".npz"), content["arrays_digest"])
        model = (made_by or KINDS[name].load().from_content)(content, arrays)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as err:
        raise ValueError(f"{path} must hold a fitted model as write_fitted leaves it, got {err!r}") from err
    if digest is not None and digest != _text_digest(text):
        raise ValueError(f"{path} is not the file that was written with its policies; calibrate again, or restore it")
    if model_digest is not None and theirs is not None and theirs != model_digest:
        raise ValueError(
            f"{path} was fitted on the exits of model {theirs}, but this is model {model_digest}; calibrate on a dev "
            f"table of this model"
        )
    return model


def _read_arrays(path: Path, digest: str | None) -> dict[str, np.ndarray]:
    if digest is None:
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"no arrays at {path}, which {path.with_suffix('.json').name} needs; calibrate again")
    try:
        with np.load(path, allow_pickle=False) as stored:  # pickle would run what the file says
            arrays = {key: stored[key] for key in stored.files}
    except (ValueError, OSError, EOFError, AttributeError, BadZipFile) as err:
        raise ValueError(f"{path} must hold arrays of numbers as write_fitted leaves them, got {err!r}") from err
    if _arrays_digest(arrays) != digest:
        raise ValueError(f"{path} does not belong to the {path.with_suffix('.json').name} beside it; calibrate again")
    return arrays


def _arrays_digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(arrays):
        value = np.ascontiguousarray(arrays[key])
        digest.update(f"{key}\x1f{value.dtype.str}\x1f{value.shape}\x1f".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


POLICIES_VERSION = 1


def write_policies(path: str | Path, calibrated: Sequence[Calibrated], *, default: str | None = None) -> None:
    """Write calibrated policies as JSON; the file appears only when it is whole, its fitted models before it.

    `path`: such as `policy.json` in a model folder. `default`: text of the policy that decides where none is named;
    None takes the first.
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
    write_aside(path, json.dumps(content, indent=1) + "\n")


def read_policies(path: str | Path, *, model_digest: str | None = None) -> list[Calibrated]:
    """Calibrated policies from a file that `write_policies` wrote; the default one first.

    FileNotFoundError when there is no such file, or a fitted model is not beside it; ValueError when it does not hold
    policies of this version, or those of another recogniser. `model_digest`: the recogniser that they are to decide
    for; None does not ask.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no calibrated policies at {path}; calibrate on a dev table first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
        theirs, default = content["model_digest"], content["policy"]
        fitted = dict(content.get("fitted", {}))  # files of before there were fitted policies have none
        items = [_from_entry(entry) for entry in content["policies"]]
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
        items = [_with_models(item, models) for item in items]
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


def _with_models(item: Calibrated, models: Mapping[str, FittedModel]) -> Calibrated:
    """The policies with their fitted models."""
    points = _Points(item.grid.policies.texts, models)
    return replace(item, policy=with_models(item.policy, models), grid=replace(item.grid, policies=points))


class _Points(Sequence):
    """Policies of a grid, parsed when asked for: there are thousands, and a recogniser needs one."""

    def __init__(self, texts: Sequence[str], models: Mapping[str, FittedModel]):
        self.texts, self.models = texts, models

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Policy:
        return with_models(parse_policy(self.texts[index]), self.models)


def _from_entry(entry: dict[str, Any]) -> Calibrated:
    grid, drift = entry["grid"], entry.get("drift")  # files of before there was a watch have none
    return Calibrated(
        policy=parse_policy(entry["policy"]),
        open_policy=parse_policy(entry["open_policy"]),
        rule=entry["rule"],
        cost=entry["cost"],
        dev_cost=entry["dev_cost"],
        dev_wer=entry["dev_wer"],
        grid=Curve(
            _Points([point["policy"] for point in grid], {}),
            np.array([point["cost"] for point in grid]),
            np.array([point["wer"] for point in grid]),
        ),
        calibrated_on=entry["calibrated_on"],
        drift=None if drift is None else DriftReference(drift["signal"], tuple(drift["scores"])),
        promise=entry.get("promise"),  # files of before certificates said what they rest on have none
    )
