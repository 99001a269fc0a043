"""Shifts: deterministic per utterance, and doing to the signal what they say."""

import pytest
import torch

from eeasr_modules.data.shifts import SHIFTS, apply_shift, shifted_duration_s

RATE = 16000


def signal(seconds=2.0, seed=0):
    return 0.1 * torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def shift(name, wav, utt_id="u", seed=1):
    return apply_shift(name, wav, utt_id=utt_id, seed=seed, sample_rate=RATE)


def band_energy(wav, low_hz, high_hz):
    spectrum = torch.fft.rfft(wav).abs() ** 2
    hz = torch.fft.rfftfreq(len(wav), 1 / RATE)
    return float(spectrum[(hz >= low_hz) & (hz < high_hz)].sum())


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_depends_on_utterance_and_seed_not_on_order(name):
    wavs = {utt_id: signal(seed=index) for index, utt_id in enumerate("abc")}
    forward = {utt_id: shift(name, wavs[utt_id], utt_id) for utt_id in "abc"}
    torch.randn(7)  # the global generator plays no part
    backward = {utt_id: shift(name, wavs[utt_id], utt_id) for utt_id in "cba"}
    assert all(torch.equal(forward[utt_id], backward[utt_id]) for utt_id in "abc")
    drawn = name in ("noise_10db", "noise_0db", "reverb")
    assert torch.equal(forward["a"], shift(name, wavs["a"], "b")) != drawn
    assert torch.equal(forward["a"], shift(name, wavs["a"], "a", seed=2)) != drawn


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("n_samples", [1, 5, 300, 16001])
def test_a_shift_keeps_dtype_finiteness_and_its_declared_length(name, n_samples):
    wav = signal()[:n_samples]
    before = wav.clone()
    shifted = shift(name, wav)
    assert torch.equal(wav, before)
    assert (shifted.dtype, shifted.dim()) == (torch.float32, 1)
    assert torch.isfinite(shifted).all()
    assert len(shifted) == pytest.approx(shifted_duration_s(name, n_samples), abs=1)


@pytest.mark.parametrize("name", SHIFTS)
def test_silence_stays_finite(name):
    assert torch.isfinite(shift(name, torch.zeros(RATE))).all()


@pytest.mark.parametrize(("name", "snr_db"), [("noise_10db", 10), ("noise_0db", 0)])
def test_noise_has_the_named_ratio_and_the_spectrum_of_speech(name, snr_db):
    wav = signal()
    noise = shift(name, wav) - wav
    assert float(10 * torch.log10(wav.pow(2).sum() / noise.pow(2).sum())) == pytest.approx(snr_db, abs=0.1)
    assert band_energy(noise, 100, 1000) > 4 * band_energy(noise, 1000, 8000)


def test_both_noise_levels_add_the_same_noise():
    wav = signal()
    quiet, loud = shift("noise_10db", wav) - wav, shift("noise_0db", wav) - wav
    assert torch.allclose(loud, quiet * 10**0.5, atol=1e-5)


def test_a_telephone_passes_its_band_and_nothing_else():
    wav = signal()
    heard = shift("telephone", wav)
    assert band_energy(heard, 4000, 8001) < 1e-3 * band_energy(wav, 4000, 8001)
    assert band_energy(heard, 0, 150) < 0.01 * band_energy(wav, 0, 150)
    assert band_energy(heard, 500, 3000) == pytest.approx(band_energy(wav, 500, 3000), rel=0.05)


def test_reverberation_keeps_energy_direct_sound_and_decays():
    click = torch.zeros(RATE)
    click[100] = 1.0
    room = shift("reverb", click)
    assert float(room.pow(2).sum()) == pytest.approx(1.0, rel=1e-3)
    assert float(room[:99].abs().max()) < 1e-5
    assert int(room.abs().argmax()) == 100
    early, late = room[110:2000].pow(2).mean(), room[6000:7800].pow(2).mean()
    assert 20 < float(10 * torch.log10(early / late)) < 60


def test_fast_speech_is_shorter_and_higher():
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE)
    fast = shift("fast", tone)
    assert len(fast) == 13334
    assert shifted_duration_s("fast", 1.2) == pytest.approx(1.0)
    peak = int(torch.fft.rfft(fast).abs().argmax()) * RATE / len(fast)
    assert peak == pytest.approx(1200, abs=2)


def test_an_unknown_shift_lists_the_known_ones_and_batches_are_refused():
    with pytest.raises(ValueError, match="noise_10db, noise_0db, reverb, telephone, fast, got 'echo'"):
        shift("echo", signal())
    with pytest.raises(ValueError, match="got 'echo'"):
        shifted_duration_s("echo", 1.0)
    with pytest.raises(ValueError, match=r"got \(2, 10\)"):
        shift("fast", torch.zeros(2, 10))
