"""Transcribing a Ray Data set: a callable class for `map_batches`, one model per worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eeasr_modules.runtime.recogniser import EarlyExitASR

COLUMNS = ("text", "exit_layer", "layers_run", "confidence", "duration_s", "error")


class TranscribeBatch:
    """Adds transcripts to batches of rows. Needs no Ray itself; a worker reads the weights with its first batch.

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
        self,
        model: str,
        *,
        column: str = "path",
        sample_rate: int | None = None,
        threads: int | None = None,
        **options,
    ):
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self.asr = EarlyExitASR.from_pretrained(model, **options)
        self.column, self.sample_rate = column, sample_rate

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray | Sequence]:
        """The batch with the columns `COLUMNS` added.

        ValueError when there is no such column, or one of the new ones is there already.

        Arguments
        ---------
        batch : dict of str to array of shape (rows,)
            Columns, as Ray Data hands them over.

        Returns
        -------
        dict
            `text` (str), `exit_layer` (int, 0 for none), `layers_run`, `confidence`, `duration_s` (float, nan for none)
            and `error` (str, "" for none): a recording that cannot be read loses no other.
        """
        if self.column not in batch:
            raise ValueError(f"the data must have the column '{self.column}', got {', '.join(batch)}; column= names it")
        taken = sorted(set(COLUMNS) & set(batch))
        if taken:
            raise ValueError(f"the columns {', '.join(COLUMNS)} are added, but {', '.join(taken)} is there: rename it")
        found = self.asr.transcribe([_plain(one) for one in batch[self.column]], sample_rate=self.sample_rate)
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


def _plain(one) -> str | np.ndarray:
    """A path as str, samples as an array of floats (Ray hands lists of unequal lengths over as objects)."""
    return str(one) if isinstance(one, str | np.str_) else np.asarray(one, dtype=np.float32)
