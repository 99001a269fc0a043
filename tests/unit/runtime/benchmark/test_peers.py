"""What ONNX Runtime and OpenVINO make of a stock forward, beside the forward itself."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.models import MultiExit
from eeasr_modules.runtime import Engine
from eeasr_modules.runtime.benchmark import ways as peers
from eeasr_modules.runtime.benchmark.ways import Stock, all_ways
from eeasr_modules.runtime.files.inputs import noise

SHAPES = {
    "wav2vec2": {
        # 32 channels: with AMX oneDNN, which OpenVINO has as well, is wrong in bfloat16 below 16 (`models.device`)
        **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
        **{"conv_dim": [32] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
    },
    "moonshine": {
        **{"hidden_size": 16, "intermediate_size": 32, "encoder_num_hidden_layers": 2},
        **{"encoder_num_attention_heads": 2, "encoder_num_key_value_heads": 2},
    },
}


def engine_of(kind):
    torch.manual_seed(0)
    settings = {"encoder": "huggingface", "hf_config": {"model_type": kind, **SHAPES[kind]}}
    model = MultiExit({"encoder": settings, "exit_layers": [1, 2], "n_tokens": 29, "blank_index": 0}).eval()
    return Engine(model, CharVocabulary(), policy=Static(2))


@pytest.mark.parametrize("peer", peers.PACKAGES)
def test_peers_give_what_stock_gives(peer):
    """float32 to 1e-4; bfloat16 within stock's own rounding; int8 near it, but not the same graph."""
    for package in peers.PACKAGES[peer]:
        pytest.importorskip(package)
    engine = engine_of("wav2vec2")
    wavs, n_samples = torch.randn(1, 8000), torch.tensor([8000])
    with torch.inference_mode():
        hidden, n_frames = Stock(engine.model)(wavs, n_samples)
        wanted = engine.model.heads[-1](hidden, n_frames).numpy()
    ways = peers.peer_ways(engine, wavs, n_samples)
    np.testing.assert_allclose(ways[f"{peer} float32"](), wanted, atol=1e-4, rtol=0)
    if f"{peer} bfloat16" in ways:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            hidden, n_frames = Stock(engine.model)(wavs, n_samples)
            rounded = engine.model.heads[-1](hidden, n_frames).numpy()
        difference = np.abs(ways[f"{peer} bfloat16"]() - wanted)
        assert 1e-5 < difference.mean() < 1.5 * np.abs(rounded - wanted).mean()  # stock's own rounding
    if f"{peer} int8" in ways:
        difference = np.abs(ways[f"{peer} int8"]() - wanted).max()
        assert 1e-5 < difference < 1


def test_a_missing_package_is_named(monkeypatch):
    """One sentence a peer, and nothing is exported."""
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else there("json"))
    assert peers.missing_peers() == ["OpenVINO is not timed: openvino not installed (pip install 'eeasr[peers]')"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert len(peers.missing_peers()) == 2
    assert peers.peer_ways(None, torch.zeros(1, 8), torch.tensor([8])) == {}


@pytest.mark.parametrize("kind", ["wav2vec2", "moonshine"])
def test_peers_are_timed_beside_our_ways_and_say_stock_s_words(kind):
    """One batch size after the other; recordings of several lengths are refused in a sentence."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    engine = engine_of(kind)
    material = noise(2, sample_rate=16000, seconds=0.5)
    ways, notes = peers.peers_beside(engine, material, batches=[1, 2])
    assert "full depth, ONNX Runtime float32" in [way.name for way in ways]
    assert all("not installed" in note for note in notes)
    stock = next(way for way in all_ways(engine, []) if way.name == "full depth, transformers")
    wavs, n_samples = torch.stack(material.wavs), torch.tensor([8000, 8000])
    for n in (1, 2):
        given = wavs[:n], n_samples[:n], list(material.utt_ids[:n])
        wanted = [one.text for one in stock.run(*given)]
        assert [one.text for one in ways[0].run(*given)] == wanted and any(wanted)
    uneven = replace(material, wavs=(wavs[0], wavs[1, :4000]))
    assert "one shape" in peers.peers_beside(engine, uneven, batches=[1])[1][-1]
