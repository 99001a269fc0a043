"""The test pass on several processes: each tests its share of a set, and the first joins their tables."""

import logging
from pathlib import Path

import torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from eeasr_modules.data.pipeline import manifest_items
from eeasr_modules.exits.parquet import read_table, write_table
from eeasr_modules.exits.table import ExitTable
from eeasr_modules.exits.table_join import join_tables
from eeasr_modules.training.collect import collect_or_reuse, stored
from eeasr_modules.training.corpora import EvaluationSet

logger = logging.getLogger(__name__)


def processes() -> tuple[int, int]:
    """Which process this is, from 0, and how many there are."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def collect_by_share(
    model, vocabulary, evaluation_set: EvaluationSet, path: Path, *, metadata: dict, **options
) -> ExitTable:
    """As `collect.collect_or_reuse`, by all processes of the run together; every one gets the whole table.

    Each writes its share beside `path` (`<name>.part-<rank>-of-<n>.parquet`), which a run that is started again with as
    many processes finds there. Which process an utterance falls to changes nothing but rounding in the last digits.

    Arguments
    ---------
    model, vocabulary, evaluation_set, path, metadata, options
        As of `collect.collect_or_reuse`.

    Returns
    -------
    ExitTable
    """
    rank, n_ranks = processes()
    if n_ranks == 1:
        return collect_or_reuse(model, vocabulary, evaluation_set, path, metadata=metadata, **options)
    asked = {name: options.get(name, default) for name, default in _DEFAULTS.items()}
    whole = stored(path, {**metadata, **asked}, evaluation_set)
    ddp_barrier()  # nobody writes while others still look
    if whole is not None:
        return whole
    parts = [path.with_name(f"{path.stem}.part-{one}-of-{n_ranks}.parquet") for one in range(n_ranks)]
    mine = {**metadata, "share": f"{rank} of {n_ranks}"}
    options["progress"] = options.get("progress", True) and rank == 0
    collect_or_reuse(model, vocabulary, evaluation_set, parts[rank], metadata=mine, share=(rank, n_ranks), **options)
    ddp_barrier()
    if if_main_process():
        order = list(manifest_items(evaluation_set.manifests, limit=options.get("limit")))
        shares = [read_table(part) for part in parts]
        heard = {"audio_digest": shares[0].metadata["audio_digest"]}
        joined = join_tables(shares, order, metadata={**metadata, **asked, **heard})
        write_table(joined, path)
        for part in parts:
            part.unlink()
    ddp_barrier()
    return read_table(path)


_DEFAULTS = {"precision": "fp32", "average_exits": 0, "nbest": 0}
