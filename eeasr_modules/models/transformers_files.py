"""What a model folder holds besides our own files, so that stock transformers loads and runs it.

`config.json` gets a few keys, which belong to transformers and not to the model (its digest leaves them out);
`modeling_eeasr.py` fetches the classes from this package; tokenizer and feature extractor are described by a file each.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from eeasr_modules.common.files import write_aside

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


def write_transformers_files(
    folder: str | Path, tokens: Sequence[str], *, spellings: Sequence[str], blank_index: int
) -> None:
    """Make a model folder one that transformers loads; its weights and what else lies there stay.

    Arguments
    ---------
    folder : str or Path
        With our `config.json` in it; an `exit_policy` and a `budget` in it stay.
    tokens, spellings : sequence of str
        Of the model's vocabulary.
    blank_index : int
        Index of blank.
    """
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
    contents = (REMOTE_CODE, _json(extractor), _json(_tokenizer(tokens, spellings, blank_index)))
    for name, content in zip(FILES, contents, strict=True):
        write_aside(folder / name, content)
    if not (folder / "vocab.json").is_file():  # a SentencePiece model is none that transformers' CTC tokenizer reads
        write_aside(folder / "vocab.json", _json({token: index for index, token in enumerate(tokens)}))


def _json(content: dict) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _tokenizer(tokens: Sequence[str], spellings: Sequence[str], blank_index: int) -> dict:
    """Settings of transformers' CTC tokenizer; of one of ours where it would not spell these tokens as we do."""
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
