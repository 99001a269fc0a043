"""What `eeasr benchmark` transcribes: recordings, with references where a listing has them, or noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eeasr_modules.data.audio import AudioReader
from eeasr_modules.data.waveform import fault
from eeasr_modules.runtime.chunks import LONGEST_S
from eeasr_modules.runtime.inputs import find_recordings

NOISE_S = 10.0


@dataclass(frozen=True, eq=False)
class Material:
    """What is transcribed.

    Arguments
    ---------
    utt_ids : tuple of str
        Names.
    wavs : tuple of torch.Tensor of shape (samples,)
        At the model's rate.
    references : tuple of str or None
        None where there is none; without any, no WER.
    notes : tuple of str
        What a reader must know, such as recordings that were left out.
    """

    utt_ids: tuple[str, ...]
    wavs: tuple[torch.Tensor, ...]
    references: tuple[str | None, ...]
    notes: tuple[str, ...] = ()


def noise(n: int, *, sample_rate: int, seconds: float = NOISE_S) -> Material:
    """Synthetic material: noise of equal lengths.

    Arguments
    ---------
    n : int
        Utterances.
    sample_rate : int
        Hz.
    seconds : float
        Length of each.

    Returns
    -------
    Material
    """
    rng = torch.Generator().manual_seed(0)
    wavs = tuple(0.1 * torch.randn(round(seconds * sample_rate), generator=rng) for _ in range(n))
    note = f"synthetic noise of {seconds:g} s: times hold, the depths that policies choose on it mean nothing"
    return Material(tuple(f"noise-{i}" for i in range(n)), wavs, (None,) * n, (note,))


def read_material(inputs: Sequence[str], *, sample_rate: int, limit: int | None = None) -> Material:
    """Recordings, with references where a listing has them.

    Arguments
    ---------
    inputs : sequence of str
        As `eeasr transcribe` takes them.
    sample_rate : int
        Hz.
    limit : int or None
        Recordings at most.

    Returns
    -------
    Material
        Without recordings that cannot be read or are too long for one piece; its notes count them.

    Raises
    ------
    ValueError
        When nothing is left.
    """
    recordings = find_recordings(inputs, one_reference_each=True)[:limit]
    utt_ids, wavs, said, broken, n_long = [], [], [], [], 0
    for recording in recordings:
        try:
            wav = _read(recording.path, sample_rate)
        except Exception as err:  # whatever it is, the others can be used
            broken.append(fault(err, name=f"'{recording.path}'"))
            continue
        if wav is None:
            n_long += 1
            continue
        utt_ids.append(recording.name)
        wavs.append(wav)
        said.append(recording.reference)
    if not wavs:
        reason = broken[0] if broken else f"all are longer than {LONGEST_S:g} s"
        raise ValueError(f"none of {len(recordings)} recordings can be used: {reason}")
    notes = [f"{len(broken)} recordings left out that cannot be read, the first: {broken[0]}"] if broken else []
    notes += [f"{n_long} recordings left out that are longer than {LONGEST_S:g} s"] if n_long else []
    if 0 < (lacking := sum(text is None for text in said)) < len(said):
        notes.append(f"{lacking} of {len(said)} utterances have no reference and do not count in the WER")
    return Material(tuple(utt_ids), tuple(wavs), tuple(said), tuple(notes))


def _read(path: str, sample_rate: int) -> torch.Tensor | None:
    """A recording; None, without reading on, where it is too long for one piece."""
    blocks, reader = [], AudioReader(path, sample_rate)
    for block in reader.blocks_of_speech():
        blocks.append(block)
        if reader.n_samples > LONGEST_S * sample_rate:
            return None
    return torch.cat(blocks)
