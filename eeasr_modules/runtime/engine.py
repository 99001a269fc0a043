"""Decisions while the model runs: exit by exit, each utterance stops where its policy says and leaves the batch.

The walk, the heads, the signals and the policy's `step` are those of training and replay, so an utterance leaves
here where it leaves when the exit table is replayed. A head is read where the policy reads it and for those who
leave; signals that the policy does not need are not computed. Per exit one small copy goes to the host, and one
more where somebody leaves.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary
from eeasr_modules.exits.combinations import check_against
from eeasr_modules.exits.policies import Policy
from eeasr_modules.models.attention_search import AttentionSearch
from eeasr_modules.models.beam import BeamDecoder
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.precision import computed_in
from eeasr_modules.models.word_signals import WordFrames
from eeasr_modules.runtime.compaction import Always, Compaction
from eeasr_modules.runtime.leaving import Leaving, OnExit, Recognised
from eeasr_modules.runtime.live_signals import SignalPlan, spelled
from eeasr_modules.runtime.pooling import run_pooled


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
    ):
        if policy.is_open:
            raise ValueError(f"{policy} is open and cannot decide: give its arguments or calibrate it on dev")
        check_against(policy, model.exit_layers)
        if len(vocabulary) != model.config["n_tokens"]:
            raise ValueError(
                f"the vocabulary must hold the model's {model.config['n_tokens']} tokens, got {len(vocabulary)}"
            )
        self.model, self.vocabulary, self.policy = model, vocabulary, policy
        self.compaction = Always() if compaction is None else compaction
        self.seed, self.language, self.precision = seed, language, precision
        self.decoder = decoder
        self.plan = SignalPlan(policy, model.exit_layers, spells=isinstance(decoder, AttentionSearch))
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
            return Leaving.begin(self, wavs, n_samples, utt_ids, on_exit=on_exit).run()

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

        Returns
        -------
        list of Recognised
        """
        results: list[Recognised | None] = [None] * len(wavs)
        rebatch = functools.partial(length_batches, batch_seconds=batch_seconds)
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


def length_batches(durations_s: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Positions in batches of similar length, longest first; padded length at most `batch_seconds` (one at the least).

    Arguments
    ---------
    durations_s : sequence of float
        Of each utterance.
    batch_seconds : float
        Longest padded batch.

    Returns
    -------
    list of list of int

    Example
    -------
    >>> length_batches([3.0, 1.0, 1.5, 9.0], 4.0)
    [[3], [0], [2, 1]]
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(durations_s)), key=lambda i: -durations_s[i]):
        if batches and durations_s[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches
