"""Long recordings: cut into chunks that overlap, drafted while they run, stitched into one transcript.

Chunks are cut where the recording is quietest. Around a cut both neighbours cover the same seconds; where they agree on
a word there, the first one's words end with it and the second one's begin after it, otherwise the cut decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from eeasr_modules.data.audio_files import fault
from eeasr_modules.exits.words.confidence import ConfidenceMap
from eeasr_modules.runtime.batch import OnExit, Recognised
from eeasr_modules.runtime.transcript import Transcript, Word, with_probabilities

LONGEST_S, OVERLAP_S = 30.0, 4.0
_WINDOW_S = 0.2  # of which the loudness is taken
_SAME_WORD_S = 0.5  # two chunks place the same word at most so far apart


@dataclass(frozen=True)
class Stretch:
    """Where in a recording a chunk is, in seconds."""

    # start_s, end_s: of what a model hears
    start_s: float
    end_s: float
    cut_s: float | None  # where the next chunk takes over; None for the last one


@dataclass(frozen=True)
class Chunk:
    """A piece of a recording."""

    wav: torch.Tensor  # (samples,)
    stretch: Stretch  # where that is


def chunks(
    blocks: Iterable[torch.Tensor], *, sample_rate: int, longest_s: float = LONGEST_S, overlap_s: float = OVERLAP_S
) -> Iterator[Chunk]:
    """Chunks of a recording, holding no more of it than one chunk and one block.

    `blocks` (samples,): that follow each other. `longest_s`: of a chunk; a recording that is no longer is a single one.
    `overlap_s`: that two neighbours share. ValueError when the overlap is not below a third of the longest chunk.

    Example
    -------
    >>> found = chunks([torch.ones(50)], sample_rate=1, longest_s=30, overlap_s=4)
    >>> [one.stretch for one in found]
    [Stretch(start_s=0.0, end_s=22.0, cut_s=20.0), Stretch(start_s=18.0, end_s=50.0, cut_s=None)]
    """
    if not 0 <= overlap_s < longest_s / 3:
        raise ValueError(
            f"the overlap must be below a third of the longest chunk, {longest_s:g} s, got {overlap_s:g} s"
        )
    longest, half = int(longest_s * sample_rate), int(overlap_s / 2 * sample_rate)
    heard, start = torch.zeros(0), 0
    for block in blocks:
        heard = torch.cat([heard, block])
        while len(heard) > longest + half:  # so that the last chunk is never a mere overlap
            cut = _quietest(heard, int(longest_s * 2 / 3 * sample_rate), longest - half, sample_rate)
            yield _chunk(heard[: cut + half], start, start + cut, sample_rate)
            heard, start = heard[cut - half :], start + cut - half
    if len(heard):
        yield _chunk(heard, start, None, sample_rate)


def _chunk(wav: torch.Tensor, start: int, cut: int | None, sample_rate: int) -> Chunk:
    cut_s = None if cut is None else cut / sample_rate
    return Chunk(wav, Stretch(start / sample_rate, (start + len(wav)) / sample_rate, cut_s))


def _quietest(wav: torch.Tensor, first: int, last: int, sample_rate: int) -> int:
    """Middle of the quietest window between two samples; the earliest of equals."""
    width = max(1, int(_WINDOW_S * sample_rate))
    energy = wav[first:last].double().square().cumsum(0)
    hop = max(1, width // 4)
    begins = torch.arange(0, last - first - width, hop)
    if not len(begins):
        return (first + last) // 2
    quietest = int(begins[(energy[begins + width] - energy[begins]).argmin()])
    return first + quietest + (width // 2 if width > 1 else 0)


def stitch(parts: Sequence[tuple[Stretch, Sequence[Word]]]) -> list[Word]:
    """Words of a recording.

    `parts`: in order, the words with times from the beginning of their chunk. Those returned have times from the
    beginning of the recording.

    Example
    -------
    >>> first, second = Stretch(0.0, 22.0, 20.0), Stretch(18.0, 25.0, None)
    >>> a = [Word("one", 18.5, 18.9, 1.0), Word("two", 20.1, 20.4, 1.0), Word("thr", 21.7, 22.0, 0.4)]
    >>> b = [Word("two", 2.2, 2.4, 1.0), Word("three", 3.7, 4.2, 1.0)]
    >>> [word.text for word in stitch([(first, a), (second, b)])]
    ['one', 'two', 'three']
    """
    words: list[Word] = []
    cut_s: float | None = None
    for stretch, own in parts:
        later = [word.shifted(stretch.start_s) for word in own]
        words = later if cut_s is None else _joined(words, later, cut_s, stretch.start_s)
        cut_s = stretch.cut_s
    return words


def _middle(word: Word) -> float:
    return (word.start_s + word.end_s) / 2


def _joined(earlier: list[Word], later: list[Word], cut_s: float, overlap_start_s: float) -> list[Word]:
    """Two neighbours' words, each once."""
    shared = [i for i, word in enumerate(earlier) if word.end_s >= overlap_start_s]
    reach_s = 2 * cut_s - overlap_start_s  # the overlap lies evenly around the cut
    pairs = [
        (i, j)
        for i in shared
        for j, word in enumerate(later)
        if word.start_s <= reach_s
        and word.text == earlier[i].text
        and abs(_middle(word) - _middle(earlier[i])) <= _SAME_WORD_S
    ]
    if pairs:
        i, j = min(pairs, key=lambda pair: abs(_middle(earlier[pair[0]]) - cut_s))
        return earlier[: i + 1] + later[j + 1 :]
    return [w for w in earlier if _middle(w) < cut_s] + [w for w in later if _middle(w) >= cut_s]


POOL_BATCHES = 8  # chunks of so many batches are sorted by length together
POOL_CHUNKS = 256


@dataclass(frozen=True)
class Draft:
    """What an exit says of a chunk that goes on to deeper ones.

    Arguments
    ---------
    audio : str or None
        Path of the recording as it was given; None for an array.
    start_s : float
        Where in it the chunk begins; 0 for a recording up to half a minute.
    exit_layer : int
        Layer of the exit.
    text : str
        Its greedy transcript.
    """

    audio: str | None
    start_s: float
    exit_layer: int
    text: str


OnDraft = Callable[[Draft], None]


class Recognise(Protocol):
    """What a pool has chunks recognised by: results, and the policy that decided."""

    def __call__(
        self, wavs: list[torch.Tensor], utt_ids: list[str], *, on_exit: OnExit | None
    ) -> tuple[list[Recognised], str]: ...


@dataclass
class PendingRecording:
    """One recording on its way."""

    number: int  # from 0, in the order given
    audio: str | None
    is_read: bool = False  # whether it was read to its end, or failed
    n_samples: int = 0  # of the whole
    n_waiting: int = 0  # its chunks in the pool
    parts: list[tuple[Stretch, Recognised]] = field(default_factory=list)  # what was recognised of it
    warnings: tuple[str, ...] = ()
    error: str | None = None  # why it has no transcript

    def failed(self, err: Exception) -> None:
        """Note in one sentence why it has no transcript."""
        self.error = fault(err, name="the audio array" if self.audio is None else f"'{self.audio}'")


Waiting = tuple[PendingRecording, Chunk, str]  # a recording, a chunk of it, and the chunk's name


class _OfTheListener(Exception):
    """Around what `on_draft` raises, which is no recording's fault."""


class ChunkBatches:
    """Chunks of several recordings that are recognised together, in batches of similar length.

    `finish`: from a recording that is complete and the policy to its transcript. `on_draft`: is told what exits say of
    those who go on; every chunk is then recognised as soon as it is read. `strict`: raise what goes wrong with one
    recording, in place of noting it.
    """

    def __init__(
        self,
        recognise: Recognise,
        finish: Callable[[PendingRecording, str], Transcript],
        *,
        batch_seconds: float,
        on_draft: OnDraft | None = None,
        strict: bool = False,
    ):
        self.recognise, self.finish, self.on_draft = recognise, finish, on_draft
        self.strict = strict
        self.limit_s = 0.0 if on_draft is not None else POOL_BATCHES * batch_seconds
        self.seconds = 0.0
        self.waiting: list[Waiting] = []
        self.open: list[PendingRecording] = []

    def note(self, recording: PendingRecording) -> None:
        """A recording that was read to its end, or failed."""
        if recording not in self.open:
            self.open.append(recording)

    def add(self, recording: PendingRecording, chunk: Chunk, name: str) -> Iterator[tuple[int, Transcript]]:
        """Take a chunk in; what becomes ready by that."""
        self.note(recording)
        n_before = recording.n_waiting + len(recording.parts)
        self.waiting.append((recording, chunk, name if not n_before else f"{name}#{n_before}"))
        recording.n_waiting += 1
        self.seconds += chunk.stretch.end_s - chunk.stretch.start_s
        if self.seconds >= self.limit_s or len(self.waiting) >= POOL_CHUNKS:
            yield from self.flush()

    def ended(self, recording: PendingRecording) -> Iterator[tuple[int, Transcript]]:
        """A recording was read to its end, or failed; what becomes ready by that."""
        recording.is_read = True
        self.note(recording)
        if self.on_draft is not None:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[int, Transcript]]:
        """Recognise what waits; recordings that are complete, in their order."""
        waiting, self.waiting, self.seconds = self.waiting, [], 0.0
        policy = self._heard([one for one in waiting if one[0].error is None])
        done = [one for one in self.open if one.is_read]
        self.open = [one for one in self.open if not one.is_read]
        for recording in done:
            yield recording.number, self.finish(recording, policy)

    def _heard(self, waiting: Sequence[Waiting]) -> str:
        """Recognise, and put the results where they belong; the policy that decided."""
        try:
            return self._together(waiting)
        except _OfTheListener as err:
            raise err.__cause__ from None
        except Exception as err:
            if self.strict:
                raise
            return self._one_by_one(waiting, err)

    def _together(self, waiting: Sequence[Waiting]) -> str:
        results, policy = self.recognise(
            [chunk.wav for _, chunk, _ in waiting],
            [name for _, _, name in waiting],
            on_exit=None if self.on_draft is None else self._telling(waiting),
        )
        for (recording, chunk, _), result in zip(waiting, results, strict=True):
            recording.n_waiting -= 1
            recording.parts.append((chunk.stretch, result))
        return policy

    def _one_by_one(self, waiting: Sequence[Waiting], err: Exception) -> str:
        """Recordings alone, after they failed together; where not one of several can be recognised, it is not they."""
        recordings = list({recording.number: recording for recording, _, _ in waiting}.values())
        for recording in recordings:
            try:
                if len(recordings) == 1:
                    raise err
                self._together([one for one in waiting if one[0] is recording])
            except Exception as own:
                recording.failed(own)
        if len(recordings) > 1 and all(recording.error is not None for recording in recordings):
            raise err
        return self._together([])

    def _telling(self, waiting: Sequence[Waiting]) -> OnExit:
        def on_exit(exit_layer: int, who: Sequence[int], texts: Sequence[str]) -> None:
            for i, text in zip(who, texts, strict=True):
                recording, chunk, _ = waiting[i]
                try:
                    self.on_draft(Draft(recording.audio, chunk.stretch.start_s, exit_layer, text))
                except Exception as err:
                    raise _OfTheListener from err

        return on_exit


def assembled(
    recording: PendingRecording,
    *,
    policy: str,
    model: str,
    n_layers: int,
    sample_rate: int,
    confidence_map: ConfidenceMap | None = None,
    drift: bool | None = None,
    risk: bool | None = None,
) -> Transcript:
    """Transcript of a recording whose chunks are all recognised, or that failed.

    `confidence_map`: makes word confidences probabilities; None leaves the heads' own. `drift`, `risk`: whether that
    watch has raised its alarm; None without one. Returns: depth and the heads' confidence are means over chunks by
    their seconds.
    """
    common = {"audio": recording.audio, "n_layers": n_layers, "policy": policy, "model": model}
    if recording.error is not None:
        return Transcript(error=recording.error, **common)
    stretches, results = zip(*recording.parts, strict=True)
    seconds = [stretch.end_s - stretch.start_s for stretch in stretches]
    confidence = float(np.average([one.confidence for one in results], weights=seconds))
    spoken = [one.words for one in results]
    if confidence_map is not None:
        spoken = [with_probabilities(one.words, confidence_map, exit_layer=one.exit_layer) for one in results]
    words = spoken[0] if len(results) == 1 else stitch(list(zip(stretches, spoken, strict=True)))
    if confidence_map is not None:
        confidence = float(np.mean([word.confidence for word in words])) if words else None
    return Transcript(
        text=results[0].text if len(results) == 1 else " ".join(word.text for word in words),
        words=tuple(words),
        exit_layer=max(one.exit_layer for one in results),
        exit_layers=tuple(one.exit_layer for one in results),
        decided_layers=tuple(one.decided_layer for one in results),
        layers_run=float(np.average([one.decided_layer for one in results], weights=seconds)),
        confidence=confidence,
        blank_rates=tuple(one.blank_rate for one in results),
        drift=drift,
        risk=risk,
        duration_s=recording.n_samples / sample_rate,
        warnings=recording.warnings,
        **common,
    )
