"""Reading and finding audio."""

import numpy as np
import pytest
import soundfile
import torch

from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.audio_files import audio_duration_s, find_audio

RATE = 16000


def speechlike(n_samples=RATE, seed=0):
    """Low-pass noise, as smooth from sample to sample as speech."""
    noise = np.random.default_rng(seed).standard_normal(n_samples + 32)
    smooth = np.convolve(noise, np.ones(33) / 33, "valid")
    return (0.3 * smooth / np.abs(smooth).max()).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.wav", {}, 1e-4),
        ("a.flac", {}, 1e-4),
        ("a.sph", {"format": "NIST", "subtype": "PCM_16"}, 1e-4),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}, 0.1),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.1),
        ("a.mp3", {"format": "MP3"}, 0.1),
    ],
)
def test_every_format_gives_the_same_mono_float32_signal(tmp_path, name, options, tolerance):
    wav = speechlike()
    soundfile.write(tmp_path / name, wav, RATE, **options)
    read = read_audio(tmp_path / name)
    assert (read.dtype, read.dim()) == (torch.float32, 1)
    assert abs(len(read) - RATE) < 0.15 * RATE  # MP3 may pad
    assert audio_duration_s(tmp_path / name, decode=True) == pytest.approx(len(read) / RATE, abs=0.01)
    n = min(len(read), RATE)
    assert float((read[:n] - torch.from_numpy(wav[:n])).pow(2).mean().sqrt()) < tolerance


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled_to_16_khz(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate), rate)
    read = read_audio(tmp_path / "a.wav")
    assert len(read) == RATE
    expected = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)
    assert float((read - expected)[800:-800].abs().max()) < 5e-3


def test_channels_are_averaged(tmp_path):
    left, right = speechlike(seed=1), speechlike(seed=2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    assert torch.allclose(read_audio(tmp_path / "a.wav"), torch.from_numpy((left + right) / 2), atol=1e-6)


@pytest.mark.parametrize("loudness", [1.0, 0.01])
@pytest.mark.parametrize(("order", "kind"), [("big", ">i2"), ("little", "<i2")])
def test_headerless_audio_is_read_in_either_byte_order(tmp_path, order, kind, loudness):
    samples = np.round(speechlike() * loudness * 32767).astype(kind)
    samples.tofile(tmp_path / "a.raw")
    expected = torch.from_numpy(samples.astype(np.float32) / 32768)
    assert torch.equal(read_audio(tmp_path / "a.raw"), expected)
    assert torch.equal(read_audio(tmp_path / "a.raw", raw_byte_order=order), expected)
    other = {"big": "little", "little": "big"}[order]
    assert not torch.equal(read_audio(tmp_path / "a.raw", raw_byte_order=other), expected)
    assert audio_duration_s(tmp_path / "a.raw") == 1.0


def test_unreadable_audio_is_one_sentence_with_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        read_audio(tmp_path / "gone.wav")
    (tmp_path / "bad.wav").write_bytes(b"RIFFnonsense")
    with pytest.raises(ValueError, match=r"bad\.wav is not readable audio"):
        read_audio(tmp_path / "bad.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(ValueError, match="no samples"):
        read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan], dtype=np.float32), RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        read_audio(tmp_path / "nan.wav")
    (tmp_path / "odd.raw").write_bytes(b"abc")
    with pytest.raises(ValueError, match="3 bytes"):
        read_audio(tmp_path / "odd.raw")
    with pytest.raises(ValueError, match="3 bytes"):
        audio_duration_s(tmp_path / "odd.raw")
    (tmp_path / "ok.raw").write_bytes(b"abcd")
    with pytest.raises(ValueError, match="auto, big or little"):
        read_audio(tmp_path / "ok.raw", raw_byte_order="middle")


def test_audio_is_found_by_stem_the_first_suffix_winning(tmp_path):
    for name in ("a/x.wav", "a/x.sph", "b/y.FLAC", "b/notes.txt", "z.opus"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {stem: path.name for stem, path in find_audio(tmp_path).items()}
    assert found == {"a/x": "x.wav", "b/y": "y.FLAC", "z": "z.opus"}


@pytest.mark.shared_data
def test_real_recordings_of_every_published_format_are_read(shared_data):
    for pattern in (
        "an4/**/*.flac",
        "an4/**/*.opus",
        "cv-corpus-6.1*/**/*.mp3",
        "free-spoken-digit-dataset/**/*.wav",
    ):
        path = next(iter(sorted(shared_data.glob(pattern))))
        read = read_audio(path)
        assert 0.01 < float(read.abs().max()) <= 1.5
        assert len(read) / RATE == pytest.approx(audio_duration_s(path, decode=True), abs=1e-3)
