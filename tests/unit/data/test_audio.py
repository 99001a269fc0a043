"""Reading and finding audio: any kind comes out the same whole or in pieces; what cannot be heard is named."""

import numpy as np
import pytest
import soundfile
import torch

from eeasr_modules.data import audio as resampling
from eeasr_modules.data import audio_files
from eeasr_modules.data.audio import AudioReader, as_waveform, read_audio, resample
from eeasr_modules.data.audio_files import audio_duration_s, find_audio, rounded, with_segment

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
    assert torch.allclose(read_audio(tmp_path / "a.wav"), torch.from_numpy((left + right) / 2), atol=0.51 / 32768)


@pytest.mark.parametrize("loudness", [1.0, 0.01])
@pytest.mark.parametrize(("order", "kind"), [("big", ">i2"), ("little", "<i2")])
def test_headerless_audio_is_read_in_either_byte_order(tmp_path, order, kind, loudness):
    samples = np.round(speechlike() * loudness * 32767).astype(kind)
    samples.tofile(tmp_path / "a.raw")
    expected = torch.from_numpy(samples.astype(np.float32) / 32768)
    assert torch.equal(read_audio(tmp_path / "a.raw"), expected)
    assert audio_duration_s(tmp_path / "a.raw") == 1.0


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


def sound(seconds=0.5, rate=16000, channels=1, *, seed=0):
    rng = np.random.default_rng(seed)
    samples = 0.1 * rng.standard_normal((int(seconds * rate), channels)).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("a.wav", 16000),
        ("a.wav", 44100),
        ("a.wav", 8000),
        ("a.wav", 22050),
        ("a.mp3", 16000),
        ("a.mp3", 44100),
        ("a.wav", 8009),
    ],
)
def test_reading_in_blocks_gives_what_reading_at_once_gives(name, rate, tmp_path, monkeypatch):
    soundfile.write(tmp_path / name, sound(3.3, rate), rate)
    whole = read_audio(tmp_path / name)
    monkeypatch.setattr(resampling, "BLOCK_SAMPLES", 3000)
    monkeypatch.setattr(audio_files, "_VALUES", 1700)
    reader = AudioReader(tmp_path / name, 16000)
    blocks = list(reader.blocks())
    assert len(blocks) > 2
    assert reader.n_samples == len(whole)
    same_but_for_steps(torch.cat(blocks), whole)


def same_but_for_steps(found, expected):
    """Equal, up to a step of 16 bits where a value lay between two of them."""
    unlike = (found - expected).abs() * 32768
    assert len(found) == len(expected) and float(unlike.max()) <= 1 and float((unlike > 0).float().mean()) < 0.002


@pytest.mark.parametrize(("name", "rate"), [("a.wav", 16000), ("a.flac", 44100), ("a.mp3", 44100), ("a.opus", 48000)])
@pytest.mark.parametrize("stretch", [(0.5, 1.25), (0, 0.3), (2.9, 9)])
def test_a_stretch_of_a_file_is_that_part_of_the_whole(name, rate, stretch, tmp_path):
    kind = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    soundfile.write(tmp_path / name, sound(3.3, rate), rate, **kind)
    whole, _ = soundfile.read(tmp_path / name, dtype="float32")
    part = torch.from_numpy(whole[round(stretch[0] * rate) : round(stretch[1] * rate)])
    expected = rounded(resample(part, rate, 16000).numpy())
    found = read_audio(with_segment(tmp_path / name, stretch))
    if name == "a.opus":  # its decoder settles behind a place that was sought: not the same to the last bit
        assert len(found) == len(expected) and float((found - torch.from_numpy(expected)).abs().max()) < 0.02
        return
    same_but_for_steps(found, torch.from_numpy(expected))


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
        ("odd.raw", lambda p: p.write_bytes(b"abc"), "holds 3 bytes, expected 16-bit samples"),
        ("zero.wav", lambda p: write_wav(p, np.zeros(0)), "holds no samples"),
        ("short.wav", lambda p: write_wav(p, np.ones(399) / 2), "holds 399 samples at 16000 Hz, one frame needs 400"),
        ("nan.wav", lambda p: write_wav(p, np.array([0.1] * 500 + [np.nan])), "samples that are not finite"),
    ],
)
def test_what_cannot_be_heard_is_named_in_one_sentence(name, make, complaint, tmp_path):
    make(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint) as caught:
        list(AudioReader(tmp_path / name, 16000).blocks_of_speech())
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_400_samples_are_enough(tmp_path):
    write_wav(tmp_path / "a.wav", np.ones(400) / 2)
    assert sum(map(len, AudioReader(tmp_path / "a.wav", 16000).blocks_of_speech())) == 400
    write_wav(tmp_path / "a.wav", np.ones(399) / 2)
    assert len(read_audio(tmp_path / "a.wav")) == 399  # what is only trained on may be shorter


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


@pytest.mark.parametrize(("rate", "channels"), [(48000, 2), (8000, 1), (44101, 1), (16000, 1)])
def test_an_array_is_heard_as_a_file_with_its_samples_is(rate, channels, tmp_path, monkeypatch):
    array = sound(3.3, rate, channels)
    write_wav(tmp_path / "a.wav", array, rate)
    monkeypatch.setattr(resampling, "BLOCK_SAMPLES", 9000)
    heard = as_waveform(torch.from_numpy(array), from_rate=rate, sample_rate=16000)
    assert torch.equal(heard, read_audio(tmp_path / "a.wav"))


def test_what_is_read_lies_on_the_steps_of_16_bits_and_overshoot_is_kept(tmp_path):
    write_wav(tmp_path / "a.wav", sound(0.5, 44100), 44100)
    write_wav(tmp_path / "loud.wav", np.tile([1.25, 1.25 + 2e-5, -1.5], 400))
    for name in ("a.wav", "loud.wav"):
        steps = read_audio(tmp_path / name) * 32768
        assert torch.equal(steps, steps.round())
    assert read_audio(tmp_path / "loud.wav")[:3].tolist() == [1.25, 1.25 + 1 / 32768, -1.5]


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


@pytest.mark.parametrize("stretch", [None, (0.2, 0.7)])
def test_stereo_out_of_phase_is_heard_by_one_channel_with_a_warning(tmp_path, caplog, stretch, monkeypatch):
    wave = speechlike()
    write_wav(tmp_path / "a.wav", np.stack([0.5 * wave, -wave], axis=1))
    monkeypatch.setattr(audio_files, "_VALUES", 3000)
    reader = AudioReader(with_segment(tmp_path / "half.wav", stretch), 16000)
    write_wav(tmp_path / "half.wav", np.stack([wave, -0.99 * wave], axis=1))
    heard = torch.cat(list(reader.blocks()))
    part = slice(None) if stretch is None else slice(round(stretch[0] * RATE), round(stretch[1] * RATE))
    assert torch.equal(heard, torch.from_numpy(rounded(wave))[part])
    assert reader.warnings == ("out of phase: the channels cancel in their mean, channel 1 was taken alone",)
    assert float((read_audio(tmp_path / "half.wav") - torch.from_numpy(wave)).abs().max()) < 1e-4
    assert "half.wav' is out of phase" in caplog.text
    # what cancels in part only stays a mean
    assert torch.allclose(read_audio(tmp_path / "a.wav"), torch.from_numpy(-0.25 * wave), atol=1e-4)


def test_arrays_out_of_phase_are_heard_by_one_channel(caplog):
    wave = speechlike()
    heard = as_waveform(np.stack([wave, -wave], axis=1), from_rate=16000, sample_rate=16000)
    assert torch.equal(heard, torch.from_numpy(rounded(wave))) and "array is out of phase" in caplog.text
