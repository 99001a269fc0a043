"""A small model that says something different at every exit, noises of many lengths, and their exit table."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits import ExitTable, choose, parse_policy, write_policies
from eeasr_modules.models import MultiExit
from eeasr_modules.models.folder import model_digest
from eeasr_modules.training.test_pass import read_exits

ENCODER = {
    "encoder": "conformer",
    "n_layers": 5,
    "dim": 16,
    "n_heads": 2,
    "ffn_dim": 32,
    "kernel_size": 7,
    "n_mels": 20,
    "dropout": 0.1,
}
SEED = 11


def talkative_model(exit_layers=(1, 2, 3, 5), *, seed: int = 0, **config) -> MultiExit:
    """Random weights, heads loud enough that best tokens differ between frames and exits."""
    torch.manual_seed(seed)
    settings = {"exit_layers": list(exit_layers), "n_tokens": 29, "blank_index": 0, **config}
    model = MultiExit({"encoder": ENCODER, **settings}).eval()
    for head in model.heads:
        torch.nn.init.normal_(head.projection.weight, std=0.5)
        head.projection.bias.data[:2] += 1.5  # blanks and spaces, as in speech
    return model


def noises(n: int = 33, *, seed: int = 3) -> list[torch.Tensor]:
    """Waveforms of 0.3 to 1.6 s, their loudness changing on the way."""
    rng = np.random.default_rng(seed)
    waves = []
    for _ in range(n):
        samples = int(rng.integers(4800, 25600))
        swell = np.interp(np.arange(samples), np.linspace(0, samples, 6), rng.uniform(0.01, 0.5, 6))
        waves.append(torch.from_numpy((swell * rng.standard_normal(samples)).astype(np.float32)))
    return waves


def table_of(model: MultiExit, wavs: list[torch.Tensor], *, shift: int = 0) -> ExitTable:
    """What `training.test_pass` would write of these, one at a time; references are the last exit's, a little wrong."""
    vocabulary, rows, signals, n_frames = CharVocabulary(), [], {}, []
    device = next(model.parameters()).device
    for wav in wavs:
        n_samples = torch.tensor([len(wav)], device=device)
        tokens, values, frames = read_exits(model, wav.unsqueeze(0).to(device), n_samples)
        rows.append([vocabulary.decode(one[0]) for one in tokens])
        n_frames.append(frames[0])
        for name, per_exit in values.items():
            signals.setdefault(name, []).append(per_exit[0])
    references = [f"{row[-1]} A".strip() for row in rows]
    return ExitTable.from_hypotheses(
        rows,
        references,
        utt_ids=[f"u{shift + i}" for i in range(len(wavs))],
        speakers=[f"s{i % 12}" for i in range(len(wavs))],
        exit_layers=model.exit_layers,
        duration_s=[len(wav) / 16000 for wav in wavs],
        n_frames=n_frames,
        signals={name: np.array(values) for name, values in signals.items()},
        metadata={"seed": SEED, "set_name": f"noise-{shift}", "n_layers": 5},
    )


@pytest.fixture(scope="session")
def model():
    """Shared: not to be changed."""
    return talkative_model()


@pytest.fixture(scope="session")
def wavs():
    """Noises of many lengths."""
    return noises()


@pytest.fixture(scope="session")
def table(model, wavs):
    """Their exit table."""
    return table_of(model, wavs)


@pytest.fixture(scope="session")
def dev(model):
    """The exit table of other noises."""
    return table_of(model, noises(40, seed=4), shift=1000)


@pytest.fixture(scope="session")
def model_folder(model, dev, tmp_path_factory):
    """What `train.py` leaves of the small model, with two calibrated policies. Shared: read only."""
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    CharVocabulary().save(folder)
    calibration = replace(dev, metadata={**dev.metadata, "model_digest": model_digest(folder)})
    policies = [parse_policy(text) for text in ("entropy", "between(margin)")]
    write_policies(folder / "policy.json", [choose(calibration, one, budget=0.7) for one in policies])
    return folder


@pytest.fixture(scope="session")
def audio_folder(wavs, tmp_path_factory):
    """The first six noises as float WAV files u0.wav to u5.wav. Shared: read only."""
    folder = tmp_path_factory.mktemp("audio")
    for i, wav in enumerate(wavs[:6]):
        soundfile.write(folder / f"u{i}.wav", wav.numpy(), 16000, subtype="FLOAT")
    return folder
