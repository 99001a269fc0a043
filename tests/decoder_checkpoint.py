"""Tiny checkpoints of Moonshine and Whisper with decoder and tokenizer, saved to disk as transformers saves them."""

import torch
from small_checkpoints import strong
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from eeasr_modules.models.encoders.own_decoder import WHISPER_BEGINS

LONG = {False: {"max_source_positions": 60}, True: {"max_source_positions": 1500}}
TEXT = "Yes no maybe five it is so then and we go on " * 3 + "Yes I do maybe"
SPECIAL = {"moonshine": ["<pad>", "<s>", "</s>"], "whisper": ["<|endoftext|>", *WHISPER_BEGINS]}
SHAPE = {
    "moonshine": {"hidden_size": 24, "intermediate_size": 48, "encoder_num_hidden_layers": 3}
    | {"decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2}
    | {"max_position_embeddings": 32},
    "whisper": {"d_model": 24, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
    | {
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 48,
    }
    | {"num_mel_bins": 80, "max_target_positions": 32, "max_length": 32},
}


def tokenizer_of(kind):
    """Pairs of bytes as Whisper writes them, or SentencePiece's as Moonshine does, learnt from a few words."""
    tokenizer = Tokenizer(models.BPE())
    if kind == "whisper":
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
    else:
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = [] if kind == "whisper" else SPECIAL[kind]  # Whisper's come behind its words
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=60, special_tokens=special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=SPECIAL[kind])


def checkpoint(kind, folder, *, long=False):
    """A tiny one of random weights that says something else of every recording; `long`: with Whisper's 30 s."""
    torch.manual_seed(2)
    tokenizer = tokenizer_of(kind)
    names = tokenizer.get_vocab()
    start, end = (
        (names[SPECIAL[kind][i]] for i in (1, 2))
        if kind == "moonshine"
        else (
            names["<|startoftranscript|>"],
            names["<|endoftext|>"],
        )
    )
    ids = {"pad_token_id": end, "bos_token_id": start, "eos_token_id": end, "decoder_start_token_id": start}
    ids |= {"vocab_size": len(names), "tie_word_embeddings": False}
    if kind == "moonshine":
        model = MoonshineForConditionalGeneration(MoonshineConfig(**SHAPE[kind], **ids))
    else:
        model = WhisperForConditionalGeneration(WhisperConfig(**SHAPE[kind], **LONG[long], **ids))
        model.generation_config.suppress_tokens = [3]
        model.generation_config.begin_suppress_tokens = [5, end]
    model = strong(model, 4.0)
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=2.0)
    for name, weight in model.model.decoder.named_parameters():
        if "encoder_attn" in name and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=1.0)  # what it says depends on what it hears
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
