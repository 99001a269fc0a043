"""Recordings transcribed by another recogniser, kept where it is sure."""

import csv
import importlib.util
import json

import numpy as np
import pytest
import soundfile as sf
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)


@pytest.fixture(scope="module")
def label(root):
    spec = importlib.util.spec_from_file_location("recipes.Custom.label", root / "recipes" / "Custom" / "label.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Moonshine of random weights with its tokenizer, as transformers saves them."""
    folder = tmp_path_factory.mktemp("moonshine")
    words = ["<pad>", "<s>", "</s>", *(f"word{chr(97 + i)}" for i in range(20))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    torch.manual_seed(3)
    shape = {"hidden_size": 16, "intermediate_size": 32, "encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1}
    shape |= {"encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2, "vocab_size": len(words)}
    shape |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    MoonshineForConditionalGeneration(MoonshineConfig(**shape)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def recordings(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, seconds in (("a.wav", 1.0), ("b.flac", 2.5)):
        sf.write(folder / name, 0.1 * rng.standard_normal(int(seconds * 16000)), 16000)
    (folder / "broken.wav").write_bytes(b"no audio")
    return folder


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        ("A sentence of some words.", {}, None),
        ("A sentence of some words.", {"sure": -0.3}, "not sure"),
        ("In 1999 it was", {}, "digits, other scripts or nothing"),
        ("...", {}, "digits, other scripts or nothing"),
        ("The test's own words", {"without": {"THE TEST'S OWN WORDS"}}, "text of a test set"),
        ("A sentence of some words.", {"seconds": 20.0}, "too few or too many characters a second"),
        ("he said he said he said no", {}, "words repeated"),
    ],
)
def test_why_a_transcript_is_left_out(label, text, changes, reason):
    settings = {"seconds": 2.0, "sure": -0.1, "surest": -0.2, "without": set(), **changes}
    assert label.why_left_out(text, **settings) == reason


def test_a_real_checkpoint_labels_files_and_says_what_it_left_out(label, checkpoint, recordings, tmp_path, capsys):
    out = tmp_path / "labelled"
    assert label.main([checkpoint, str(recordings), str(out), "--surest", "-99"]) == 0
    said = capsys.readouterr()
    assert "left out: " in said.err and "broken.wav" in said.err
    made = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
    assert {one["wav"].rsplit("/", 1)[1]: one["seconds"] for one in made} == {"a.wav": 1.0, "b.flac": 2.5}
    assert all(one["sure"] < 0 for one in made)
    kept = list(csv.DictReader((out / "train.csv").open()))
    left = (out / "left_out.txt").read_text().splitlines()
    assert len(kept) + len(left) == 2
    assert label.main([checkpoint, str(recordings), str(out), "--surest", "0"]) == 0  # nothing is transcribed again
    assert (out / "labels.jsonl").read_text().count("\n") == 2
    assert len((out / "left_out.txt").read_text().splitlines()) == 2


def test_a_folder_without_recordings_is_one_sentence(label, checkpoint, tmp_path, capsys):
    assert label.main([checkpoint, str(tmp_path), str(tmp_path / "out")]) == 2
    assert "expected recordings (.wav" in capsys.readouterr().err
