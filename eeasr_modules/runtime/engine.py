"""Decisions while the model runs: exit by exit, each utterance stops where its policy says and leaves the batch.

The walk, the heads, the signals and the policy's `step` are those of training and replay, so an utterance leaves here
where it leaves when the exit table is replayed. A head is read where the policy reads it and for those who leave. Who
left is taken out of the batch at once (`LiveBatch.visit` by `Walk.keep`); survivors of several batches may be put
together into fuller ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from eeasr_modules.common.batches import length_batches
from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary
from eeasr_modules.exits.measure.fusion import FusionModel
from eeasr_modules.exits.policies.combine import check_against
from eeasr_modules.exits.policies.protocol import Policy, reach_of
from eeasr_modules.models.decoding.attention import AttentionSearch
from eeasr_modules.models.decoding.ctc import BeamDecoder
from eeasr_modules.models.device import computed_in
from eeasr_modules.models.encoders.own_decoder import OwnDecoder
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.signals import WordFrames
from eeasr_modules.runtime.batch import LiveBatch, OnExit, Recognised
from eeasr_modules.runtime.signals import SignalPlan, spelled


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
            for (number, i), result in zip(places, batch.results, strict=True):
                results[number][i] = result if result is not None else results[number][i]
        open_batches = [one for one in open_batches if len(one[0].undecided)]
        if k < last_head:
            open_batches = _fewer(open_batches, rebatch)
    return results


def _fewer(
    batches: list[tuple[LiveBatch, list[tuple[int, int]]]],
    rebatch: Callable[[Sequence[float]], list[list[int]]],
) -> list[tuple[LiveBatch, list[tuple[int, int]]]]:
    """The undecided in fewer batches, where that is possible; the batches as they are where it is not."""
    who = [(b, row) for b, (batch, _) in enumerate(batches) for row in range(len(batch.undecided))]
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
