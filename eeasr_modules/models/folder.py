"""Files of a model folder: weights in 32, 16 or 8 bits, and what stock transformers needs to load and run it.

In 8 bits a matrix keeps, for every row, its largest magnitude / 127 (float32) and the row divided by it, rounded; what
is small or has one dimension keeps 16 bits. Reading gives float32 again, so every use sees the same weights.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from eeasr_modules.common.files import file_digest, write_aside

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SCALE = ".scale"  # behind a tensor's name: one float for each row of the 8-bit tensor
BITS = (32, 16, 8)
SMALLEST = 4096  # elements of a tensor that is worth 8 bits
LARGEST_FILE = 9_500_000  # bytes


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a model folder's weights, in order.

    FileNotFoundError if there is none, or one that the index names is missing.
    """
    folder = Path(folder)
    names = [WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected a model folder with {name} in it, found none in '{folder}'")
    return [folder / name for name in names]


def check_weights(files: Sequence[Path]) -> None:
    """Raise a ValueError that names the first of `files` that is not whole; only their headers are read."""
    from safetensors import SafetensorError, safe_open

    for path in files:
        try:
            with safe_open(str(path), framework="pt"):
                pass
        except SafetensorError as err:
            raise _unreadable(path, err) from err


def _unreadable(path: Path, err: Exception) -> ValueError:
    return ValueError(f"'{path}' cannot be read ({err}): copy it again")


def model_digest(folder: str | Path) -> str:
    """SHA-256 over a model folder's settings and weights: what tables, policies and maps are bound to; in hexadecimal.

    What `config.json` says of the model's use (a policy, keys of transformers) does not count.
    """
    return file_digest(as_hashed((Path(folder) / "config.json").read_bytes()), *weight_files(folder))


def packed(state: dict[str, torch.Tensor], *, bits: int) -> dict[str, torch.Tensor]:
    """A state dictionary as it is stored.

    Example
    -------
    >>> stored = packed({"w": torch.eye(64)}, bits=8)
    >>> stored["w"].dtype, stored["w.scale"].shape, torch.equal(unpacked(stored)["w"], torch.eye(64))
    (torch.int8, torch.Size([64]), True)
    """
    if bits not in BITS:
        raise ValueError(f"weights are stored in {', '.join(map(str, BITS))} bits, got {bits}")
    stored = {}
    for name, value in state.items():
        value = value.detach().cpu()
        if bits == 32 or not value.is_floating_point():
            stored[name] = value.clone()
        elif bits == 16 or value.dim() < 2 or value.numel() < SMALLEST:
            stored[name] = value.half()
        else:
            rows = value.float().flatten(1)
            scale = rows.abs().amax(dim=1).clamp(min=1e-12) / 127
            stored[name] = (rows / scale.unsqueeze(1)).round().to(torch.int8).view_as(value)
            stored[name + SCALE] = scale
    return stored


def unpacked(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dictionary in float32 that `packed` made `stored` of, to its rounding."""
    state = {}
    for name, value in stored.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in stored:
            continue
        scale = stored.get(name + SCALE)
        if scale is not None and value.dtype == torch.int8:
            value = (value.flatten(1).float() * scale.unsqueeze(1)).view_as(value)
        state[name] = value.float() if value.is_floating_point() else value
    return state


def write_weights(model: nn.Module, folder: str | Path, *, bits: int = 32) -> list[Path]:
    """Write a model's weights aside, then rename; files of at most 9.5 MB where they are in 8 bits.

    A tensor that several names share is written once. What an earlier model left in the folder goes.

    Returns: the files, the index last where there is one.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    stored = packed(_once(model), bits=bits)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, value in stored.items():
        n_bytes = value.numel() * value.element_size()
        if bits == 8 and shards[-1] and size + n_bytes > LARGEST_FILE:
            shards.append({})
            size = 0
        shards[-1][name] = value.contiguous()
        size += n_bytes
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, str(folder / name) + ".tmp", metadata={"format": "pt"})
    before = [*folder.glob("model*.safetensors"), *folder.glob(INDEX)]
    for name in names:
        os.replace(str(folder / name) + ".tmp", folder / name)
    if len(names) > 1:
        where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        text = json.dumps({"metadata": {"bits": bits}, "weight_map": where}, indent=1) + "\n"
        write_aside(folder / INDEX, text)
        names.append(INDEX)
    for path in before:
        if path.name not in names:
            path.unlink()
    return [folder / name for name in names]


def _once(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dictionary, each tensor under the first of its names."""
    state, seen = {}, set()
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen or not value.numel():
            state[name] = value
        seen.add(value.data_ptr())
    return state


class Unset(TorchFunctionMode):
    """In this context a module is made without first values, as they are about to be read.

    Example
    -------
    >>> with Unset():
    ...     layer = nn.Linear(2, 3)
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Leave out what `torch.nn.init` does."""
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def read_weights(model: nn.Module, files: Sequence[Path]) -> None:
    """Load the weights that lie in `files` (as `weight_files` lists them) into the model.

    ValueError if a file cannot be read, or they do not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    stored = {}
    for path in files:
        try:
            stored |= load_file(str(path))
        except SafetensorError as err:
            raise _unreadable(path, err) from err
    state, own = unpacked(stored), model.state_dict()
    found = {own[name].data_ptr() for name in state if name in own}
    missing = sorted(name for name, value in own.items() if name not in state and value.data_ptr() not in found)
    try:
        if missing:
            raise RuntimeError(f"missing: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}")
        # as they were read where no tensor has two names, else copied
        unknown = model.load_state_dict(state, strict=False, assign=state.keys() == own.keys()).unexpected_keys
        if unknown:
            raise RuntimeError(f"not in the model: {', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}")
    except RuntimeError as err:
        reasons = [line.strip() for line in str(err).splitlines() if line.strip()]
        more = f" (and {len(reasons) - 2} more)" if len(reasons) > 2 else ""
        raise ValueError(
            f"the weights in '{files[0].parent}' do not fit its config.json: {' '.join(reasons[:2])}{more}"
        ) from err


def is_pretrained_encoder(folder: str | Path) -> bool:
    """Whether `folder` holds an encoder without exits, as `recipes/Pretrain` writes it."""
    config = Path(folder) / "config.json"
    return config.is_file() and "pretraining" in json.loads(config.read_text(encoding="utf-8"))


def pretrained_weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """State dictionary of the encoder in `folder`; FileNotFoundError without its weights."""
    from safetensors.torch import load_file

    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"expected a pretrained encoder with model.safetensors in '{folder}', found none")
    return load_file(str(weights))


MODEL_TYPE = "eeasr"
CODE = "modeling_eeasr"
KEYS = {
    "architectures": ["EarlyExitForCTC"],
    "model_type": MODEL_TYPE,
    "auto_map": {"AutoConfig": f"{CODE}.EarlyExitConfig", "AutoModelForCTC": f"{CODE}.EarlyExitForCTC"},
}
# Top-level keys of config.json that say how it is used, not what the model is.
NOT_THE_MODEL = {*KEYS, "exit_policy", "budget", "dtype", "transformers_version"}
FILES = (f"{CODE}.py", "preprocessor_config.json", "tokenizer_config.json")
REMOTE_CODE = '''"""Lets transformers load this folder: the classes are those of the package eeasr."""

try:
    from eeasr_modules.runtime.transformers_model import EarlyExitConfig, EarlyExitForCTC, SpelledTokenizer
except ImportError as err:
    raise ImportError(
        f"this model leaves early by the package eeasr, which cannot be imported here ({err}): pip install eeasr"
    ) from err

__all__ = ["EarlyExitConfig", "EarlyExitForCTC", "SpelledTokenizer"]
'''


def of_the_model(config: dict) -> dict:
    """The entries of a `config.json` that make the model, without those on its use."""
    return {key: value for key, value in config.items() if key not in NOT_THE_MODEL}


def as_hashed(content: bytes) -> bytes:
    """A `config.json` as its digest sees it: as `MultiExit.save` writes it, without entries on its use.

    Example
    -------
    >>> as_hashed(b'{"n_tokens": 2, "budget": 0.5}') == as_hashed(b'{\\n  "n_tokens": 2\\n}\\n')
    True
    """
    config = json.loads(content)
    own = of_the_model(config)
    return content if len(own) == len(config) else (json.dumps(own, indent=2) + "\n").encode()


def write_transformers_files(folder: str | Path, vocabulary) -> None:
    """Make a model folder one that transformers loads; weights, digest and what else lies there stay."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_aside(folder / "config.json", json.dumps({**config, **KEYS}, indent=2) + "\n")
    # encoders normalise by themselves where their checkpoint does
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "processor_class": "Wav2Vec2Processor",
        "feature_size": 1,
        "sampling_rate": config.get("sample_rate", 16000),
        "padding_value": 0.0,
        "do_normalize": False,
        "return_attention_mask": True,
    }
    contents = (REMOTE_CODE, _json(extractor), _json(_tokenizer(vocabulary)))
    for name, content in zip(FILES, contents, strict=True):
        write_aside(folder / name, content)
    if not (folder / "vocab.json").is_file():  # a SentencePiece model is none that transformers' CTC tokenizer reads
        write_aside(folder / "vocab.json", _json({token: index for index, token in enumerate(vocabulary.tokens)}))


def _json(content: dict) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _tokenizer(vocabulary) -> dict:
    """Settings of transformers' CTC tokenizer; of one of ours where it would not spell these tokens as we do."""
    tokens, spellings, blank_index = vocabulary.tokens, vocabulary.spellings, vocabulary.blank_index
    space = next((token for token, shown in zip(tokens, spellings, strict=True) if shown == " "), " ")
    shown = [" " if token == space else token for i, token in enumerate(tokens) if i != blank_index]
    plain = all(len(one) == 1 for one in shown) and shown == [s for i, s in enumerate(spellings) if i != blank_index]
    settings = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer" if plain else "SpelledTokenizer",
        "pad_token": tokens[blank_index],
        "word_delimiter_token": space,
        "replace_word_delimiter_char": " ",
        "unk_token": None,
        "bos_token": None,
        "eos_token": None,
        "do_lower_case": False,
        "clean_up_tokenization_spaces": False,
    }
    return settings if plain else {**settings, "auto_map": {"AutoTokenizer": [f"{CODE}.SpelledTokenizer", None]}}
