"""Hugging Face speech checkpoints of a few thousand weights, saved to disk as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path

SHAPE = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]


def save_checkpoint(folder: Path, *, kind: str = "wavlm", n_layers: int = 4, ctc: bool = False, **shape) -> Path:
    """A checkpoint of random weights, with `ctc` a `...ForCTC` one with LibriSpeech's usual vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCTC, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    settings = {**SHAPE, "num_hidden_layers": n_layers, "pad_token_id": 0, "vocab_size": len(LETTERS), **shape}
    config = AutoConfig.for_model(kind, **settings)
    model = (AutoModelForCTC if ctc else AutoModel).from_config(config)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    if ctc:
        vocabulary = {token: index for index, token in enumerate(LETTERS)}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


def write_settings(folder: Path, *, n_layers: int) -> Path:
    """A checkpoint's `config.json` alone: enough for the checks that come before a model is built."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**SHAPE, "model_type": "wavlm", "num_hidden_layers": n_layers}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def write_start(folder: Path, *, exit_layers: list[int], corpus: str = "LibriSpeech") -> Path:
    """The `config.json` of a trained model folder: enough for the checks of `init_from`."""
    folder.mkdir(parents=True, exist_ok=True)
    hf_config = {**SHAPE, "model_type": "wavlm", "num_hidden_layers": exit_layers[-1]}
    encoder = {"encoder": "huggingface", "source": "microsoft/wavlm-base-plus", "hf_config": hf_config}
    settings = {"encoder": encoder, "exit_layers": exit_layers, "corpus": corpus}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def write_start_of(folder: Path, values: dict) -> Path:
    """As `write_start`, a model of the shape that flat YAML `values` describe."""
    if values["encoder"] == "huggingface":
        return write_start(folder, exit_layers=[2, 4, 6, 8, 10, 12])
    folder.mkdir(parents=True, exist_ok=True)
    shape = ("encoder", "n_layers", "dim", "n_heads", "ffn_dim", "kernel_size", "n_mels", "sample_rate")
    encoder = {name: values[name] for name in shape}
    settings = {"encoder": encoder, "exit_layers": values["exit_layers"], "corpora": [values["corpus"]]}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder
