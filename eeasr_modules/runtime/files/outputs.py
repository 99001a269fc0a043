"""Transcripts on disk: lines that are appended as recordings are done, and files of subtitles.

What was written before a kill is kept: the next run drops a half-written last line and does the rest.
"""

import csv
import errno
import fcntl
import io
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from eeasr_modules.common.files import as_it_was, neutral, write_aside
from eeasr_modules.data.audio_files import split_segment
from eeasr_modules.runtime.transcript import Transcript, Word

logger = logging.getLogger(__name__)

FORMATS = ("jsonl", "csv", "txt", "srt")
COLUMNS = (
    "audio",
    "text",
    "exit_layer",
    "layers_run",
    "n_layers",
    "confidence",
    "duration_s",
    "policy",
    "model",
    "warnings",
    "error",
)
SYNC_S = 1.0
NAMES = "surrogateescape"  # file names that are no UTF-8 stand in lines with the bytes that they have
SUBTITLE_WORDS, SUBTITLE_S, PAUSE_S = 12, 6.0, 0.8
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def json_line(transcript: Transcript) -> str:
    """One JSON object in a line."""
    return printable(json.dumps(transcript.as_dict(), ensure_ascii=False))


def csv_line(transcript: Transcript) -> str:
    """The values of `COLUMNS`; words are left out, and no text is a formula (`files.neutral`)."""
    values = {**transcript.as_dict(), "audio": in_line(transcript.audio), "warnings": "; ".join(transcript.warnings)}
    return _csv_row([values[name] for name in COLUMNS])


def text_line(transcript: Transcript) -> str:
    """Path, tab, transcript; `error:` and the reason where there is none."""
    said = transcript.text if transcript.error is None else f"error: {transcript.error}"
    return f"{in_line(transcript.audio)}\t{said}"


def in_line(name: str) -> str:
    r"""A recording's name as lines hold it, and by which they are found again: tabs and line ends as \t, \n, \r.

    Example
    -------
    >>> print(in_line("two\nlines.wav"))
    two\nlines.wav
    """
    return name.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def printable(line: str) -> str:
    r"""The line in UTF-8: bytes of a file name that are none become escapes such as \udcff, which JSON reads back."""
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def _csv_row(values: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([neutral(value) for value in values])
    return buffer.getvalue()


def csv_values(line: str) -> list[str]:
    """The cells of a line that `csv_line` wrote, formulas as they were said."""
    return [as_it_was(cell) for cell in next(csv.reader([line]))]


LINES: dict[str, Callable[[Transcript], str]] = {"jsonl": json_line, "csv": csv_line, "txt": text_line}


def _cannot_write(path: Path, err: OSError) -> OSError:
    where = f" at '{err.filename}'" if err.filename not in (None, str(path)) else ""
    return OSError(f"the output '{path}' cannot be written ({err.strerror or err}{where}): name another place with -o")


class LineFile:
    """A file with a line for each recording.

    `path`: gone on with where it exists. `policy`, `model`: of this run; a file of another's lines is refused (a txt
    file does not say whose it is). ValueError when the file holds something else, or comes from another policy or
    model. OSError when nothing can be written there.

    Attributes
    ----------
    done : set of str
        Paths of recordings that have a line already, as `in_line` gives them.
    failed : set of str
        Those of them whose line is an error.
    """

    def __init__(self, path: str | Path, *, format: str, policy: str, model: str):
        self.path, self.format = Path(path), format
        self.done: set[str] = set()
        self.failed: set[str] = set()
        if self.path.exists() and not self.path.is_file():  # a device would be read as an earlier run's lines
            kind = "a folder" if self.path.is_dir() else "none: leave -o out to have lines printed"
            raise ValueError(f"the output must be a file, '{self.path}' is {kind}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as err:
            raise _cannot_write(self.path, err) from err
        try:
            self._hold()
            self._resume(policy, model)
        except Exception:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def _hold(self) -> None:
        """The file for this process alone, as long as it is open; ValueError where another one writes it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise ValueError(f"another process writes '{self.path}': wait for it, or name another output") from err
        except OSError:  # a file system without locks
            logger.debug("'%s' cannot be locked", self.path)

    def _resume(self, policy: str, model: str) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = whole.decode("utf-8", NAMES).split("\n")[:-1]  # a text may hold what splitlines also cuts at
            for number, line in enumerate(lines, start=1):
                if not (self.format == "csv" and number == 1):
                    self._take_in(line, number, policy, model)
            if self.format == "csv" and lines and lines[0] != _csv_row(COLUMNS):
                raise ValueError(f"its first line must be {_csv_row(COLUMNS)}")
        except (ValueError, KeyError, TypeError, IndexError) as err:
            raise ValueError(f"'{self.path}' cannot be continued ({err}): name another output") from err
        self._file.truncate(len(whole))
        self.size = len(whole)
        if self.format == "csv" and not whole:
            self._write(_csv_row(COLUMNS))

    def _take_in(self, line: str, number: int, policy: str, model: str) -> None:
        if self.format == "txt":
            audio, said = line.split("\t", 1)
            failed = said.startswith("error: ")
        else:
            values = json.loads(line) if self.format == "jsonl" else dict(zip(COLUMNS, csv_values(line)))
            if (values["policy"], values["model"]) != (policy, model):
                theirs = f"{values['model']} with {values['policy']}"
                raise ValueError(f"line {number} comes from {theirs}, this run is {model} with {policy}")
            audio, failed = values["audio"], bool(values["error"])
        self.done.add(in_line(audio))
        if failed:
            self.failed.add(in_line(audio))

    @property
    def n_failed(self) -> int:
        """How many lines of an earlier run are errors."""
        return len(self.failed)

    def add(self, transcript: Transcript) -> None:
        """Append a line; it reaches the disk within a second or so.

        OSError when the disk is full: what was written before stays whole.
        """
        self._write(LINES[self.format](transcript))
        self.done.add(in_line(transcript.audio))
        if time.monotonic() - self._synced >= SYNC_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _write(self, line: str) -> None:
        content = (line.replace("\n", " ").replace("\r", " ") + "\n").encode("utf-8", NAMES)
        left = memoryview(content)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as err:
            os.ftruncate(self._file.fileno(), self.size)  # a line that did not fit goes
            if err.errno not in _FULL:
                raise
            raise OSError(
                f"no room for '{self.path}' ({err.strerror}): its {len(self.done)} lines are whole, "
                "free some and give the same command again"
            ) from err
        self.size += len(content)

    def close(self) -> None:
        """Everything on disk."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def srt(words: Sequence[Word]) -> str:
    """Subtitles in SubRip's format: at most twelve words or six seconds each, broken at pauses.

    Example
    -------
    >>> print(srt([Word("HELLO", 0.5, 0.9, 1.0), Word("THERE", 1.0, 1.4, 1.0), Word("YES", 3.0, 3.2, 1.0)]))
    1
    00:00:00,500 --> 00:00:01,400
    HELLO THERE
    <BLANKLINE>
    2
    00:00:03,000 --> 00:00:03,200
    YES
    <BLANKLINE>
    """
    groups: list[list[Word]] = []
    for word in words:
        goes_on = (
            groups
            and len(groups[-1]) < SUBTITLE_WORDS
            and word.end_s - groups[-1][0].start_s <= SUBTITLE_S
            and word.start_s - groups[-1][-1].end_s <= PAUSE_S
        )
        if goes_on:
            groups[-1].append(word)
        else:
            groups.append([word])
    return "\n".join(
        f"{number}\n{_clock(group[0].start_s)} --> {_clock(group[-1].end_s)}\n{' '.join(w.text for w in group)}\n"
        for number, group in enumerate(groups, start=1)
    )


def _clock(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d},{ms % 1000:03d}"


def _named_srt(path: Path) -> Path:
    """`.srt` in place of the suffix; behind the name of a stretch of a recording, whose numbers are no suffix."""
    stretch = split_segment(path)[1]
    return path.with_suffix(".srt") if stretch is None else path.with_name(f"{path.name}.srt")


class SubtitleFiles:
    """A file of subtitles for each recording, all under one folder; or one file for a single recording.

    `output`: a name that ends in `.srt`, for one recording; else a folder. `paths`: of the recordings; below their
    common folder, their folders are kept. ValueError when two recordings would share a file. OSError when nothing can
    be written there.

    Attributes
    ----------
    done : set of str
        Paths of recordings whose file is there already, as `in_line` gives them.
    n_failed : int
        0: recordings that failed are tried again.
    """

    def __init__(self, output: str | Path, *, paths: Sequence[str]):
        output = Path(output)
        if output.suffix.lower() == ".srt":
            if len(paths) != 1:
                raise ValueError(f"'{output}' holds one recording's subtitles, got {len(paths)}: name a folder")
            self.files = {paths[0]: output}
        else:
            common = Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))
            relative = {path: Path(os.path.abspath(path)).relative_to(common) for path in paths}
            self.files = {path: output / _named_srt(one) for path, one in relative.items()}
        taken: dict[Path, str] = {}
        for path, file in self.files.items():
            if taken.setdefault(file, path) != path:
                raise ValueError(f"'{taken[file]}' and '{path}' would share the subtitles '{file}': rename one")
        folder = output.parent if output.suffix.lower() == ".srt" else output
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as err:
            raise _cannot_write(output, err) from err
        self.done = {in_line(path) for path, file in self.files.items() if file.is_file()}
        self.n_failed = 0

    def add(self, transcript: Transcript) -> None:
        """Write a recording's file; it appears when it is whole. A failed recording gets none."""
        if transcript.error is not None:
            return
        file = self.files[transcript.audio]
        try:
            write_aside(file, srt(transcript.words))
        except OSError as err:
            raise OSError(
                f"'{file}' cannot be written ({err.strerror}): the files before it are whole, "
                "make room and give the same command again"
            ) from err

    def close(self) -> None:
        """Nothing is left open."""
