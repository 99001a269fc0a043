"""One transcript of what was recognised in a recording's chunks."""

import numpy as np

from eeasr_modules.exits.word_confidence import ConfidenceMap
from eeasr_modules.runtime.chunks import stitch
from eeasr_modules.runtime.confidence import with_probabilities
from eeasr_modules.runtime.transcript import Transcript
from eeasr_modules.runtime.underway import Underway


def assembled(
    recording: Underway,
    *,
    policy: str,
    model: str,
    n_layers: int,
    sample_rate: int,
    confidence_map: ConfidenceMap | None = None,
    drift: bool | None = None,
) -> Transcript:
    """Transcript of a recording whose chunks are all recognised, or that failed.

    Arguments
    ---------
    recording : Underway
        Complete.
    policy, model : str
        That decided, and whose.
    n_layers : int
        The encoder's.
    sample_rate : int
        Hz of `recording.n_samples`.
    confidence_map : ConfidenceMap or None
        Makes word confidences probabilities; None leaves the heads' own.
    drift : bool or None
        Whether the watch has raised its alarm; None without a watch.

    Returns
    -------
    Transcript
        Depth and the heads' confidence are means over chunks by their seconds.
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
        layers_run=float(np.average([one.layers_run for one in results], weights=seconds)),
        confidence=confidence,
        blank_rates=tuple(one.blank_rate for one in results),
        drift=drift,
        duration_s=recording.n_samples / sample_rate,
        warnings=recording.warnings,
        **common,
    )
