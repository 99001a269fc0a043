"""Transcripts by an attention decoder: SpeechBrain's searchers, joint CTC scores, and how sure the decoder is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eeasr_modules.models.attention_decoder import NEVER_SAID, AttentionDecoder
from eeasr_modules.models.multi_exit import MultiExit


@dataclass(frozen=True)
class AttentionOptions:
    """How the attention decoder searches.

    Arguments
    ---------
    beam_size : int
        Transcripts kept at every token; 1 is greedy, by the decoder alone.
    ctc_weight : float
        Share of the exit's CTC prefix scores in the score of a beam, 0 to below 1.

    Raises
    ------
    ValueError
        When a number is out of range.
    """

    beam_size: int = 10
    ctc_weight: float = 0.3

    def __post_init__(self):
        if self.beam_size < 1:
            raise ValueError(f"attention_beam_size must be at least 1, got {self.beam_size}")
        if not 0 <= self.ctc_weight < 1:
            raise ValueError(f"attention_ctc_weight must lie from 0 to below 1, got {self.ctc_weight}")


@dataclass(frozen=True)
class Decoded:
    """What the decoder spells at one exit.

    Arguments
    ---------
    tokens : list of int
        Without beginning and end.
    signals : dict of str to float
        `sequence_log_prob`: the decoder's log-prob of its tokens and the end, nats, the mean over them;
        `token_entropy`: the entropy of its choices of them, nats, the mean likewise.
    macs : float
        Multiply-accumulates of the decoder that were run for it.
    """

    tokens: list[int]
    signals: dict[str, float]
    macs: float


class AttentionSearch:
    """Searches for the transcript of one utterance at one exit.

    Beams are SpeechBrain's `S2STransformerBeamSearcher` with its `CTCScorer`, a beam of 1 its greedy searcher. Each
    utterance is searched alone and without padding, so that its transcript does not depend on its batch; a transcript
    has at most as many tokens as there are frames.

    Arguments
    ---------
    model : MultiExit
        With an attention decoder, in eval mode.
    options : AttentionOptions
        Beam and CTC.

    Raises
    ------
    ValueError
        When the model has no attention decoder.
    """

    def __init__(self, model: MultiExit, *, options: AttentionOptions):
        if model.decoder is None:
            raise ValueError(
                "decoding by attention needs a model that was trained with attention_decoder: true; this one has CTC "
                "exits only"
            )
        self.decoder, self.blank_index, self.options = model.decoder, model.blank_index, options
        self._counted = _CountedDecoder(model.decoder)
        self._known = _KnownLogProbs()
        self._searcher = self._made_searcher()

    def _made_searcher(self) -> torch.nn.Module:
        from speechbrain.decoders.scorer import ScorerBuilder
        from speechbrain.decoders.seq2seq import S2STransformerBeamSearcher, S2STransformerGreedySearcher

        common = {
            "modules": [self._counted, self.decoder.to_tokens],
            "bos_index": self.decoder.begin_index,
            "eos_index": self.decoder.end_index,
            "min_decode_ratio": 0.0,
            "max_decode_ratio": 1.0,
        }
        if self.options.beam_size == 1:
            return S2STransformerGreedySearcher(**common).eval()
        scorer = None
        if self.options.ctc_weight:
            scorer = ScorerBuilder(weights={"ctc": self.options.ctc_weight}, partial_scorers=[self._made_ctc_scorer()])
        return S2STransformerBeamSearcher(
            **common,
            beam_size=self.options.beam_size,
            scorer=scorer,
            using_eos_threshold=scorer is None,  # CTC rules out ends that come too early; without it nothing would
        ).eval()

    def _made_ctc_scorer(self):
        """SpeechBrain's scorer, its scores kept within what log-probs can be.

        It gives a token that it rules out -1e20, and the token after that +1e20, which cancels: a beam wider than the
        vocabulary then ends with a transcript that holds blanks.
        """
        from speechbrain.decoders.scorer import CTCScorer

        class CTCScorerInBounds(CTCScorer):  # a name that begins so: ScorerBuilder knows scorers by it
            def score(self, *arguments):
                scores, memory = super().score(*arguments)
                return scores.clamp(NEVER_SAID, 0.0), memory

        return CTCScorerInBounds(self._known, blank_index=self.blank_index, eos_index=self.decoder.end_index)

    @torch.no_grad()
    def decode(self, exit_index: int, hidden: torch.Tensor, log_probs: torch.Tensor) -> Decoded:
        """The best transcript of one utterance.

        Arguments
        ---------
        exit_index : int
            From 0.
        hidden : torch.Tensor of shape (frames, dim)
            The exit's layer states, without padding.
        log_probs : torch.Tensor of shape (frames, tokens)
            Of the exit's CTC head, likewise.
        """
        if not len(hidden):
            return Decoded([], _how_sure(0.0, 0.0), 0.0)
        memory = self.decoder.memory(hidden.float()[None], exit_index=exit_index)
        self._counted.macs = self.decoder.memory_macs(len(hidden))
        # beginning and end are no tokens of CTC
        self._known.log_probs = torch.nn.functional.pad(log_probs.float()[None], (0, 2), value=NEVER_SAID)
        found = self._searcher(memory, torch.ones(1, device=memory.device))[0][0]
        tokens = [int(token) for token in found]
        return Decoded(tokens, self.signals(tokens, memory), self._counted.macs)

    def signals(self, tokens: Sequence[int], memory: torch.Tensor) -> dict[str, float]:
        """How sure the decoder is of a transcript: `sequence_log_prob` and `token_entropy`.

        Arguments
        ---------
        tokens : sequence of int
            Without beginning and end.
        memory : torch.Tensor of shape (1, frames, dim)
            Of `AttentionDecoder.memory`.
        """
        said = torch.tensor([[*tokens, self.decoder.end_index]], dtype=torch.long, device=memory.device)
        states, _ = self._counted.decode(self.decoder.prefixes(said[:, :-1]), memory, None)
        log_probs = torch.log_softmax(self.decoder.to_tokens(states), dim=-1)[0].double()
        chosen = log_probs.gather(1, said.T)
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
        return _how_sure(chosen.mean().item(), entropy.mean().item())


def _how_sure(sequence_log_prob: float, token_entropy: float) -> dict[str, float]:
    return {"sequence_log_prob": sequence_log_prob, "token_entropy": token_entropy}


class _CountedDecoder:
    """The decoder as searchers call it, with a count of its multiply-accumulates."""

    def __init__(self, decoder: AttentionDecoder):
        self.decoder, self.macs = decoder, 0.0

    def decode(self, prefixes: torch.Tensor, memory: torch.Tensor, n_frames: torch.Tensor | None):
        self.macs += self.decoder.step_macs(*prefixes.shape, memory.shape[1])
        return self.decoder.decode(prefixes, memory, None)  # nothing is padded


class _KnownLogProbs:
    """What SpeechBrain's scorer takes for a CTC projection: the head has been read already."""

    log_probs: torch.Tensor

    def __call__(self, memory: torch.Tensor) -> torch.Tensor:
        return self.log_probs
