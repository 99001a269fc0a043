"""From manifests to padded batches: SpeechBrain datasets, and shifts of test sets.

Decoded audio is kept in memory up to a bound. A shift is the same utterances, heard under other conditions, applied
when a test set is read. What it draws depends on the utterance's id and the seed alone, never on the order or the
batch, so two runs hear the same noise and two noise levels add the same noise, only louder. Applied to the corpus a
model was trained on, a shift makes a "shifted" set (see `training.corpora.set_label`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from eeasr_modules.compat import ensure_torchaudio
from eeasr_modules.data.audio import read_audio, resample
from eeasr_modules.data.manifest import audio_path, read_description, read_manifest

ensure_torchaudio()


class AudioCache:
    """Reads audio and keeps it, in 16 bits, until `limit_mb` is reached; later files are read each time.

    `limit_mb`: bound in MiB; 0 keeps nothing. `sample_rate`: Hz of what is given.
    """

    def __init__(self, limit_mb: int, *, sample_rate: int):
        self.left = limit_mb * 2**20
        self.sample_rate = sample_rate
        self._kept: dict[str, np.ndarray] = {}

    def __call__(self, path: str) -> torch.Tensor:
        """Waveform of shape (samples,), float32, mono, as `read_audio` gives it."""
        if path in self._kept:
            return torch.from_numpy(self._kept[path].astype(np.float32) / 32768.0)
        wav = read_audio(path, sample_rate=self.sample_rate)
        steps = wav.numpy() * 32768.0  # whole numbers: reading has rounded them
        fits = steps.min() >= -32768 and steps.max() <= 32767  # decoding and resampling may overshoot full scale
        if fits and wav.numel() * 2 <= self.left:
            self._kept[path] = steps.astype(np.int16)
            self.left -= wav.numel() * 2
        return wav


def evenly_spaced(rows: Sequence, n: int | None) -> list:
    """`n` of the rows at even distances (all of them if `n` is None or larger).

    Example
    -------
    >>> evenly_spaced(range(10), 3)
    [0, 3, 6]
    """
    rows = list(rows)
    if n is None or n >= len(rows):
        return rows
    return [rows[i * len(rows) // n] for i in range(n)]


def manifest_items(manifests: Sequence[Path], *, limit: int | None = None) -> dict[str, dict]:
    """Utterances of one or several manifests by id: `duration` (s), `wav` (path), `speaker`, `words`.

    ValueError if an utterance occurs in two of the manifests.
    """
    items = {}
    for manifest in manifests:
        root = read_description(manifest)["data_folder"]
        for row in evenly_spaced(read_manifest(manifest), limit):
            if row.utt_id in items:
                raise ValueError(f"utterance {row.utt_id} is in two of the manifests {[str(m) for m in manifests]}")
            items[row.utt_id] = {
                "duration": row.duration_s,
                "wav": str(audio_path(row.wav, root)),
                "speaker": row.speaker,
                "words": row.text,
            }
    return items


def build_dataset(items: dict[str, dict], *, read: Callable[[str], torch.Tensor], encode: Callable[[str], list[int]]):
    """SpeechBrain's dataset of `manifest_items`, with keys id, sig (samples,), tokens (tokens,) and words."""
    import speechbrain as sb

    dataset = sb.dataio.dataset.DynamicItemDataset(items)
    dataset.add_dynamic_item(read, takes="wav", provides="sig")
    dataset.add_dynamic_item(lambda words: torch.tensor(encode(words)), takes="words", provides="tokens")
    dataset.set_output_keys(["id", "sig", "tokens", "words"])
    return dataset


def dynamic_batches(dataset, *, batch_seconds: float, batch_utterances: int, shuffle: bool, seed: int):
    """SpeechBrain's sampler of batches of similar length.

    `batch_seconds`: longest padded batch; an utterance longer than that is a batch of its own. `shuffle`: new batches
    every epoch, in random order; otherwise shortest first.
    """
    from speechbrain.dataio.sampler import DynamicBatchSampler

    durations = sorted(item["duration"] for item in dataset.data.values())
    n_buckets = max(1, min(20, len(durations) // 20))
    edges = np.unique(np.quantile(durations, np.linspace(0, 1, n_buckets + 1)[1:]))
    return DynamicBatchSampler(
        dataset,
        max_batch_length=batch_seconds,
        bucket_boundaries=edges.tolist(),
        shuffle=shuffle,
        batch_ordering="random" if shuffle else "ascending",
        max_batch_ex=batch_utterances,
        seed=seed,
    )


def n_samples_of(relative: torch.Tensor, padded_samples: int) -> torch.Tensor:
    """Absolute lengths from SpeechBrain's relative ones; exact up to 8 million samples."""
    return (relative.double() * padded_samples).round().long()


RT60_S = 0.5  # seconds until the reverberation has fallen by 60 dB
DIRECT_TO_REVERBERANT_DB = 0.0
SPEED = 1.2
TELEPHONE_RATE = 8000
TELEPHONE_BAND_HZ = (300, 3400)

Shift = Callable[[torch.Tensor, int, torch.Generator], torch.Tensor]


def apply_shift(name: str, wav: torch.Tensor, *, utt_id: str, seed: int, sample_rate: int) -> torch.Tensor:
    """One mono utterance (n_samples,) at `sample_rate` Hz under a shift of `SHIFTS`; ValueError without such a one.

    `utt_id` and `seed`, the run's, decide what is drawn.

    Example
    -------
    >>> wav = torch.sin(torch.arange(16000) / 10)
    >>> apply_shift("fast", wav, utt_id="a", seed=1, sample_rate=16000).shape
    torch.Size([13334])
    """
    if name not in SHIFTS:
        raise ValueError(f"a shift is one of {', '.join(SHIFTS)}, got {name!r}")
    if wav.dim() != 1:
        raise ValueError(f"a shift takes one mono utterance of shape (n_samples,), got {tuple(wav.shape)}")
    digest = hashlib.blake2b(f"{seed}\t{utt_id}".encode(), digest_size=7).digest()
    rng = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return SHIFTS[name](wav.float(), sample_rate, rng)


def add_speech_shaped_noise(
    wav: torch.Tensor, sample_rate: int, rng: torch.Generator, *, snr_db: float
) -> torch.Tensor:
    """Stationary noise with the long-term spectrum of speech, at `snr_db` over the whole utterance."""
    from torchaudio.functional import add_noise

    spectrum = torch.fft.rfft(torch.randn(len(wav), generator=rng))
    hz = torch.fft.rfftfreq(len(wav), 1 / sample_rate)
    # Flat from 100 to 500 Hz, then falling by 9 dB an octave: close to Byrne et al. 1994, "An international
    # comparison of long-term average speech spectra".
    high_pass = hz**2 / (hz**2 + 100.0**2)
    noise = torch.fft.irfft(spectrum * high_pass * (1 + (hz / 500) ** 2) ** -0.75, n=len(wav))
    if not wav.any() or not noise.any():  # silence, or a single sample: no level to set the noise by
        return wav
    return add_noise(wav, noise, torch.tensor(float(snr_db)))


def add_reverberation(wav: torch.Tensor, sample_rate: int, rng: torch.Generator) -> torch.Tensor:
    """A synthetic room: the direct sound, then exponentially decaying noise; length and energy kept.

    Polack's model of a diffuse room, no early reflections; reverberation time `RT60_S`.
    """
    from torchaudio.functional import fftconvolve

    time_s = torch.arange(int(RT60_S * sample_rate)) / sample_rate
    tail = torch.randn(len(time_s), generator=rng) * 10 ** (-3 * time_s / RT60_S)
    tail[0] = 0.0
    tail = tail / tail.norm() * 10 ** (-DIRECT_TO_REVERBERANT_DB / 20)
    tail[0] = 1.0
    reverberant = fftconvolve(wav, tail)[: len(wav)]
    return reverberant * (wav.norm() / reverberant.norm().clamp_min(1e-12))


def through_telephone(wav: torch.Tensor, sample_rate: int, rng: torch.Generator) -> torch.Tensor:
    """A telephone line (300 to 3400 Hz, 8 kHz, 8-bit mu-law); back at `sample_rate`, length kept."""
    from scipy.signal import butter, sosfiltfilt
    from torchaudio.functional import mu_law_decoding, mu_law_encoding

    narrow = resample(wav, sample_rate, TELEPHONE_RATE)
    band = butter(4, TELEPHONE_BAND_HZ, btype="bandpass", fs=TELEPHONE_RATE, output="sos")
    pad = min(len(narrow) - 1, 3 * (2 * len(band) + 1))  # scipy's own choice, less for very short utterances
    narrow = torch.from_numpy(sosfiltfilt(band, narrow.double().numpy(), padlen=max(0, pad)).copy()).float()
    coded = mu_law_decoding(mu_law_encoding(narrow.clamp(-1, 1), 256), 256)
    wide = resample(coded, TELEPHONE_RATE, sample_rate)
    return torch.nn.functional.pad(wide, (0, max(0, len(wav) - len(wide))))[: len(wav)]


def speed_up(wav: torch.Tensor, sample_rate: int, rng: torch.Generator) -> torch.Tensor:
    """Played `SPEED` times as fast, pitch and all; shorter by that factor."""
    from torchaudio.functional import speed

    return speed(wav, sample_rate, SPEED)[0]


SHIFTS: dict[str, Shift] = {
    "noise_10db": partial(add_speech_shaped_noise, snr_db=10),
    "noise_0db": partial(add_speech_shaped_noise, snr_db=0),
    "reverb": add_reverberation,
    "telephone": through_telephone,
    "fast": speed_up,
}
