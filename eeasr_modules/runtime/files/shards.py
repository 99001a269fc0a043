"""One run by several processes, on one machine or many: who does what, their parts of the output, and the merging.

Started by `torchrun`, which sets RANK, WORLD_SIZE and LOCAL_RANK. Rank 0 plans for all, every rank writes a part beside
the output, and rank 0 merges the parts when all are done. Machines must see the same files under the same paths. Who
has a Ray Data set instead lets Ray share it out: `TranscribeBatch` is what its workers call.
"""

from __future__ import annotations

import glob
import heapq
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from eeasr_modules.common.files import write_aside
from eeasr_modules.data.audio_files import file_name, split_segment
from eeasr_modules.runtime.files.outputs import NAMES, csv_values, in_line
from eeasr_modules.runtime.recogniser import EarlyExitASR

WAIT = timedelta(days=30)  # for the slowest process: a corpus may take that long
RAY_COLUMNS = ("text", "exit_layer", "layers_run", "confidence", "duration_s", "error")
BYTES_A_SECOND = 16_000  # of files whose header says nothing: coded audio at 128 kb/s

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    n_ranks: int = 1
    local_rank: int = 0  # among those on this machine, from 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.n_ranks:
            raise ValueError(f"RANK must be from 0 to WORLD_SIZE - 1, got {self.rank} of {self.n_ranks}")

    @property
    def is_first(self) -> bool:
        """Whether this one plans, merges and reports."""
        return self.rank == 0

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> Ranks:
        """As `torchrun` says by RANK, WORLD_SIZE and LOCAL_RANK; a single process without it.

        ValueError when they are not whole numbers that fit together.

        Example
        -------
        >>> Ranks.from_environment({"RANK": "3", "WORLD_SIZE": "4"})
        Ranks(rank=3, n_ranks=4, local_rank=0)
        """
        values = os.environ if environment is None else environment
        found = {name: values.get(name) or other for name, other in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))}
        try:
            return Ranks(*(int(value) for value in found.values()))
        except ValueError as err:
            raise ValueError(f"torchrun's variables must be whole numbers that fit together, got {found}") from err


def shares(seconds: Sequence[float], n_ranks: int) -> list[list[int]]:
    """Positions for each process, of nearly equal total length: the longest first, each to who has least so far.

    Longest processing time first: the fullest share exceeds the best possible one by at most a third (Graham 1969,
    "Bounds on multiprocessing timing anomalies").

    Positions rise within a share.

    Example
    -------
    >>> shares([1.0, 5.0, 2.0, 3.0, 3.0], 2)
    [[1, 2], [0, 3, 4]]
    """
    loads = [(0.0, rank) for rank in range(n_ranks)]
    found: list[list[int]] = [[] for _ in range(n_ranks)]
    for position in sorted(range(len(seconds)), key=lambda i: (-seconds[i], i)):
        load, rank = heapq.heappop(loads)
        found[rank].append(position)
        heapq.heappush(loads, (load + seconds[position], rank))
    return [sorted(share) for share in found]


def seconds_of(path: str) -> float:
    """Length of a recording by its header; guessed by the file's size where that cannot be read, 0 without a file."""
    import soundfile

    _, stretch = split_segment(path)
    if stretch is not None:
        return stretch[1] - stretch[0]
    try:
        return float(soundfile.info(file_name(path)).duration)
    except Exception:  # whatever it is, its reader will say so
        try:
            return os.path.getsize(path) / BYTES_A_SECOND
        except OSError:
            return 0.0


def part_path(output: str | Path, rank: int) -> Path:
    """Where a process writes."""
    return Path(f"{output}.part-{rank}")


def part_paths(output: str | Path) -> list[Path]:
    """Parts that lie beside an output, also those of an earlier run with more processes."""
    found = map(Path, glob.glob(glob.escape(str(output)) + ".part-*"))
    return sorted((one for one in found if one.suffix[6:].isdigit()), key=lambda one: int(one.suffix[6:]))


def line_audio(line: str, format: str) -> str:
    """The recording that a line of an output is about, as `outputs.in_line` gives it.

    Example
    -------
    >>> line_audio("a b.wav\\tHELLO", "txt"), line_audio('"a,b.wav",HELLO', "csv")
    ('a b.wav', 'a,b.wav')
    """
    if format == "txt":
        return line.split("\t", 1)[0]
    return in_line(json.loads(line)["audio"]) if format == "jsonl" else csv_values(line)[0]


def merge(output: str | Path, *, format: str, paths: Sequence[str]) -> None:
    """Put parts into the output, a line for each recording, and remove them.

    A kill at any moment loses nothing: the output is replaced whole, and what is left of parts is taken in again.

    `output`: may exist; lines of recordings that are not asked for now come first. ValueError when a recording has no
    line: a process's part is not to be seen from here.
    """
    output, parts = Path(output), part_paths(output)
    header: list[str] = []
    lines: dict[str, str] = {}
    for file in [*([output] if output.is_file() else []), *parts]:
        content = file.read_bytes().decode("utf-8", NAMES).split("\n")[:-1]
        header = content[:1] if format == "csv" else []
        for line in content[len(header) :]:
            lines.setdefault(line_audio(line, format), line)
    asked = dict.fromkeys(map(in_line, paths))
    missing = [path for path in asked if path not in lines]
    if missing:
        raise ValueError(
            f"{len(missing)} recordings have no line in the parts of '{output}' (first: '{missing[0]}'): all processes "
            "must write to the same file system; the parts are kept"
        )
    order = [*(path for path in lines if path not in asked), *asked]
    text = "".join(line + "\n" for line in [*header, *(lines[path] for path in order)])
    try:
        write_aside(output, text.encode("utf-8", NAMES), sync=True)
    except OSError as err:
        raise OSError(f"no room to merge the parts of '{output}' ({err.strerror}): they are whole and kept") from err
    for part in parts:
        part.unlink()


class Group:
    """The processes of a run, talking through torch.distributed (gloo); alone, nothing is started."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks

    def __enter__(self) -> Group:
        if self.ranks.n_ranks > 1:
            import torch.distributed as dist

            dist.init_process_group("gloo", timeout=WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        if self.ranks.n_ranks > 1:
            import torch.distributed as dist

            dist.destroy_process_group()

    def from_first(self, make: Callable[[], Result]) -> Result:
        """What the first process makes, for all; its ValueError or OSError is raised in all."""
        made: list[Any] = [None, None]
        if self.ranks.is_first:
            try:
                made[0] = make()
            except (ValueError, OSError) as err:
                made[1] = err
        if self.ranks.n_ranks > 1:
            import torch.distributed as dist

            dist.broadcast_object_list(made, src=0)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def gathered(self, value: Result) -> list[Result]:
        """Every process's value, in the order of ranks; waits for all. OSError when another process has stopped."""
        if self.ranks.n_ranks == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.ranks.n_ranks
        try:
            dist.all_gather_object(found, value)
        except RuntimeError as err:
            raise OSError(
                "another process has stopped: see what it said, then give the same command again; finished recordings "
                "are kept"
            ) from err
        return found


class TranscribeBatch:
    """Adds transcripts to batches of rows, for `map_batches`; needs no Ray itself, reads weights with its first batch.

    Arguments
    ---------
    model : str
        See `EarlyExitASR.from_pretrained`; every machine must find it under this name.
    column : str
        Holds paths, or arrays of shape (samples,) or (samples, channels).
    sample_rate : int or None
        Hz of arrays; None means the model's.
    threads : int or None
        Of torch, per worker; None leaves what Ray sets.
    **options
        Further arguments of `EarlyExitASR.from_pretrained`, such as `policy`, `budget` and `device`.

    Raises
    ------
    ValueError, FileNotFoundError
        As `EarlyExitASR.from_pretrained`.

    Example
    -------
    >>> import ray                                                                          # doctest: +SKIP
    >>> rows = ray.data.from_items([{"path": "a.wav"}, {"path": "b.wav"}])                  # doctest: +SKIP
    >>> rows = rows.map_batches(                                                            # doctest: +SKIP
    ...     TranscribeBatch, fn_constructor_kwargs={"model": "runs/an4/model", "budget": 0.7}, concurrency=2
    ... )
    >>> rows.write_parquet("transcripts")                                                   # doctest: +SKIP
    """

    def __init__(
        self, model: str, *, column: str = "path", sample_rate: int | None = None, threads: int | None = None, **options
    ):
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self.asr = EarlyExitASR.from_pretrained(model, **options)
        self.column, self.sample_rate = column, sample_rate

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray | Sequence]:
        """The batch with the columns `RAY_COLUMNS` added.

        `batch` (rows,): columns, as Ray Data hands them over. Returns: `text` (str), `exit_layer` (int, 0 for none),
        `layers_run`, `confidence`, `duration_s` (float, nan for none) and `error` (str, "" for none): a recording that
        cannot be read loses no other. ValueError when there is no such column, or one of the new ones is there already.
        """
        if self.column not in batch:
            raise ValueError(f"the data must have the column '{self.column}', got {', '.join(batch)}; column= names it")
        taken = sorted(set(RAY_COLUMNS) & set(batch))
        if taken:
            raise ValueError(
                f"the columns {', '.join(RAY_COLUMNS)} are added, but {', '.join(taken)} is there: rename it"
            )
        # Ray hands lists of unequal lengths over as arrays of objects
        audio = [
            str(one) if isinstance(one, str | np.str_) else np.asarray(one, dtype=np.float32)
            for one in batch[self.column]
        ]
        found = self.asr.transcribe(audio, sample_rate=self.sample_rate)
        numbers = {
            name: np.array(
                [np.nan if (one := getattr(each, name)) is None else one for each in found], dtype=np.float64
            )
            for name in ("layers_run", "confidence", "duration_s")
        }
        return {
            **batch,
            "text": np.array([one.text for one in found], dtype=object),
            "exit_layer": np.array([one.exit_layer or 0 for one in found], dtype=np.int64),
            **numbers,
            "error": np.array([one.error or "" for one in found], dtype=object),
        }
