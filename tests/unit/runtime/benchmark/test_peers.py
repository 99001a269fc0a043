"""What ONNX Runtime and OpenVINO make of a stock forward, beside the forward itself."""

import importlib.util

import numpy as np
import pytest
import torch
from tiny_checkpoint import save_checkpoint

from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.runtime.benchmark import peers
from eeasr_modules.runtime.benchmark.ways import Stock


@pytest.mark.parametrize("peer", peers.PACKAGES)
def test_peers_give_what_stock_gives(tmp_path, peer):
    """float32 to 1e-4; int8 near it, but not the same graph."""
    for package in peers.PACKAGES[peer]:
        pytest.importorskip(package)
    engine = EarlyExitASR.from_pretrained(
        save_checkpoint(tmp_path, kind="wav2vec2", ctc=True), device="cpu", front_end="stock", precision="float32"
    ).engine
    wavs, n_samples = torch.randn(1, 8000), torch.tensor([8000])
    with torch.inference_mode():
        hidden, n_frames = Stock(engine.model)(wavs, n_samples)
        wanted = engine.model.heads[-1](hidden, n_frames).numpy()
    ways = peers.peer_ways(engine, wavs, n_samples)
    np.testing.assert_allclose(ways[f"{peer} float32"](), wanted, atol=1e-4, rtol=0)
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
