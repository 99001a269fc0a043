"""From manifests to padded batches; shifts, deterministic per utterance, do to the signal what they say."""

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.dataloader import make_dataloader

from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.manifest import Utterance, write_manifest
from eeasr_modules.data.pipeline import (
    SHIFTS,
    SPEED,
    AudioCache,
    apply_shift,
    build_dataset,
    dynamic_batches,
    evenly_spaced,
    manifest_items,
    n_samples_of,
)
from eeasr_modules.data.text import CharVocabulary


@pytest.fixture
def manifests(tmp_path):
    """Two manifests of 30 and 5 utterances of 0.1 to 0.5 s."""
    rng = np.random.default_rng(0)
    made = []
    for name, n in (("train", 30), ("dev", 5)):
        utterances = []
        for i in range(n):
            path = tmp_path / f"{name}{i:02d}.wav"
            soundfile.write(path, 0.1 * rng.standard_normal(rng.integers(1600, 8000)), 16000)
            utterances.append(Utterance(path.stem, f"s{i % 3}", path, "YES NO"[: 3 + 3 * (i % 2)]))
        made.append(
            write_manifest(
                tmp_path / f"{name}.csv",
                utterances,
                corpus="X",
                split=name,
                data_folder=tmp_path,
                normaliser="english",
            )
        )
    return made


class TestAudioCache:
    def test_it_gives_what_is_in_the_file_the_first_time_and_after(self, manifests, tmp_path):
        cache, path = AudioCache(10, sample_rate=16000), str(tmp_path / "train00.wav")
        first = cache(path)
        torch.testing.assert_close(first, read_audio(path), atol=0, rtol=0)
        (tmp_path / "train00.wav").unlink()  # from memory now
        assert torch.equal(cache(path), first)

    def test_what_it_gives_may_be_changed_without_harm(self, manifests, tmp_path):
        cache, path = AudioCache(10, sample_rate=16000), str(tmp_path / "train00.wav")
        cache(path).zero_()
        assert cache(path).abs().max() > 0

    def test_it_keeps_no_more_than_its_bound(self, tmp_path):
        for name, n in (("a", 400_000), ("b", 400_000), ("c", 100_000)):
            soundfile.write(tmp_path / f"{name}.wav", np.full(n, 0.1), 16000)
        cache = AudioCache(1, sample_rate=16000)  # 1 MiB: half a million samples
        for name in "abc":
            cache(str(tmp_path / f"{name}.wav"))
            (tmp_path / f"{name}.wav").unlink()
        assert len(cache(str(tmp_path / "a.wav"))) == 400_000
        assert len(cache(str(tmp_path / "c.wav"))) == 100_000  # still fits when b did not
        with pytest.raises(FileNotFoundError):
            cache(str(tmp_path / "b.wav"))

    def test_a_bound_of_nothing_keeps_nothing(self, manifests, tmp_path):
        cache, path = AudioCache(0, sample_rate=16000), tmp_path / "train00.wav"
        cache(str(path))
        path.unlink()
        with pytest.raises(FileNotFoundError):
            cache(str(path))

    def test_audio_is_the_same_whether_it_is_kept_or_not(self, tmp_path):
        # resampled audio lies between 16-bit steps, so keeping it must not round it only where there is room
        soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(4000), 8000)
        path = str(tmp_path / "a.wav")
        assert torch.equal(AudioCache(10, sample_rate=16000)(path), AudioCache(0, sample_rate=16000)(path))

    def test_audio_that_overshoots_is_given_whole(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.array([2.0, -2.0] * 800), 16000, subtype="FLOAT")
        cache = AudioCache(10, sample_rate=16000)
        for _ in range(2):
            assert cache(str(tmp_path / "a.wav")).max() == 2.0


@pytest.mark.parametrize(
    ("n", "kept"), [(None, list(range(7))), (9, list(range(7))), (1, [0]), (2, [0, 3]), (7, list(range(7)))]
)
def test_a_slice_is_evenly_spaced(n, kept):
    assert evenly_spaced(range(7), n) == kept


def test_items_hold_what_the_manifests_say(manifests, tmp_path):
    items = manifest_items(manifests)
    assert len(items) == 35 and [*items][:1] == ["train00"] and [*items][-1:] == ["dev04"]
    first = items["train00"]
    assert first["words"] == "YES" and first["speaker"] == "s0" and first["wav"] == str(tmp_path / "train00.wav")
    assert first["duration"] == pytest.approx(len(read_audio(first["wav"])) / 16000, abs=1e-3)
    assert list(manifest_items(manifests, limit=2)) == ["train00", "train15", "dev00", "dev02"]  # of each manifest


def test_an_utterance_in_two_manifests_is_refused(manifests):
    with pytest.raises(ValueError, match="utterance train00 is in two of the manifests"):
        manifest_items([manifests[0], manifests[0]])


def test_batches_are_padded_and_lengths_can_be_had_back(manifests):
    vocabulary = CharVocabulary()
    items = manifest_items(manifests[:1])
    dataset = build_dataset(items, read=AudioCache(0, sample_rate=16000), encode=vocabulary.encode)
    sampler = dynamic_batches(dataset, batch_seconds=2.0, batch_utterances=6, shuffle=True, seed=1)
    seen = []
    for batch in make_dataloader(dataset, batch_sampler=sampler):
        wavs, relative = batch.sig
        n_samples = n_samples_of(relative, wavs.shape[1])
        tokens, token_lengths = batch.tokens
        n_tokens = n_samples_of(token_lengths, tokens.shape[1])
        assert len(batch.id) <= 6
        for i, utt_id in enumerate(batch.id):
            assert torch.equal(wavs[i, : n_samples[i]], read_audio(items[utt_id]["wav"]))
            assert (wavs[i, n_samples[i] :] == 0).all()
            assert vocabulary.decode(tokens[i, : n_tokens[i]].tolist()) == items[utt_id]["words"] == batch.words[i]
        seen += batch.id
    assert sorted(seen) == sorted(items)


class TestDynamicBatches:
    @pytest.fixture
    def dataset(self, manifests):
        return build_dataset(manifest_items(manifests), read=AudioCache(0, sample_rate=16000), encode=lambda words: [])

    @staticmethod
    def batches(dataset, epoch=1, **options):
        settings = {"batch_seconds": 1.2, "batch_utterances": 32, "shuffle": True, "seed": 1, **options}
        sampler = dynamic_batches(dataset, **settings)
        sampler.set_epoch(epoch)
        return [list(batch) for batch in sampler]

    def test_the_same_seed_and_epoch_draw_the_same_batches(self, dataset):
        assert self.batches(dataset) == self.batches(dataset)
        assert self.batches(dataset) != self.batches(dataset, seed=2)
        assert self.batches(dataset) != self.batches(dataset, epoch=2)

    def test_padded_length_is_bounded(self, dataset):
        durations = [dataset.data[utt_id]["duration"] for utt_id in dataset.data_ids]
        for batch in self.batches(dataset):
            assert max(durations[i] for i in batch) * len(batch) <= 1.2 + 1e-6

    def test_an_utterance_longer_than_a_batch_is_one_of_its_own(self, dataset):
        found = self.batches(dataset, batch_seconds=0.05)
        assert sorted(found) == [[i] for i in range(35)]

    def test_without_shuffling_every_epoch_is_the_same(self, dataset):
        assert self.batches(dataset, shuffle=False) == self.batches(dataset, shuffle=False, epoch=2)


@pytest.mark.parametrize("padded", [160, 16001, 8_000_000])
def test_absolute_lengths_survive_speechbrains_relative_ones(padded):
    lengths = torch.randint(1, padded + 1, (1000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(n_samples_of((lengths / padded).float(), padded), lengths)


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
    assert len(shifted) == pytest.approx(n_samples / (SPEED if name == "fast" else 1), abs=1)


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
    peak = int(torch.fft.rfft(fast).abs().argmax()) * RATE / len(fast)
    assert peak == pytest.approx(1200, abs=2)


def test_an_unknown_shift_lists_the_known_ones_and_batches_are_refused():
    with pytest.raises(ValueError, match="noise_10db, noise_0db, reverb, telephone, fast, got 'echo'"):
        shift("echo", signal())
    with pytest.raises(ValueError, match=r"got \(2, 10\)"):
        shift("fast", torch.zeros(2, 10))
