"""Any rate becomes any other: right, in blocks as at once, in little memory, and as torchaudio does the usual ones."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from eeasr_modules.compat import ensure_torchaudio
from eeasr_modules.data import audio
from eeasr_modules.data.audio import resample, resampled

USUAL = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000]
ODD = [4001, 7999, 11127, 16001, 44101, 44056, 96001, 383999]


def tones(rate, seconds=0.8):
    time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    return sum(0.1 * torch.sin(2 * torch.pi * f * time + f) for f in (131.7, 440, 1234.5)).float()


@pytest.mark.parametrize("rate", USUAL)
def test_the_usual_rates_are_resampled_by_torchaudio_to_the_last_bit(rate):
    wav = tones(rate)
    ensure_torchaudio()
    import torchaudio

    expected = torchaudio.transforms.Resample(rate, 16000)(wav)
    assert torch.equal(resample(wav, rate, 16000), expected)


@pytest.mark.parametrize("to_rate", [16000, 8000])
@pytest.mark.parametrize("rate", USUAL + ODD)
def test_tones_of_any_rate_keep_their_pitch_loudness_and_length(rate, to_rate):
    found = resample(tones(rate), rate, to_rate)
    assert len(found) == math.ceil(int(0.8 * rate) * to_rate / rate)
    edge = to_rate // 50
    torch.testing.assert_close(found[edge:-edge], tones(to_rate)[: len(found)][edge:-edge], atol=2e-3, rtol=0)


@pytest.mark.parametrize("rate", [44100, 11025, 24000])
def test_the_sparse_matrix_is_the_filter_of_torchaudio(rate):
    wav, (step, new) = tones(rate) + 0.1 * torch.randn(int(0.8 * rate)), audio._period(rate, 16000)
    by_matrix = torch.from_numpy(audio._by_periods(wav.numpy(), step, new))
    torch.testing.assert_close(by_matrix, resample(wav, rate, 16000), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rate", [96001, 44101, 44100])
def test_what_the_new_rate_cannot_hold_is_taken_out(rate):
    shrill = torch.sin(2 * torch.pi * 12000 * torch.arange(rate, dtype=torch.float64) / rate).float()
    assert float(resample(shrill, rate, 16000)[500:-500].abs().max()) < 2e-3


@pytest.mark.parametrize("rate", [8000, 44100, 44101, 11127])
@pytest.mark.parametrize("size", [700, 40000])
def test_blocks_come_out_as_the_whole_does(rate, size, monkeypatch):
    wav = tones(rate, 6.3)
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 5000)
    blocks = list(resampled(torch.split(wav, size), rate, 16000))
    assert len(blocks) > 5
    torch.testing.assert_close(torch.cat(blocks), resample(wav, rate, 16000), atol=3e-7, rtol=0)
    together = list(resampled([wav], rate, 16000))  # blocks do not depend on how it comes in
    assert all(torch.equal(a, b) for a, b in zip(blocks, together, strict=True))


PEAK = """
import re, sys, scipy.sparse, torch
from eeasr_modules.data.audio import resample, resampled
def mb(name): return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
resample(torch.zeros(44100), 44100, 16000)
for rate in map(int, sys.argv[1:]):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = mb("VmRSS")
    n = sum(len(block) for block in resampled((torch.ones(1 << 16) for _ in range(60)), rate, 16000))
    print(rate, n, mb("VmHWM") - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="memory is measured as Linux lets it be")
def test_any_rate_needs_less_than_200_mb():
    rates = [11127, 44101, 383999, 384000]
    command = [sys.executable, "-c", PEAK, *map(str, rates)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for rate, line in zip(rates, lines, strict=True):
        found, n, extra_mb = line.split()
        assert int(found) == rate and int(n) == math.ceil(60 * 2**16 * 16000 / rate)
        assert float(extra_mb) < 200, line
    assert max(float(line.split()[2]) for line in lines) > 20  # it does measure


def test_a_signal_shorter_than_a_period_is_resampled():
    wav = np.float32([0.5, 0.25, 0.0])
    assert len(resample(torch.from_numpy(wav), 383999, 16000)) == 1
    assert len(resample(torch.from_numpy(wav), 11127, 16000)) == 5
