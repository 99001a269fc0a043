"""A small model and a batch of four lengths."""

import pytest
import torch

from eeasr_modules.models.multi_exit import MultiExit

ENCODER = {
    "encoder": "conformer",
    "n_layers": 4,
    "dim": 16,
    "n_heads": 2,
    "ffn_dim": 32,
    "kernel_size": 7,
    "n_mels": 20,
    "dropout": 0.1,
}


def small_model(*, seed: int = 0, encoder: dict | None = None, **config) -> MultiExit:
    """A model of random weights in eval mode; the same for the same seed."""
    torch.manual_seed(seed)
    settings = {"exit_layers": [1, 2, 4], "n_tokens": 7, "blank_index": 0, **config}
    return MultiExit({"encoder": {**ENCODER, **(encoder or {})}, **settings}).eval()


@pytest.fixture
def make_model():
    """The maker of small models."""
    return small_model


@pytest.fixture(scope="module")
def model():
    """A small model; shared, so it must not be changed."""
    return small_model()


@pytest.fixture(scope="module")
def batch():
    """Zero-padded waveforms (4, samples) of four lengths, the second the longest, and their lengths."""
    n_samples = torch.tensor([9000, 16000, 4321, 12345])
    wavs = 0.3 * torch.randn(4, 16000, generator=torch.Generator().manual_seed(3))
    return wavs * (torch.arange(16000) < n_samples.unsqueeze(1)), n_samples
