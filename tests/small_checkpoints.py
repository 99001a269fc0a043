"""Tiny checkpoints of every kind that the walk follows, with weights large enough that a mistake shows."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.walk import Walk

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.05,  # as published checkpoints have it
    "layerdrop": 0.1,
}
BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "num_conv_pos_embeddings": 16}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_conv_pos_embeddings": 16}
DATA2VEC = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 7}
CHECKPOINTS = {
    **{f"{kind}-{size}": (kind, shape) for kind in ("wav2vec2", "hubert", "wavlm") for size, shape in
       (("base", BASE), ("large", LARGE))},
    "data2vec-audio": ("data2vec-audio", DATA2VEC),
    "unispeech-sat-base": ("unispeech-sat", BASE),
    "unispeech-sat-large": ("unispeech-sat", LARGE),
    "unispeech-large": ("unispeech", LARGE),
}  # fmt: skip


def config_of(kind, shape):
    values = {**TINY, **shape}
    dropouts = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
    return AutoConfig.for_model(kind, **values, **dict.fromkeys(dropouts, 0.1))


def strong(model, factor=3.0):
    """The model with weights large enough that a mistake shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny checkpoints on disk, by name."""
    made = {}
    for name, (kind, shape) in CHECKPOINTS.items():
        torch.manual_seed(1)
        made[name] = str(tmp_path_factory.mktemp(name))
        strong(AutoModel.from_config(config_of(kind, shape))).save_pretrained(made[name])
    return made


def encoder_from(folder, **settings):
    """An encoder of ours from a checkpoint's folder."""
    return build_encoder({"encoder": "huggingface", "source": folder, **settings}).eval()


def walked(encoder, wavs, n_samples):
    """What every layer shows, and how many frames of it count."""
    walk = Walk(encoder, wavs, n_samples)
    return [walk.advance(layer) for layer in range(1, encoder.n_layers + 1)], walk.n_frames
