"""Reading Hugging Face speech checkpoints, by hub id or from a local folder: settings, weights, head, vocabulary."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

SELF_SUPERVISED = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
CONFORMERS = ("wav2vec2-conformer", "wav2vec2-bert")
WITH_DECODER = ("whisper", "moonshine")  # their encoders are taken, their decoders left
KINDS = (*SELF_SUPERVISED, *CONFORMERS, *WITH_DECODER)
WORD_START = "\u2581"  # of a token that is a word of its own, as SentencePiece marks it
DEPTHS = ("encoder_layers", "encoder_num_hidden_layers")  # of Whisper, of Moonshine
DROPOUTS = (
    "dropout",
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "conformer_conv_dropout",
)


@dataclass(frozen=True)
class CTCWeights:
    """The head of a `...ForCTC` checkpoint."""

    weight: torch.Tensor  # (tokens, dim): of the projection
    bias: torch.Tensor  # (tokens,): of the projection
    blank_index: int  # the checkpoint's pad token


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a checkpoint."""

    model: nn.Module  # the bare encoder, float32, in eval mode
    # the checkpoint's own settings, ready for JSON; enough to build the encoder again without the checkpoint
    hf_config: dict
    ctc: CTCWeights | None  # its CTC head, if it has one
    normalise_wavs: bool  # whether it wants waveforms of zero mean and unit variance
    sample_rate: int  # Hz


def _said(error: Exception) -> str:
    """An error's first sentence, on one line."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")


def checkpoint_config(source: str):
    """The settings of a speech checkpoint (a transformers configuration); no weights are read.

    ValueError if it cannot be had, or its encoder is of none of `KINDS`.
    """
    from transformers import AutoConfig

    path = Path(source) / "config.json"
    if path.is_file() and "exit_layers" in path.read_text(encoding="utf-8"):
        raise ValueError(f"'{source}' is a model folder with exits, no checkpoint: give it as init_from")
    try:
        offline = not _within_reach(source)
        config = AutoConfig.from_pretrained(source, local_files_only=offline, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as err:
        raise ValueError(
            f"no checkpoint '{source}': expected a local folder with a config.json or the id of a model on the hub, "
            f"and a network or a cached copy for the latter ({_said(err)})"
        ) from err
    return check_kind(config, source)


def _within_reach(source: str) -> bool:
    """Whether the hub answers, asked once: transformers itself would try for 23 s before it says that it does not."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if Path(source).is_dir():
        return True
    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json"), timeout=10)
    except (HfHubHTTPError, HFValidationError):  # it answers: no such model, not for us, not an id
        return True
    except Exception:  # what its HTTP library raises without a network; which library that is changes with its version
        return False
    return True


def check_kind(config, source: str | None):
    """`config`, or ValueError if it does not describe an encoder that the walk knows."""
    if config.model_type in ("sew", "sew-d"):
        raise ValueError(
            f"'{source}' is a '{config.model_type}' model: its layers run at fewer frames than its head reads, behind "
            f"an upsampling after the last one, which exits cannot follow; expected one of {', '.join(KINDS)}"
        )
    if config.model_type not in KINDS:
        raise ValueError(f"'{source}' is a '{config.model_type}' model; expected a speech encoder: {', '.join(KINDS)}")
    if getattr(config, "add_adapter", False):
        raise ValueError(f"'{source}' has an adapter that shortens its output (add_adapter), which exits cannot follow")
    if getattr(config, "use_intermediate_ffn_before_adapter", False):
        raise ValueError(
            f"'{source}' has a part behind its last layer (use_intermediate_ffn_before_adapter) that is unknown"
        )
    return config


def is_ctc(config) -> bool:
    """Whether a checkpoint was saved with a CTC head."""
    return any(name.endswith("ForCTC") for name in config.architectures or [])


def as_json(config) -> dict:
    """A transformers configuration as a plain dict of everything that shapes the encoder."""
    values = json.loads(config.to_json_string(use_diff=False))
    for name in ("dtype", "torch_dtype", "id2label", "label2id", "_name_or_path", "task_specific_params"):
        values.pop(name, None)
    return values


def ours(config, *, dropout: float | None):
    """`config` with transformers' own LayerDrop and SpecAugment off (the adapter has its own) and our dropout."""
    for name in ("layerdrop", "encoder_layerdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    config.apply_spec_augment = False
    if dropout is not None:
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, dropout)
    return config


def check_attention(config, attention: str | None) -> None:
    """ValueError if the model has no such implementation of attention."""
    known = ("eager",) if config.model_type == "wavlm" else ("eager", "sdpa")
    if attention is not None and attention not in known:
        raise ValueError(f"a {config.model_type} encoder has attention {' or '.join(known)}, got {attention!r}")


@contextlib.contextmanager
def quiet():
    """No progress bars and load reports from transformers; what matters of the latter is checked."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def read_checkpoint(
    source: str, *, attention: str | None, dropout: float | None, target_lang: str | None = None
) -> Checkpoint:
    """Encoder, CTC head and input conventions of a checkpoint.

    ValueError: see `checkpoint_config`; also if encoder weights are missing from the checkpoint.
    """
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    config = checkpoint_config(source)
    check_attention(config, attention)
    if target_lang is not None and (not is_ctc(config) or getattr(config, "adapter_attn_dim", None) is None):
        raise ValueError(f"target_lang must be null: checkpoint '{source}' has no adapters for languages")
    hf_config = as_json(config)
    kind = _class_of(config)
    try:
        with quiet():
            model, found = kind.from_pretrained(
                source,
                config=ours(config, dropout=dropout),
                attn_implementation=attention,
                dtype=torch.float32,
                output_loading_info=True,
            )
            if target_lang is not None:
                model.load_adapter(target_lang, use_safetensors=True)  # also gives the head its size
    except UnpicklingError as err:
        raise ValueError(
            f"the weights of checkpoint '{source}' are a pickle that holds more than tensors and may run code when "
            "it is read, which is refused: save them as safetensors where you trust them"
        ) from err
    except (OSError, ValueError, RuntimeError, SafetensorError) as err:
        raise ValueError(f"the weights of checkpoint '{source}' cannot be read: {_said(err)}") from err
    if config.model_type in WITH_DECODER:
        model = OnlyEncoder(getattr(model, "encoder", model))
        found["missing_keys"] = [name for name in found["missing_keys"] if not name.startswith("decoder.")]
    missing = sorted(name for name in found["missing_keys"] if not name.endswith("masked_spec_embed"))
    if missing:
        raise ValueError(f"checkpoint '{source}' lacks weights of the model it names, the first is {missing[0]}")
    ctc = None
    if is_ctc(config):
        head = model.lm_head
        ctc = CTCWeights(head.weight.detach().clone(), head.bias.detach().clone(), config.pad_token_id)
        model = getattr(model, model.base_model_prefix)
    normalise, sample_rate = (False, 16000) if config.model_type in WITH_DECODER else input_conventions(source)
    if config.model_type == "wav2vec2-bert":
        _check_log_mels(source, config.feature_projection_input_dim)
        normalise = False  # its features are normalised instead
    return Checkpoint(model.eval(), hf_config, ctc, normalise, sample_rate)


class OnlyEncoder(nn.Module):
    """The encoder of a model that has a decoder too, where the bare self-supervised models have theirs."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder, self.config = encoder, encoder.config

    def forward(self, inputs: torch.Tensor):
        """What the encoder itself gives."""
        return self.encoder(inputs)


def _class_of(config) -> type:
    """The class of transformers that reads a checkpoint."""
    from transformers import AutoModel, AutoModelForCTC

    if config.model_type in WITH_DECODER and (config.architectures or [""])[0].endswith("Encoder"):
        return _encoder_class(config.model_type)  # saved without its decoder
    return AutoModelForCTC if is_ctc(config) else AutoModel


def _encoder_class(model_type: str) -> type:
    if model_type == "whisper":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder
    from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

    return MoonshineEncoder


def input_conventions(source: str) -> tuple[bool, int]:
    """(zero mean and unit variance wanted, Hz) as the feature extractor says; transformers' defaults without one."""
    from transformers import Wav2Vec2FeatureExtractor

    try:
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(source)
    except (OSError, ValueError):
        extractor = Wav2Vec2FeatureExtractor()
    return bool(extractor.do_normalize), int(extractor.sampling_rate)


def _check_log_mels(source: str, width: int) -> None:
    """ValueError if a wav2vec2-bert hears other features than ours: two log-mel frames of 10 ms, `width` in all."""
    from transformers import SeamlessM4TFeatureExtractor

    kind = SeamlessM4TFeatureExtractor
    try:
        said = kind.get_feature_extractor_dict(source)[0]
    except (OSError, ValueError):  # none is there
        return
    ours = {"feature_extractor_type": kind.__name__, "num_mel_bins": width / 2, "stride": 2, "sampling_rate": 16000}
    other = [
        f"{name} {said[name]}, not {value:g}" if name != "feature_extractor_type" else f"a {said[name]}"
        for name, value in ours.items()
        if said.get(name, value) != value
    ]
    if other:
        raise ValueError(
            f"the feature extractor of checkpoint '{source}' makes features that this encoder does not compute "
            f"({'; '.join(other)}): expected a {kind.__name__} as transformers saves it for this encoder"
        )


def build_bare(hf_config: dict, *, attention: str | None, dropout: float | None) -> nn.Module:
    """The encoder that `hf_config` describes, with random weights."""
    from transformers import AutoConfig, AutoModel

    values = dict(hf_config)
    config = check_kind(AutoConfig.for_model(values.pop("model_type"), **values), "hf_config")
    check_attention(config, attention)
    of_encoder = _encoder_class(config.model_type)._from_config if config.model_type in WITH_DECODER else None
    with torch._C.DisableTorchFunction():  # the self-test needs values, also where `folder.Unset` leaves them out
        if of_encoder is not None:
            return OnlyEncoder(of_encoder(ours(config, dropout=dropout), attn_implementation=attention))
        return AutoModel.from_config(ours(config, dropout=dropout), attn_implementation=attention, dtype=torch.float32)


def cut(model: nn.Module, hf_config: dict, *, keep_layers: int | None) -> dict:
    """`hf_config` of the encoder with its first `keep_layers` layers only (None: all); the others leave `model`.

    ValueError if it has fewer.
    """
    if keep_layers is None:
        return hf_config
    n_layers = len(model.encoder.layers)
    if not 1 <= keep_layers <= n_layers:
        raise ValueError(f"keep_layers must lie between 1 and {n_layers} (the encoder's layers), got {keep_layers}")
    del model.encoder.layers[keep_layers:]
    name = _depth_name(hf_config)
    setattr(model.config, name, keep_layers)
    return {**hf_config, name: keep_layers}


def _depth_name(hf_config: dict) -> str:
    """The setting that holds the number of layers; a Moonshine's `num_hidden_layers` are its decoder's."""
    return next((name for name in DEPTHS if name in hf_config), "num_hidden_layers")


def shape_of(hf_config: dict) -> dict[str, int]:
    """`n_layers` and `dim` of the encoder that a checkpoint's settings describe."""
    width = "d_model" if "d_model" in hf_config else "hidden_size"
    return {"n_layers": hf_config[_depth_name(hf_config)], "dim": hf_config[width]}


def _shown(languages: list[str]) -> str:
    """The first ten names, and how many more there are."""
    if not languages:
        return "it has one only"
    return ", ".join(languages[:10]) + (f" and {len(languages) - 10} more" if len(languages) > 10 else "")


def checkpoint_vocabulary(source: str, *, target_lang: str | None = None) -> list[str] | None:
    """Tokens of a `...ForCTC` checkpoint in the order of their ids; None if the checkpoint has no CTC head.

    The blank (the checkpoint's pad token) is called `<pad>`, the space between words `|`, other specials `<...>`, so
    that `data.text.CharVocabulary` reads the list as it is. Of a phoneme checkpoint each token is a word of its own and
    begins with `▁`. An id of the head that no token claims is `<unused_id>`.

    `target_lang`: language, where the checkpoint has a vocabulary for each of several (MMS). ValueError if the
    checkpoint cannot be had, its tokenizer does not belong to its head, or the language is none of its.
    """
    from transformers import Wav2Vec2CTCTokenizer

    config = checkpoint_config(source)
    if not is_ctc(config):
        return None
    settings, ids = (_json_of(source, name) for name in ("tokenizer_config.json", "vocab.json"))
    if ids is None:
        raise ValueError(
            f"checkpoint '{source}' has a CTC head but no readable vocab.json: copy its tokenizer's files into it, or "
            "give tokens: unigram, for which its head is not needed"
        )
    languages = sorted(name for name, value in ids.items() if isinstance(value, dict))
    if target_lang is not None and target_lang not in languages:
        raise ValueError(
            f"target_lang must be null or a language of checkpoint '{source}' ({_shown(languages)}), "
            f"got {target_lang!r}"
        )
    if languages and target_lang is None:
        raise ValueError(
            f"checkpoint '{source}' has a head and a vocabulary for each of several languages ({_shown(languages)}): "
            "choose one by target_lang, or give tokens: unigram, for which no head is needed"
        )
    try:
        with quiet():
            chosen = {} if target_lang is None else {"target_lang": target_lang}
            tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(source, **chosen)
        by_token = tokenizer.get_vocab()
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as err:
        raise ValueError(f"checkpoint '{source}' has a CTC head but no readable vocab.json: {_said(err)}") from err
    if by_token.get(tokenizer.pad_token) != config.pad_token_id:
        raise ValueError(
            f"checkpoint '{source}': expected its pad token to be the blank of its CTC head, id {config.pad_token_id}, "
            f"got {tokenizer.pad_token!r} with id {by_token.get(tokenizer.pad_token)}"
        )
    phones = "Phoneme" in str((settings or {}).get("tokenizer_class")) or "phone_delimiter_token" in (settings or {})
    space = None if phones else tokenizer.word_delimiter_token
    n_tokens = config.vocab_size if target_lang is None else max(ids[target_lang].values()) + 1
    tokens = [f"<unused_{index}>" for index in range(n_tokens)]
    for token, index in by_token.items():
        if index < len(tokens) and index != config.pad_token_id:  # a tokenizer may add <s> and </s> beyond the head
            tokens[index] = "|" if token == space else _named(token, index, taken=by_token, phones=phones)
    tokens[config.pad_token_id] = "<pad>"
    return tokens


def _json_of(source: str, name: str) -> dict | None:
    """A JSON file of a checkpoint; None where it has none, or none that can be read."""
    from transformers.utils import cached_file

    try:
        path = cached_file(
            source,
            name,
            local_files_only=not _within_reach(source),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        read = None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def _named(token: str, index: int, *, taken, phones: bool) -> str:
    """`[UNK]` as `<unk>`, or with its id where that is another token; a phone with a word's beginning."""
    bracketed = len(token) > 2 and token.startswith("[") and token.endswith("]")
    if bracketed:
        name = f"<{token[1:-1].lower()}>"
        return f"<{token[1:-1].lower()}_{index}>" if name in (*taken, "<pad>") else name
    special = len(token) > 1 and token.startswith("<") and token.endswith(">")
    if token == "<pad>":
        return f"<pad_{index}>"  # another is the blank
    return token if special or not phones else f"{WORD_START}{token}"
