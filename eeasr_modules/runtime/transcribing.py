"""The command `eeasr transcribe`: recordings in, transcripts out, with a bar in between."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from eeasr_modules.runtime.inputs import Recording, find_recordings
from eeasr_modules.runtime.outputs import FORMATS, LineFile, SubtitleFiles, text_line
from eeasr_modules.runtime.recogniser import EarlyExitASR
from eeasr_modules.runtime.transcript import Transcript


@dataclass(frozen=True)
class Tally:
    """What a run came to.

    Arguments
    ---------
    n_done, n_failed, n_before : int
        Recordings transcribed, and not, by this run; those an earlier run had done.
    n_failed_before : int
        Of the latter, those that are errors.
    audio_s, wall_s : float
        Seconds of audio transcribed, and taken.
    layer_seconds : float
        Layers run, times seconds of audio.
    n_layers : int
        The encoder's.
    """

    n_done: int = 0
    n_failed: int = 0
    n_before: int = 0
    n_failed_before: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    layer_seconds: float = 0.0
    n_layers: int = 0

    def plus(self, one: Transcript) -> "Tally":
        """With one more recording."""
        if one.error is not None:
            return replace(self, n_failed=self.n_failed + 1)
        return replace(
            self,
            n_done=self.n_done + 1,
            audio_s=self.audio_s + one.duration_s,
            layer_seconds=self.layer_seconds + one.layers_run * one.duration_s,
            n_layers=one.n_layers,
        )

    @property
    def speed(self) -> float:
        """Seconds of audio in a second."""
        return self.audio_s / max(self.wall_s, 1e-9)

    def __str__(self) -> str:
        parts = [f"{self.n_done} recordings"]
        if self.n_done:
            depth = self.layer_seconds / self.audio_s
            parts[0] += f", {self.audio_s:.1f} s of audio in {self.wall_s:.1f} s ({self.speed:.1f} x real time)"
            parts.append(f"mean depth {depth:.2f} of {self.n_layers} layers")
        parts += [f"{self.n_before} done before"] if self.n_before else []
        failed = self.n_failed + self.n_failed_before
        parts += [f"{failed} could not be transcribed"] if failed else []
        return "; ".join(parts)


def format_of(output: str | None, format: str | None) -> str:
    """Format by what was asked for, or by the output's suffix; txt for standard output.

    Arguments
    ---------
    output : str or None
        Path; None for standard output.
    format : str or None
        One of `FORMATS`.

    Raises
    ------
    ValueError
        When neither says.

    Example
    -------
    >>> format_of("out.jsonl", None), format_of(None, None)
    ('jsonl', 'txt')
    """
    if format is None and output is None:
        return "txt"
    format = format or Path(output).suffix.lower().removeprefix(".")
    if format not in FORMATS:
        raise ValueError(f"the output must end in .{', .'.join(FORMATS)}, or --format must say which, got '{output}'")
    return format


def transcribe_files(
    asr: EarlyExitASR,
    inputs: Sequence[str],
    *,
    output: str | None,
    format: str | None = None,
    standard_input: Iterable[str] = (),
    progress: bool | None = None,
) -> Tally:
    """Transcribe what `inputs` name into one output; recordings that an earlier run finished are left alone.

    Arguments
    ---------
    asr : EarlyExitASR
        Model and policy.
    inputs : sequence of str
        See `find_recordings`.
    output : str or None
        File, or folder of subtitles; None for standard output.
    format : str or None
        One of `FORMATS`; None for what the output's name says.
    standard_input : iterable of str
        Lines, for the input `-`.
    progress : bool or None
        Show a bar; None where standard error is a terminal.

    Returns
    -------
    Tally
    """
    format = format_of(output, format)
    recordings = find_recordings(inputs, standard_input=standard_input)
    if output is None:
        sink = _StandardOutput(format)
    elif format == "srt":
        sink = SubtitleFiles(output, paths=[one.path for one in recordings])
    else:
        sink = LineFile(output, format=format, policy=str(asr.policy), model=asr.source.name)
    left = [one for one in recordings if one.path not in sink.done]
    before = len(recordings) - len(left)
    try:
        return _run(asr, left, sink, progress, Tally(n_before=before, n_failed_before=sink.n_failed))
    finally:
        sink.close()


def _run(asr: EarlyExitASR, left: list[Recording], sink, progress: bool | None, tally: Tally) -> Tally:
    start = time.perf_counter()
    stream = asr.stream([one.path for one in left], utt_ids=[one.name for one in left])
    with tqdm(
        total=tally.n_before + len(left),
        initial=tally.n_before,
        unit="file",
        dynamic_ncols=True,
        disable=None if progress is None else not progress,
    ) as bar:
        for _, transcript in stream:
            sink.add(transcript)
            tally = replace(tally.plus(transcript), wall_s=time.perf_counter() - start)
            if transcript.error is not None:
                bar.write(f"eeasr: {transcript.error}", file=sys.stderr)
            bar.set_postfix_str(f"{tally.speed:.1f} x real time", refresh=False)
            bar.update()
    return tally


class _StandardOutput:
    """Transcripts as lines of text, as they come."""

    def __init__(self, format: str):
        if format != "txt":
            raise ValueError(f"format {format} needs a file: add -o")
        self.done: set[str] = set()
        self.n_failed = 0

    def add(self, transcript: Transcript) -> None:
        print(text_line(transcript), flush=True)

    def close(self) -> None:
        sys.stdout.flush()
