"""From manifests to padded batches: SpeechBrain datasets, with decoded audio kept in memory up to a bound."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from eeasr_modules.compat import ensure_torchaudio
from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.manifest import audio_path, read_description, read_manifest

ensure_torchaudio()


class AudioCache:
    """Reads audio and keeps it, in 16 bits, until `limit_mb` is reached; later files are read each time.

    Arguments
    ---------
    limit_mb : int
        Bound in MiB; 0 keeps nothing.
    sample_rate : int
        Hz of what is given.
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
    """Utterances of one or several manifests by id, for a `DynamicItemDataset`.

    Returns
    -------
    dict of str to dict
        `duration` (s), `wav` (path), `speaker`, `words`.

    Raises
    ------
    ValueError
        If an utterance occurs in two of the manifests.
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
    """SpeechBrain's dataset with keys id, sig (samples,), tokens (tokens,) and words.

    Arguments
    ---------
    items : dict
        As `manifest_items` gives them.
    read : callable
        Path -> waveform.
    encode : callable
        Text -> token indices.
    """
    import speechbrain as sb

    dataset = sb.dataio.dataset.DynamicItemDataset(items)
    dataset.add_dynamic_item(read, takes="wav", provides="sig")
    dataset.add_dynamic_item(lambda words: torch.tensor(encode(words)), takes="words", provides="tokens")
    dataset.set_output_keys(["id", "sig", "tokens", "words"])
    return dataset


def dynamic_batches(dataset, *, batch_seconds: float, batch_utterances: int, shuffle: bool, seed: int):
    """SpeechBrain's sampler of batches of similar length.

    Arguments
    ---------
    dataset : DynamicItemDataset
        With `duration` per utterance.
    batch_seconds : float
        Longest padded batch; an utterance longer than that is a batch of its own.
    batch_utterances : int
        Most utterances in a batch.
    shuffle : bool
        New batches every epoch, in random order; otherwise shortest first.
    seed : int
        For the shuffle.
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
