"""What every exit makes of one recording, and where each policy would have stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from eeasr_modules.data.audio import AudioReader
from eeasr_modules.data.text import normalise_english
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.runtime.chunks import chunks
from eeasr_modules.runtime.engine import Engine
from eeasr_modules.runtime.policy_choice import within_budget
from eeasr_modules.runtime.recogniser import EarlyExitASR

ALL_POLICIES_UP_TO_S = 60.0  # of longer recordings the model's own policy alone is asked


@dataclass(frozen=True)
class ExitTranscripts:
    """Transcripts of the exits so far.

    Arguments
    ---------
    exit_layers : tuple of int
        The model's exits.
    texts : tuple of str
        Of each exit, of the pieces heard so far; "" for an exit that has not been reached.
    n_reached : int
        Exits that the piece at hand has reached.
    n_pieces, n_done : int
        Pieces that the recording was cut in, and those that every exit has heard.
    duration_s : float
        Of the recording.
    pieces : tuple of torch.Tensor of shape (samples,)
        The recording, cut where it is quiet.
    """

    exit_layers: tuple[int, ...]
    texts: tuple[str, ...]
    n_reached: int
    n_pieces: int
    n_done: int
    duration_s: float
    pieces: tuple[torch.Tensor, ...]

    @property
    def is_done(self) -> bool:
        """Whether every exit has heard everything."""
        return self.n_done == self.n_pieces


@dataclass(frozen=True)
class Stop:
    """Where one policy would have stopped.

    Arguments
    ---------
    policy : str
        As calibrated; its name where it cannot keep the budget.
    exit_layer : float
        Mean over pieces, by duration; nan without a decision.
    text : str
        What it would have said.
    layers_saved : float
        Share of the encoder's layers that did not run.
    why_not : str
        Why there is no decision; "" where there is one.
    """

    policy: str
    exit_layer: float
    text: str
    layers_saved: float
    why_not: str = ""


def listen(asr: EarlyExitASR, path: str) -> Iterator[ExitTranscripts]:
    """Hear a recording, piece by piece and exit by exit; one `ExitTranscripts` after every exit.

    Raises
    ------
    ValueError
        When the file is not audio, or holds too little of it.
    """
    engine = asr.engine
    reader = AudioReader(path, engine.sample_rate)
    found = chunks(reader.blocks_of_speech(), sample_rate=engine.sample_rate, longest_s=asr.longest_s, overlap_s=0.0)
    pieces = tuple(chunk.wav for chunk in found)
    layers = tuple(engine.model.exit_layers)
    said: list[list[str]] = [[] for _ in layers]
    hearing = ExitTranscripts(
        layers, ("",) * len(layers), 0, len(pieces), 0, reader.n_samples / engine.sample_rate, pieces
    )
    for done, piece in enumerate(pieces):
        every = engine.every_exit(piece[None], torch.tensor([len(piece)]))
        for k, (_, texts) in enumerate(every):
            said[k].append(texts[0])
            so_far = tuple(" ".join(filter(None, parts)) for parts in said)
            n_done = done + (k == len(layers) - 1)
            hearing = replace(hearing, texts=so_far, n_reached=k + 1, n_done=n_done)
            yield hearing


def stops(asr: EarlyExitASR, hearing: ExitTranscripts, *, budget: float) -> list[Stop]:
    """Where the model's calibrated policies stop on a recording that was heard.

    Arguments
    ---------
    asr : EarlyExitASR
        The model.
    hearing : ExitTranscripts
        Of the whole recording.
    budget : float
        Mean depth allowed on the calibration data, a share of the layers.
    """
    entries = asr.source.calibrated
    if not entries:
        return [_stop(asr, hearing, asr.policy)]
    found = []
    for entry in entries[: None if hearing.duration_s <= ALL_POLICIES_UP_TO_S else 1]:
        try:
            policy = within_budget(entry, budget, hearing.exit_layers[-1])
        except ValueError as err:
            found.append(Stop(str(entry.open_policy), float("nan"), "", 0.0, str(err)))
            continue
        found.append(_stop(asr, hearing, policy))
    return found


def _stop(asr: EarlyExitASR, hearing: ExitTranscripts, policy: Policy) -> Stop:
    engine = asr.engine
    deciding = Engine(
        engine.model,
        engine.vocabulary,
        policy=policy,
        precision=engine.precision,
        seed=engine.seed,
        language=engine.language,
    )
    names = [f"piece {i}" for i in range(len(hearing.pieces))]
    results = deciding.run_all(hearing.pieces, utt_ids=names, batch_seconds=asr.batch_seconds)
    weights = [len(piece) for piece in hearing.pieces]
    layer = float(np.average([one.decided_layer for one in results], weights=weights))
    text = " ".join(one.text for one in results if one.text)
    return Stop(str(policy), layer, text, 1.0 - layer / hearing.exit_layers[-1])


def word_error_rates(texts: Sequence[str], reference: str) -> tuple[list[float], int]:
    """WER of every exit (percent) and the oracle's exit: the earliest of those with the fewest errors.

    Arguments
    ---------
    texts : sequence of str
        Of each exit.
    reference : str
        As typed; compared without case and punctuation.

    Raises
    ------
    ValueError
        When the reference has no words, or digits, which cannot be compared with words.

    Example
    -------
    >>> word_error_rates(["HELO", "HELLO THERE", "HELLO THERE"], "Hello there!")
    ([100.0, 0.0, 0.0], 1)
    """
    spoken = normalise_english(reference)
    if not spoken:
        raise ValueError(f"the reference must be words (numbers written out), got {reference.strip()!r}")
    errors = [sum(count_edits(spoken, normalise_english(text, unreadable="remove"))) for text in texts]
    return [100.0 * one / len(spoken.split()) for one in errors], int(np.argmin(errors))
