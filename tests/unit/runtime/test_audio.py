"""Audio of any kind comes out the same as the training side reads it, whole or in pieces; bad audio is named."""

import io

import numpy as np
import pytest
import soundfile
import torch

from eeasr_modules.data.audio import read_audio as read_for_training
from eeasr_modules.runtime import audio
from eeasr_modules.runtime.audio import AudioReader, as_waveform, read_audio


def sound(seconds=0.5, rate=16000, channels=1, *, seed=0):
    rng = np.random.default_rng(seed)
    samples = 0.1 * rng.standard_normal((int(seconds * rate), channels)).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.wav", 16000, 1, "PCM_16"),
        ("a.wav", 48000, 2, "PCM_24"),
        ("a.wav", 8000, 1, "ULAW"),
        ("a.flac", 44100, 2, "PCM_16"),
        ("a.ogg", 16000, 1, "VORBIS"),
        ("a.opus", 48000, 1, "OPUS"),
        ("a.mp3", 22050, 1, "MPEG_LAYER_III"),
        ("a.sph", 16000, 1, "PCM_16"),
    ],
)
def test_every_format_and_rate_is_read_as_in_training(name, rate, channels, subtype, tmp_path):
    kind = {"a.opus": "OGG", "a.sph": "NIST"}.get(name)
    soundfile.write(tmp_path / name, sound(rate=rate, channels=channels), rate, subtype=subtype, format=kind)
    assert torch.equal(read_audio(tmp_path / name, 16000), read_for_training(tmp_path / name, 16000))


@pytest.mark.parametrize(
    ("name", "rate"),
    [("a.wav", 16000), ("a.wav", 44100), ("a.wav", 8000), ("a.wav", 22050), ("a.mp3", 16000), ("a.mp3", 44100)],
)
def test_reading_in_blocks_gives_what_reading_at_once_gives(name, rate, tmp_path, monkeypatch):
    soundfile.write(tmp_path / name, sound(3.3, rate), rate)
    whole = read_for_training(tmp_path / name, 16000)
    monkeypatch.setattr(audio, "BLOCK_S", 0.3)
    reader = AudioReader(tmp_path / name, 16000)
    blocks = list(reader.blocks())
    assert len(blocks) > 5
    assert reader.n_samples == len(whole)
    torch.testing.assert_close(torch.cat(blocks), whole, atol=2e-7, rtol=0)


@pytest.mark.parametrize(("name", "rate"), [("a.wav", 16000), ("a.flac", 44100), ("a.mp3", 44100)])
@pytest.mark.parametrize("stretch", ["0.5,1.25", "0,0.3", "2.9,9"])
def test_a_stretch_of_a_file_is_read_as_in_training(name, rate, stretch, tmp_path, monkeypatch):
    soundfile.write(tmp_path / name, sound(3.3, rate), rate)
    path = f"{tmp_path / name}#t={stretch}"
    monkeypatch.setattr(audio, "BLOCK_S", 0.3)
    torch.testing.assert_close(read_audio(path, 16000), read_for_training(path, 16000), atol=2e-7, rtol=0)


def test_a_stretch_behind_the_end_holds_no_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(1.0), 16000)
    with pytest.raises(ValueError, match=r"a\.wav#t=2,3' holds no samples"):
        read_audio(f"{tmp_path}/a.wav#t=2,3", 16000)


def write_wav(path, samples, rate=16000, subtype="FLOAT"):
    soundfile.write(path, samples, rate, subtype=subtype)


@pytest.mark.parametrize(
    ("name", "make", "complaint"),
    [
        ("none.wav", lambda p: None, "found no file"),
        ("folder.wav", lambda p: p.mkdir(), "found a folder"),
        ("empty.wav", lambda p: p.write_bytes(b""), "is empty: 0 bytes"),
        ("text.wav", lambda p: p.write_text("hello"), "is not audio that can be read"),
        ("headerless.raw", lambda p: p.write_bytes(bytes(4000)), "no header that says its rate"),
        ("zero.wav", lambda p: write_wav(p, np.zeros(0)), "holds no samples"),
        ("short.wav", lambda p: write_wav(p, np.ones(399) / 2), "holds 399 samples at 16000 Hz, one frame needs 400"),
        ("nan.wav", lambda p: write_wav(p, np.array([0.1] * 500 + [np.nan])), "samples that are not finite"),
    ],
)
def test_what_cannot_be_heard_is_named_in_one_sentence(name, make, complaint, tmp_path):
    make(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint) as caught:
        read_audio(tmp_path / name, 16000)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_400_samples_are_enough(tmp_path):
    write_wav(tmp_path / "a.wav", np.ones(400) / 2)
    assert len(read_audio(tmp_path / "a.wav", 16000)) == 400


def test_clipping_is_warned_of(tmp_path):
    loud, soft = np.clip(4 * sound(), -1, 1), 0.5 * sound()
    loud[:100] = 1.0
    warnings = []
    for name, samples in (("loud.wav", loud), ("soft.wav", soft)):
        write_wav(tmp_path / name, samples)
        reader = AudioReader(tmp_path / name, 16000)
        list(reader.blocks())
        warnings.append(reader.warnings)
    assert len(warnings[0]) == 1 and "clipped: 2.5 %" in warnings[0][0]
    assert warnings[1] == ()


def test_m4a_is_read_where_av_is_installed(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.m4a"
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        for begin in range(0, len(tone) - 1024, 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, begin : begin + 1024], format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    wav = read_audio(path, 16000)
    spectrum = np.abs(np.fft.rfft(wav[4000:12000].numpy()))
    assert abs(np.argmax(spectrum) * 2 - 440) <= 2  # bins of 2 Hz
    assert 15000 < len(wav) < 17500


def test_without_av_an_m4a_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    with pytest.raises(ValueError, match="need the package av"):
        read_audio(tmp_path / "a.m4a", 16000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.uint8])
def test_arrays_of_any_type_have_full_scale_one(dtype):
    wave = 0.5 * np.sin(np.arange(800) / 7)
    if dtype == np.uint8:
        array = np.round(wave * 128 + 128).astype(dtype)
    elif np.issubdtype(dtype, np.integer):
        array = np.round(wave * (np.iinfo(dtype).max + 1)).astype(dtype)
    else:
        array = wave.astype(dtype)
    heard = as_waveform(array, from_rate=16000, sample_rate=16000)
    np.testing.assert_allclose(heard, wave, atol=1 / 128)


def test_channels_of_an_array_are_averaged_and_its_rate_changed():
    array = sound(0.5, 48000, 2)
    buffer = io.BytesIO()
    soundfile.write(buffer, array, 48000, format="wav", subtype="FLOAT")
    heard = as_waveform(torch.from_numpy(array), from_rate=48000, sample_rate=16000)
    assert torch.equal(heard, audio.resample(torch.from_numpy(array.mean(axis=1)), 48000, 16000))


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((2, 16000)), r"must be of shape \(samples,\) or \(samples, channels\), got \(2, 16000\)"),
        (np.zeros((2, 2, 2)), "must be of shape"),
        (np.zeros(0), "holds no samples"),
        (np.zeros(100), "holds 100 samples at 16000 Hz"),
        (np.full(500, np.inf), "not finite"),
        (np.zeros(500, dtype=complex), "must hold numbers, got complex128"),
    ],
)
def test_arrays_that_are_no_audio_are_named(array, complaint):
    with pytest.raises(ValueError, match=complaint):
        as_waveform(array, from_rate=16000, sample_rate=16000)
