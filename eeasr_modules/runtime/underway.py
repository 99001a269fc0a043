"""Recordings on their way: chunks that wait to be recognised together, and drafts of what is said meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from eeasr_modules.data.waveform import fault
from eeasr_modules.runtime.chunks import Chunk, Stretch
from eeasr_modules.runtime.leaving import OnExit, Recognised
from eeasr_modules.runtime.transcript import Transcript

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
class Underway:
    """One recording on its way.

    Arguments
    ---------
    number : int
        From 0, in the order given.
    audio : str or None
        Path; None for an array.
    is_read : bool
        Whether it was read to its end, or failed.
    n_samples : int
        Of the whole.
    n_waiting : int
        Its chunks in the pool.
    parts : list of (Stretch, Recognised)
        What was recognised of it.
    warnings : tuple of str
        What was odd about it.
    error : str or None
        Why it has no transcript.
    """

    number: int
    audio: str | None
    is_read: bool = False
    n_samples: int = 0
    n_waiting: int = 0
    parts: list[tuple[Stretch, Recognised]] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    error: str | None = None

    def failed(self, err: Exception) -> None:
        """Note in one sentence why it has no transcript."""
        self.error = fault(err, name="the audio array" if self.audio is None else f"'{self.audio}'")


Waiting = tuple[Underway, Chunk, str]  # a recording, a chunk of it, and the chunk's name


class _OfTheListener(Exception):
    """Around what `on_draft` raises, which is no recording's fault."""


class Pool:
    """Chunks of several recordings that are recognised together, in batches of similar length.

    Arguments
    ---------
    recognise : Recognise
        Of chunks.
    finish : function
        From a recording that is complete and the policy to its transcript.
    batch_seconds : float
        Longest padded batch.
    on_draft : function or None
        Is told what exits say of those who go on; every chunk is then recognised as soon as it is read.
    strict : bool
        Raise what goes wrong with one recording, in place of noting it.
    """

    def __init__(
        self,
        recognise: Recognise,
        finish: Callable[[Underway, str], Transcript],
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
        self.open: list[Underway] = []

    def note(self, recording: Underway) -> None:
        """A recording that was read to its end, or failed."""
        if recording not in self.open:
            self.open.append(recording)

    def add(self, recording: Underway, chunk: Chunk, name: str) -> Iterator[tuple[int, Transcript]]:
        """Take a chunk in; what becomes ready by that."""
        self.note(recording)
        n_before = recording.n_waiting + len(recording.parts)
        self.waiting.append((recording, chunk, name if not n_before else f"{name}#{n_before}"))
        recording.n_waiting += 1
        self.seconds += chunk.stretch.end_s - chunk.stretch.start_s
        if self.seconds >= self.limit_s or len(self.waiting) >= POOL_CHUNKS:
            yield from self.flush()

    def ended(self, recording: Underway) -> Iterator[tuple[int, Transcript]]:
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
