"""Several batches side by side: after each exit, the survivors of all are put together into fuller batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from eeasr_modules.runtime.leaving import Leaving, Recognised

if TYPE_CHECKING:
    from eeasr_modules.runtime.engine import Engine


def run_pooled(
    engine: Engine,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, Sequence[str]]],
    *,
    rebatch: Callable[[Sequence[float]], list[list[int]]],
) -> list[list[Recognised]]:
    """Transcribe several batches exit by exit, never running a deep layer for a batch that could be spared.

    Layer states of all batches are held at once; results are those of one batch after the other.

    Arguments
    ---------
    engine : Engine
        Model, policy and the rest.
    batches : iterable of (waveforms, valid samples, names)
        As `Engine.run` takes them.
    rebatch : function
        From seconds of utterances to positions in batches, such as `length_batches` with its limit.

    Returns
    -------
    list of list of Recognised
        As the batches were given.
    """
    results: list[list[Recognised | None]] = []
    last = len(engine.model.exit_layers) - 1
    open_batches: list[tuple[Leaving, list[tuple[int, int]]]] = []
    for number, (wavs, n_samples, utt_ids) in enumerate(batches):  # one front end at a time
        batch = Leaving.begin(engine, wavs, n_samples, utt_ids)
        batch.visit(0)
        results.append([None] * len(utt_ids))
        open_batches.append((batch, [(number, i) for i in range(len(utt_ids))]))
    for k in range(last + 1):
        if k:
            for batch, _ in open_batches:
                batch.visit(k)
        for batch, places in open_batches:
            batch.compact()
            for (number, i), result in zip(places, batch.recognised(), strict=True):
                results[number][i] = result if result is not None else results[number][i]
        open_batches = [one for one in open_batches if len(one[0].rows)]
        if k < last:
            open_batches = _fewer(open_batches, rebatch)
    return results


def _fewer(
    batches: list[tuple[Leaving, list[tuple[int, int]]]],
    rebatch: Callable[[Sequence[float]], list[list[int]]],
) -> list[tuple[Leaving, list[tuple[int, int]]]]:
    """The undecided in fewer batches, where that is possible; the batches as they are where it is not."""
    who = [(b, row) for b, (batch, _) in enumerate(batches) for row in range(len(batch.rows))]
    seconds = [float(batches[b][0].duration_s[batches[b][0].undecided[row]]) for b, row in who]
    wanted = rebatch(seconds)
    if len(wanted) >= len(batches):
        return batches
    made = []
    for positions in wanted:
        members = sorted(who[i] for i in positions)
        parts = []
        for b in sorted({b for b, _ in members}):
            parts.append((batches[b][0], np.array([row for at, row in members if at == b], dtype=np.int64)))
        places = [batches[b][1][int(batches[b][0].undecided[row])] for b, row in members]
        made.append((Leaving.joined(parts), places))
    return made
