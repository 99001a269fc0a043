"""Decisions while the model runs: exit by exit, each utterance stops where its policy says and leaves the batch.

The walk, the heads, the signals and the policy's `step` are those of training and replay, so an utterance leaves here
where it leaves when the exit table is replayed. A head is read where the policy reads it and for those who leave. Who
left is taken out of the batch at once, or where a rule says that the next layers repay the copy; survivors of several
batches may be put together into fuller ones.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from eeasr_modules.common.batches import length_batches
from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary
from eeasr_modules.exits.measure.fusion import FusionModel
from eeasr_modules.exits.policies.combine import check_against
from eeasr_modules.exits.policies.protocol import Policy, reach_of
from eeasr_modules.models.decoding.attention import AttentionSearch
from eeasr_modules.models.decoding.ctc import BeamDecoder
from eeasr_modules.models.device import computed_in, wait_for
from eeasr_modules.models.encoders.own_decoder import OwnDecoder
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.signals import WordFrames
from eeasr_modules.models.walk import Encoder, WalkState
from eeasr_modules.runtime.batch import LiveBatch, OnExit, Recognised
from eeasr_modules.runtime.signals import SignalPlan, spelled

SHAPES = ((1, 50), (1, 200), (2, 400), (4, 200), (8, 50), (8, 200), (16, 100))


class Compaction(Protocol):
    """The rule."""

    def pays(self, before: tuple[int, int], after: tuple[int, int], *, n_layers: int) -> bool:
        """Whether a batch of `after` (utterances, frames) in place of `before` repays the copy within `n_layers`."""


@dataclass(frozen=True)
class Always:
    """Who leaves is taken out at once: no layer runs for anybody who left."""

    def pays(self, before: tuple[int, int], after: tuple[int, int], *, n_layers: int) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class WhenItPays:
    """Compares measured times.

    Arguments
    ---------
    layer_s : tuple of float
        Seconds of one layer: constant, per frame of the batch, per squared frame of an utterance.
    copy_s : tuple of float
        Seconds of taking utterances out: constant, per frame that stays.

    Example
    -------
    >>> rule = WhenItPays(layer_s=(1e-3, 1e-5, 0.0), copy_s=(5e-4, 1e-7))
    >>> rule.pays((8, 100), (4, 100), n_layers=1), rule.pays((8, 100), (8, 99), n_layers=1)
    (True, False)
    """

    layer_s: tuple[float, float, float]
    copy_s: tuple[float, float]

    def layer_time_s(self, n_utterances: int, n_frames: int) -> float:
        """Seconds of one layer on a batch padded to `n_frames`."""
        return float(np.dot(self.layer_s, _layer_terms(n_utterances, n_frames)))

    def pays(self, before: tuple[int, int], after: tuple[int, int], *, n_layers: int) -> bool:
        """Whether the layers up to the next exit save more than the copy costs."""
        saved = n_layers * (self.layer_time_s(*before) - self.layer_time_s(*after))
        return saved > self.copy_s[0] + self.copy_s[1] * after[0] * after[1]


def _layer_terms(n_utterances: int, n_frames: int) -> tuple[float, float, float]:
    return 1.0, float(n_utterances * n_frames), float(n_utterances * n_frames**2)


@torch.inference_mode()
def measure_compaction(
    encoder: Encoder, *, shapes: Sequence[tuple[int, int]] = SHAPES, n_repeats: int = 3
) -> WhenItPays:
    """A rule fitted to this encoder on this machine: medians of a few layers and copies on noise.

    Arguments
    ---------
    encoder : Encoder
        In eval mode, on its device.
    shapes : sequence of (int, int)
        Utterances and frames to measure; at least three.
    n_repeats : int
        Timed runs of each, after one that is not.

    Returns
    -------
    WhenItPays
        Coefficients are non-negative least squares of the relative error.
    """
    from scipy.optimize import nnls

    parameter = next(encoder.parameters())
    layer_times, copy_times = [], []
    for n_utterances, n_frames in shapes:
        hidden = torch.randn(n_utterances, n_frames, encoder.dim, device=parameter.device, dtype=parameter.dtype)
        counts = torch.full((n_utterances,), n_frames, device=parameter.device)
        state = encoder.refresh(WalkState(hidden, counts))
        kept = torch.ones(n_utterances, dtype=torch.bool, device=parameter.device)

        def layer(state=state):
            encoder.run_layer(1, state)

        def copy(state=state, kept=kept, n_frames=n_frames):
            encoder.refresh(WalkState(state.hidden[kept][:, :n_frames], state.n_frames[kept], state.extra))

        layer_times.append(_median_s(layer, parameter.device, n_repeats))
        copy_times.append(_median_s(copy, parameter.device, n_repeats))
    layer_terms = np.array([_layer_terms(*shape) for shape in shapes])
    copy_terms = np.array([(1.0, float(b * t)) for b, t in shapes])
    # divided by the measured time, so that small batches count as much as large ones
    layer_s, _ = nnls(layer_terms / np.array(layer_times)[:, None], np.ones(len(shapes)))
    copy_s, _ = nnls(copy_terms / np.array(copy_times)[:, None], np.ones(len(shapes)))
    return WhenItPays(tuple(layer_s.tolist()), tuple(copy_s.tolist()))


def _median_s(run, device: torch.device, n_repeats: int) -> float:
    times = []
    for _ in range(n_repeats + 1):
        wait_for(device)
        start = time.perf_counter()
        run()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


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
    last, last_head = len(engine.exit_layers) - 1, len(engine.model.exit_layers) - 1
    open_batches: list[tuple[LiveBatch, list[tuple[int, int]]]] = []
    for number, (wavs, n_samples, utt_ids) in enumerate(batches):  # one front end at a time
        batch = LiveBatch.begin(engine, wavs, n_samples, utt_ids)
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
        if k < last_head:
            open_batches = _fewer(open_batches, rebatch)
    return results


def _fewer(
    batches: list[tuple[LiveBatch, list[tuple[int, int]]]],
    rebatch: Callable[[Sequence[float]], list[list[int]]],
) -> list[tuple[LiveBatch, list[tuple[int, int]]]]:
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
        made.append((LiveBatch.joined(parts), places))
    return made


class Engine:
    """A model, its vocabulary and a policy, ready to transcribe batches.

    Arguments
    ---------
    model : MultiExit
        In eval mode, on its device.
    vocabulary : CharVocabulary or SentencePieceVocabulary
        The model's.
    policy : policy
        Not open, naming only layers with an exit.
    compaction : Compaction or None
        When those who left are taken out of the batch; None for always.
    precision : str
        "bfloat16" or "float16": products are computed in 16 bits; any other: as the weights are.
    seed : int
        Of the policy `random`; an exit table's is in its metadata.
    language : str
        Of the words that text policies look up.
    decoder : BeamDecoder, AttentionSearch or None
        Searches for the transcript at the exit where an utterance leaves; None for greedy decoding. The policy decides
        on greedy transcripts either way; one that reads the attention decoder's signals has it spell at every exit
        that it reads.
    gives_log_probs : bool
        Results carry the log-probs of the exit that gave them.
    fusion : FusionModel or None
        Fuses the words of the exits passed, for which every exit's head is read; None for the words of the exit taken.

    Raises
    ------
    ValueError
        When the policy cannot decide for this model.
    """

    def __init__(
        self,
        model: MultiExit,
        vocabulary: CharVocabulary | SentencePieceVocabulary,
        *,
        policy: Policy,
        compaction: Compaction | None = None,
        precision: str = "float32",
        seed: int = 0,
        language: str = "en",
        decoder: BeamDecoder | AttentionSearch | None = None,
        gives_log_probs: bool = False,
        fusion: FusionModel | None = None,
    ):
        if policy.is_open:
            raise ValueError(f"{policy} is open and cannot decide: give its arguments or calibrate it on dev")
        self.exit_layers, self.own = model.all_exit_layers, OwnDecoder.of(model)
        check_against(policy, self.exit_layers)
        if self.own is not None and reach_of(policy):
            raise ValueError(f"{policy} may emit an earlier exit than it stops at, which is not for decoder: own")
        if len(vocabulary) != model.config["n_tokens"]:
            raise ValueError(
                f"the vocabulary must hold the model's {model.config['n_tokens']} tokens, got {len(vocabulary)}"
            )
        self.model, self.vocabulary, self.policy = model, vocabulary, policy
        self.compaction = Always() if compaction is None else compaction
        self.seed, self.language, self.precision = seed, language, precision
        self.decoder, self.gives_log_probs, self.fusion = decoder, gives_log_probs, fusion
        spells = isinstance(decoder, AttentionSearch)
        fused = None if fusion is None else fusion.needs
        self.plan = SignalPlan(policy, self.exit_layers, spells=spells, remembers=model.reach, fused=fused)
        self.spellings = vocabulary.spellings
        self.word_frames = WordFrames(self.spellings, blank_index=model.blank_index) if self.plan.of_words else None
        self.sample_rate = model.config["sample_rate"]
        self.frame_s = model.frame_s

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def run(
        self, wavs: torch.Tensor, n_samples: torch.Tensor, *, utt_ids: Sequence[str], on_exit: OnExit | None = None
    ) -> list[Recognised]:
        """Transcribe one batch.

        Arguments
        ---------
        wavs : torch.Tensor of shape (batch, samples)
            Zero-padded waveforms.
        n_samples : torch.Tensor of shape (batch,)
            Valid samples.
        utt_ids : sequence of str, batch long
            Names; only the policy `random` looks at them.
        on_exit : function or None
            Called at each exit with its layer, positions in the batch of those who go on, and what that exit says of
            them (by greedy decoding).

        Returns
        -------
        list of Recognised
            In the order of the batch.
        """
        with computed_in(self.precision, self.device):
            return LiveBatch.begin(self, wavs, n_samples, utt_ids, on_exit=on_exit).run()

    def run_all(
        self,
        wavs: Sequence[torch.Tensor],
        *,
        utt_ids: Sequence[str],
        batch_seconds: float = 60.0,
        pool_survivors: bool = False,
        on_exit: OnExit | None = None,
    ) -> list[Recognised]:
        """Transcribe many utterances in batches of similar length; results in the order they were given.

        Arguments
        ---------
        wavs : sequence of torch.Tensor of shape (samples,)
            At the model's sample rate.
        utt_ids : sequence of str
            Names.
        batch_seconds : float
            Longest padded batch (a longer utterance is alone); results do not depend on it.
        pool_survivors : bool
            Take all batches through the exits side by side and put those who are left into fewer of them. Layer states
            of all are held at once; results do not depend on it.
        on_exit : function or None
            As `run` takes it, with positions in `wavs`; not called while survivors are pooled.
        """
        results: list[Recognised | None] = [None] * len(wavs)
        rebatch = functools.partial(length_batches, batch_seconds=batch_seconds, longest_first=True)
        positions = rebatch([len(wav) / self.sample_rate for wav in wavs])
        batches = (
            (
                torch.nn.utils.rnn.pad_sequence([wavs[i] for i in batch], batch_first=True),
                torch.tensor([len(wavs[i]) for i in batch]),
                [utt_ids[i] for i in batch],
            )
            for batch in positions
        )
        if pool_survivors:
            with torch.inference_mode(), computed_in(self.precision, self.device):
                found = run_pooled(self, batches, rebatch=rebatch)
        else:
            found = (
                self.run(padded, n_samples, utt_ids=names, on_exit=_placed(on_exit, batch))
                for batch, (padded, n_samples, names) in zip(positions, batches, strict=True)
            )
        for batch, recognised in zip(positions, found, strict=True):
            for i, one in zip(batch, recognised, strict=True):
                results[i] = one
        return results

    @torch.inference_mode()
    def every_exit(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> Iterator[tuple[int, list[str]]]:
        """Transcripts of every exit for a batch, as (exit layer, texts); nobody leaves, the policy is not asked.

        Arguments
        ---------
        wavs : torch.Tensor of shape (batch, samples)
            Zero-padded waveforms.
        n_samples : torch.Tensor of shape (batch,)
            Valid samples.
        """
        exits = self.model.exits(wavs.to(self.device), n_samples.to(self.device))
        while True:
            with computed_in(self.precision, self.device):
                output = next(exits, None)
            if output is None:
                return
            best = output.log_probs.argmax(dim=-1).cpu().numpy()
            yield output.exit_layer, self.texts(best, output.n_frames.tolist())

    def texts(self, best: np.ndarray, n_frames: Sequence[int]) -> list[str]:
        """Transcripts of greedy paths (n, frames)."""
        return spelled(best, n_frames, vocabulary=self.vocabulary, blank_index=self.model.blank_index)


def _placed(on_exit: OnExit | None, batch: Sequence[int]) -> OnExit | None:
    """The listener with positions of a batch where it expects those of all utterances."""
    if on_exit is None:
        return None
    return lambda exit_layer, who, texts: on_exit(exit_layer, [batch[i] for i in who], texts)
