"""The command `eeasr transcribe`: recordings in, transcripts out, with a bar in between."""

import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from eeasr_modules.runtime.chunks import Draft
from eeasr_modules.runtime.files.inputs import Recording, find_recordings
from eeasr_modules.runtime.files.outputs import COLUMNS, FORMATS, LINES, LineFile, SubtitleFiles, in_line, printable
from eeasr_modules.runtime.files.shards import Group, Ranks, merge, part_path, part_paths, seconds_of, shares
from eeasr_modules.runtime.recogniser import EarlyExitASR
from eeasr_modules.runtime.transcript import Transcript


@dataclass(frozen=True)
class Tally:
    """What a run came to."""

    # n_done, n_failed, n_before: recordings transcribed, and not, by this run; those an earlier run had done
    n_done: int = 0
    n_failed: int = 0
    n_before: int = 0
    n_failed_before: int = 0  # of the latter, those that are errors
    # audio_s, wall_s: seconds of audio transcribed, and taken
    audio_s: float = 0.0
    wall_s: float = 0.0
    layer_seconds: float = 0.0  # layers run, times seconds of audio
    n_layers: int = 0  # the encoder's

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

    def with_that_of(self, other: "Tally") -> "Tally":
        """Together with what another process did in the same time; what was done before is counted once."""
        return replace(
            self,
            n_done=self.n_done + other.n_done,
            n_failed=self.n_failed + other.n_failed,
            audio_s=self.audio_s + other.audio_s,
            wall_s=max(self.wall_s, other.wall_s),
            layer_seconds=self.layer_seconds + other.layer_seconds,
            n_layers=max(self.n_layers, other.n_layers),
        )

    @property
    def speed(self) -> float:
        """Seconds of audio in a second."""
        return self.audio_s / max(self.wall_s, 1e-9)

    def __str__(self) -> str:
        parts = [f"{self.n_done} recording{'' if self.n_done == 1 else 's'}"]
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

    ValueError when neither says.

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


def local_device(device: str | None, ranks: Ranks) -> str | None:
    """Device of one of several processes: with GPUs each its own.

    `device`: as the user wrote it; None or "cuda" leave the number open.

    Example
    -------
    >>> local_device("cpu", Ranks(1, 2, 1)), local_device("cuda", Ranks(1, 2, 1))
    ('cpu', 'cuda:1')
    """
    import torch

    if ranks.n_ranks > 1 and (device == "cuda" or (device is None and torch.cuda.is_available())):
        return f"cuda:{ranks.local_rank}"
    return device


def transcribe_files(
    asr: EarlyExitASR,
    inputs: Sequence[str],
    *,
    output: str | None,
    format: str | None = None,
    standard_input: Iterable[str] = (),
    progress: bool | None = None,
    progressive: bool = False,
    ranks: Ranks | None = None,
) -> Tally:
    """Transcribe what `inputs` name into one output; recordings that an earlier run finished are left alone.

    Under `torchrun` every process does its share and writes its part, and the first merges them.

    Returns: of all processes together. ValueError when several processes are to print, to share standard input or to be
    progressive.

    Arguments
    ---------
    output : str or None
        File, or folder of subtitles; None for standard output.
    format : str or None
        One of `FORMATS`; None for what the output's name says.
    progress : bool or None
        Show a bar; None where standard error is a terminal.
    progressive : bool
        Say on standard error what every exit hears, as soon as it is read; recordings are done one at a time.
    ranks : Ranks or None
        Which of the processes that share the work this is; None for what `torchrun` says.
    """
    format = format_of(output, format)
    ranks = Ranks.from_environment() if ranks is None else ranks
    if ranks.n_ranks > 1 and (output is None or "-" in inputs):
        raise ValueError("several processes need an output (-o), and a list in a file in place of -")
    if ranks.n_ranks > 1 and progressive:
        raise ValueError("drafts of several processes would run into each other: leave out --progressive")
    find = functools.partial(find_recordings, inputs, standard_input=standard_input)
    if output is not None and (ranks.n_ranks > 1 or (format != "srt" and part_paths(output))):
        with Group(ranks) as group:
            return _transcribe_share(asr, find, output, format, progress=progress, progressive=progressive, group=group)
    recordings = find()
    if output is None:
        sink = _StandardOutput(format)
    elif format == "srt":
        sink = SubtitleFiles(output, paths=[one.path for one in recordings])
    else:
        sink = LineFile(output, format=format, policy=asr.rule, model=asr.source.name)
    left = [one for one in recordings if in_line(one.path) not in sink.done]
    before = len(recordings) - len(left)
    try:
        tally = Tally(n_before=before, n_failed_before=sink.n_failed)
        return _run(asr, left, sink, progress, tally, progressive=progressive)
    finally:
        sink.close()


@dataclass(frozen=True)
class _Plan:
    """Who does what: every recording's path in order, a share for each process, and what was done before."""

    paths: tuple[str, ...]
    shares: tuple[tuple[Recording, ...], ...]
    n_before: int
    n_failed_before: int


def _planned(asr: EarlyExitASR, recordings: list[Recording], output: str, format: str, n_ranks: int) -> _Plan:
    paths = tuple(one.path for one in recordings)
    done: set[str] = set()
    n_failed = 0
    if format == "srt":
        done = SubtitleFiles(output, paths=paths).done
    else:
        for path in [*([output] if Path(output).is_file() else []), *part_paths(output)]:
            sink = LineFile(path, format=format, policy=asr.rule, model=asr.source.name)
            sink.close()
            n_failed += len(sink.failed - done)
            done |= sink.done
    left = [one for one in recordings if in_line(one.path) not in done]
    divided = shares([seconds_of(one.path) for one in left] if n_ranks > 1 else [0.0] * len(left), n_ranks)
    mine = tuple(tuple(left[i] for i in share) for share in divided)
    return _Plan(paths, mine, len(recordings) - len(left), n_failed)


def _transcribe_share(
    asr: EarlyExitASR,
    find: Callable[[], list[Recording]],
    output: str,
    format: str,
    *,
    progress: bool | None,
    progressive: bool,
    group: Group,
) -> Tally:
    rank = group.ranks.rank
    plan = group.from_first(lambda: _planned(asr, find(), output, format, group.ranks.n_ranks))
    if format == "srt":
        sink = SubtitleFiles(output, paths=plan.paths)
    else:
        part = part_path(output, rank)
        sink = LineFile(part, format=format, policy=asr.rule, model=asr.source.name)
    before = Tally(n_before=plan.n_before, n_failed_before=plan.n_failed_before)
    try:
        shown = progress if group.ranks.is_first else False
        mine = _run(asr, list(plan.shares[rank]), sink, shown, before, progressive=progressive)
    finally:
        sink.close()
    tallies = group.gathered(mine)
    if format != "srt":
        group.from_first(lambda: merge(output, format=format, paths=plan.paths))
    return functools.reduce(Tally.with_that_of, tallies)


def draft_line(draft: Draft, *, n_layers: int) -> str:
    """What an exit says, for a reader.

    Example
    -------
    >>> draft_line(Draft("a.wav", 26.0, 2, "HELO"), n_layers=8)
    'a.wav at 26.0 s, layer 2 of 8: HELO'
    """
    place = f" at {draft.start_s:.1f} s" if draft.start_s else ""
    return f"{draft.audio}{place}, layer {draft.exit_layer} of {n_layers}: {draft.text}"


def _run(
    asr: EarlyExitASR, left: list[Recording], sink, progress: bool | None, tally: Tally, *, progressive: bool
) -> Tally:
    if left:
        asr.engine  # noqa: B018 (weights are read before the clock starts)
    start = time.perf_counter()
    with tqdm(
        total=tally.n_before + len(left),
        initial=tally.n_before,
        unit="file",
        dynamic_ncols=True,
        disable=None if progress is None else not progress,
    ) as bar:

        def say(line: str) -> None:
            bar.write(line, file=sys.stderr)

        n_layers = asr.source.exit_layers[-1]
        stream = asr.stream(
            [one.path for one in left],
            utt_ids=[one.name for one in left],
            on_draft=(lambda draft: say(draft_line(draft, n_layers=n_layers))) if progressive else None,
        )
        for _, transcript in stream:
            sink.add(transcript)
            if progressive and transcript.error is None and not isinstance(sink, _StandardOutput):
                say(f"{transcript.audio}, layer {transcript.exit_layer} of {n_layers}, final: {transcript.text}")
            tally = replace(tally.plus(transcript), wall_s=time.perf_counter() - start)
            if transcript.error is not None:
                say(f"eeasr: {transcript.error}")
            bar.set_postfix_str(f"{tally.speed:.1f} x real time", refresh=False)
            bar.update()
    return tally


class _StandardOutput:
    """Transcripts as lines, as they come."""

    def __init__(self, format: str):
        if format not in LINES:
            raise ValueError(f"format {format} is not lines and needs a place: add -o")
        self.line = LINES[format]
        self.done: set[str] = set()
        self.n_failed = 0
        if format == "csv":
            print(",".join(COLUMNS), flush=True)

    def add(self, transcript: Transcript) -> None:
        print(printable(self.line(transcript)), flush=True)

    def close(self) -> None:
        sys.stdout.flush()
