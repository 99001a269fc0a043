"""Fitted models on disk, beside the `policy.json` that names them: `<name>.json`, and `<name>.npz` for large arrays.

Nothing is run on reading: JSON, and arrays of numbers without pickle.
"""

import hashlib
import json
import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from eeasr_modules.exits.fitted import KINDS, FittedModel

FITTED_VERSION = 1


def write_fitted(folder: str | Path, model: FittedModel) -> str:
    """Write a fitted model; its JSON file appears last and only when everything is whole.

    Arguments
    ---------
    folder : str or Path
        Where; made if needed.
    model : FittedModel
        What to write.

    Returns
    -------
    str
        Digest of what was written, for `read_fitted` to compare with.
    """
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
        aside = folder / f"{model.name}.npz.tmp"
        with aside.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(aside, folder / f"{model.name}.npz")
    aside = folder / f"{model.name}.json.tmp"
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, folder / f"{model.name}.json")
    return _text_digest(text)


def read_fitted(
    folder: str | Path, name: str, *, model_digest: str | None = None, digest: str | None = None
) -> FittedModel:
    """A fitted model that `write_fitted` wrote.

    Arguments
    ---------
    folder : str or Path
        Where it is.
    name : str
        A key of `KINDS`.
    model_digest : str or None
        The recogniser that it is to decide for; None does not ask.
    digest : str or None
        What `write_fitted` returned; None does not ask.

    Returns
    -------
    FittedModel

    Raises
    ------
    FileNotFoundError
        When a file is not there.
    ValueError
        When it is none of this version, is another than was asked for, or was fitted on another recogniser.
    """
    if name not in KINDS:
        raise ValueError(f"a fitted policy must be one of {', '.join(KINDS)}, got {name!r}")
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no fitted model of the policy {name} at {path}; calibrate it on a dev table")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        version, theirs = content["schema_version"], content["model_digest"]
        if version != FITTED_VERSION or content["name"] != name:
            raise ValueError(
                f"{path} must hold {name} of version {FITTED_VERSION}, got {content['name']} of version {version}"
            )
        arrays = _read_arrays(path.with_suffix(".npz"), content["arrays_digest"])
        model = KINDS[name].load().from_content(content, arrays)
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
