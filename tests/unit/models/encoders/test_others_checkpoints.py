"""Checkpoints as others save them: each kind is read right or refused in one sentence."""

import itertools
import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoint import LETTERS, save_checkpoint
from transformers import AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.models.encoders.front_end import normalised
from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_vocabulary, read_checkpoint
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime import EarlyExitASR

OLD = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny checkpoint as stock transformers saves it today: one `model.safetensors`."""
    return save_checkpoint(tmp_path_factory.mktemp("saved") / "ctc", kind="wav2vec2", n_layers=2, ctc=True)


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def weights_of(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return weights


def last_exit(folder, wav):
    """Log-probs of the last exit, its head the checkpoint's own."""
    encoder = {"encoder": "huggingface", "source": str(folder)}
    config = {"exit_layers": [2], "n_tokens": len(LETTERS), "blank_index": 0, "checkpoint_head": True}
    with torch.no_grad():
        return MultiExit({"encoder": encoder, **config}).eval()(wav[None], torch.tensor([len(wav)]))[0][-1]


@pytest.fixture(scope="module")
def wav():
    return 0.1 + 0.3 * torch.randn(8000, generator=torch.Generator().manual_seed(2))


def old_names(weights):
    for new, old in OLD.items():
        weights = {name.replace(new, old): value for name, value in weights.items()}
    return weights


def as_bin(folder):
    torch.save(weights_of(folder), folder / "pytorch_model.bin")


def as_old_names(folder):
    save_file(old_names(weights_of(folder)), folder / "model.safetensors", metadata={"format": "pt"})


def as_old_bin(folder):
    torch.save(old_names(weights_of(folder)), folder / "pytorch_model.bin")


def in_parts(folder, suffix):
    weights = weights_of(folder)
    names, stem = sorted(weights), "model" if suffix == "safetensors" else "pytorch_model"
    parts = {f"{stem}-0000{i + 1}-of-00003.{suffix}": {name: weights[name] for name in names[i::3]} for i in range(3)}
    for file, part in parts.items():
        if suffix == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    where = {name: file for file, part in parts.items() for name in part}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


WEIGHTS = {
    "only pytorch_model.bin": as_bin,
    "weight_g and weight_v": as_old_names,
    "weight_g and weight_v in pytorch_model.bin": as_old_bin,
    "sharded safetensors": lambda folder: in_parts(folder, "safetensors"),
    "sharded bin": lambda folder: in_parts(folder, "bin"),
}


@pytest.mark.parametrize("way", WEIGHTS)
def test_weights_however_they_lie_give_bitwise_the_same(saved, folder, wav, way):
    WEIGHTS[way](folder)
    assert not (folder / "model.safetensors").exists() or way == "weight_g and weight_v"
    assert torch.equal(last_exit(folder, wav), last_exit(saved, wav))


def test_a_shard_that_is_missing_is_one_sentence(folder):
    in_parts(folder, "safetensors")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"the weights of checkpoint '.*copy' cannot be read"):
        read_checkpoint(str(folder), attention=None, dropout=None)


class Writes:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(folder, tmp_path, legacy):
    weights = {**weights_of(folder), "extra": Writes(tmp_path / "ran")}
    if legacy:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(weights))
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"copy' are a pickle that holds more than tensors .* save them as safetensors"
    ):
        read_checkpoint(str(folder), attention=None, dropout=None)
    assert not (tmp_path / "ran").exists()


TOKENS = {
    "pad not at 0": (["|", "A", "B", "[PAD]", "C", "[UNK]"], {"pad_token": "[PAD]", "unk_token": "[UNK]"}, 3),
    "another word delimiter": (["<pad>", "<unk>", "_", "A", "B", "C"], {"word_delimiter_token": "_"}, 0),
    "a space as word delimiter": (["<pad>", "<unk>", " ", "A", "B", "C"], {"word_delimiter_token": " "}, 0),
    "lower case": (["<pad>", "<unk>", "|", "a", "b", "c"], {}, 0),
    "multi-character": (["<pad>", "<unk>", "|", "a", "sch", "ch"], {}, 0),
    "more logits than tokens": (["<pad>", "<unk>", "|", "A"], {}, 0),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_vocabulary_reads_as_its_tokenizer_does(folder, name):
    tokens, settings, pad = TOKENS[name]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": pad, "vocab_size": 6}))
    weights = weights_of(folder)
    weights |= {f"lm_head.{part}": weights[f"lm_head.{part}"][:6].clone() for part in ("weight", "bias")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary = CharVocabulary(checkpoint_vocabulary(str(folder)))
    stock = Wav2Vec2CTCTokenizer.from_pretrained(folder)
    assert (len(vocabulary), vocabulary.blank_index) == (6, pad)
    units = [
        index for index, token in enumerate(tokens) if index != pad and not token.lower().strip("[<").startswith("unk")
    ]
    frames = [unit for one in (units, units[::-1], units) for unit in (*one, pad, pad)]
    collapsed = [token for token, _ in itertools.groupby(frames) if token != pad]
    assert vocabulary.decode(collapsed) == " ".join(stock.decode(frames).split()) != ""
    assert EarlyExitASR.from_pretrained(str(folder)).transcribe(torch.zeros(8000).numpy()).exit_layer == 2


def test_added_tokens_beyond_the_head_are_left_out_and_those_within_it_are_specials(folder):
    added = {"<lang>": 4, "<extra>": len(LETTERS) + 3}
    tokens = {token: index for index, token in enumerate(LETTERS) if index != 4}
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    vocabulary = CharVocabulary(checkpoint_vocabulary(str(folder)))
    assert len(vocabulary) == len(LETTERS) and vocabulary.tokens[4] == "<lang>"
    assert vocabulary.decode([5, 4, 6]) == "ET"


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_what_the_feature_extractor_asks_for_is_done(folder, wav, normalise, mask):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=mask)
    extractor.save_pretrained(folder)
    stock = AutoModelForCTC.from_pretrained(folder).eval()
    inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        theirs = torch.log_softmax(stock(**inputs).logits, dim=-1)
    torch.testing.assert_close(last_exit(folder, wav), theirs, atol=1e-5, rtol=1e-5)


def test_without_feature_extractor_waveforms_are_normalised_and_without_tokenizer_is_one_sentence(saved, folder, wav):
    (folder / "preprocessor_config.json").unlink()
    stock = AutoModelForCTC.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = torch.log_softmax(stock(normalised(wav[None], torch.tensor([len(wav)]))).logits, dim=-1)
    assert torch.equal(last_exit(folder, wav), theirs)
    (folder / "vocab.json").unlink()
    with pytest.raises(ValueError, match=r"has a CTC head but no readable vocab\.json: copy its tokenizer's files"):
        EarlyExitASR.from_pretrained(str(folder))
