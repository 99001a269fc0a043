"""One Transformer decoder for all exits, beside the CTC heads, and transcripts by it.

Every exit keeps its CTC head. The decoder (SpeechBrain's `TransformerDecoder`) spells the transcript token by token and
attends to the exit's layer states, which pass a norm of that exit's own and a projection to the decoder's width that
all exits share. Joint training with CTC follows Watanabe et al. 2017, "Hybrid CTC/attention architecture for
end-to-end speech recognition"; one decoder for several exits is ours.

Tokens are those of the CTC vocabulary and two more: the beginning and the end of a transcript.

Transcripts are found by SpeechBrain's searchers, with joint CTC scores, and with how sure the decoder is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

NEVER_SAID = -1e4  # finite, so that entropies and sums of log-probs stay numbers
LONGEST_TOKENS = 2500


class TokenProjection(nn.Module):
    """States of the decoder to log-odds of tokens; the blank and the beginning are never said.

    `never`: tokens that cannot be said.
    """

    def __init__(self, dim: int, *, n_tokens: int, never: tuple[int, ...]):
        super().__init__()
        self.w = nn.Linear(dim, n_tokens)  # the name by which SpeechBrain's searchers ask for its width
        self.never = never

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (batch, tokens, dim) -> log-odds (batch, tokens, vocabulary), float32 under any precision."""
        logits = self.w(states).float()
        mask = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        mask[list(self.never)] = True
        return logits.masked_fill(mask, NEVER_SAID)


class AttentionDecoder(nn.Module):
    """A Transformer decoder that reads the states of any exit.

    `n_exits`: each gets a norm of its own. `blank_index`: index of blank, which the decoder never says. ValueError when
    `dim` is odd or no multiple of `n_heads`.

    Example
    -------
    >>> decoder = AttentionDecoder(8, n_exits=2, n_tokens=5, blank_index=0, n_layers=1, dim=4, n_heads=2, ffn_dim=8)
    >>> memory = decoder.memory(torch.randn(3, 7, 8), exit_index=1)
    >>> decoder.log_probs(torch.tensor([[5, 2]] * 3), memory, torch.tensor([7, 4, 6])).shape
    torch.Size([3, 2, 7])
    """

    def __init__(
        self,
        encoder_dim: int,
        *,
        n_exits: int,
        n_tokens: int,
        blank_index: int,
        n_layers: int,
        dim: int,
        n_heads: int,
        ffn_dim: int,
        dropout: float = 0.0,
    ):
        from speechbrain.lobes.models.transformer.Transformer import (
            NormalizedEmbedding,
            PositionalEncoding,
            TransformerDecoder,
        )

        super().__init__()
        if dim % n_heads or dim % 2:
            raise ValueError(f"decoder_dim must be even and a multiple of decoder_heads, got {dim} and {n_heads}")
        self.begin_index, self.end_index = n_tokens, n_tokens + 1
        self.dim, self.ffn_dim, self.n_layers = dim, ffn_dim, n_layers
        self.norms = nn.ModuleList(nn.LayerNorm(encoder_dim) for _ in range(n_exits))
        self.to_memory = nn.Linear(encoder_dim, dim)
        self.embedding = NormalizedEmbedding(dim, n_tokens + 2)
        self.positions = PositionalEncoding(dim, max_len=LONGEST_TOKENS)
        # computed, so no part of a model folder
        self.positions.register_buffer("pe", self.positions.pe, persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.layers = TransformerDecoder(
            num_layers=n_layers,
            nhead=n_heads,
            d_ffn=ffn_dim,
            d_model=dim,
            dropout=dropout,
            activation=nn.GELU,
            normalize_before=True,
        )
        self.to_tokens = TokenProjection(dim, n_tokens=n_tokens + 2, never=(blank_index, self.begin_index))
        for parameter in [*self.embedding.parameters(), *self.layers.parameters()]:
            if parameter.dim() > 1:  # as SpeechBrain's own Transformers start
                nn.init.xavier_normal_(parameter)

    def memory(self, hidden: torch.Tensor, *, exit_index: int) -> torch.Tensor:
        """What the decoder attends to, (batch, frames, decoder's dim).

        `hidden` (batch, frames, encoder's dim): layer states that the exit's head sees.
        """
        return self.to_memory(self.norms[exit_index](hidden))

    def decode(
        self, prefixes: torch.Tensor, memory: torch.Tensor, n_frames: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States behind each token of a prefix, before `to_tokens`; the call that SpeechBrain's searchers make.

        `prefixes` (batch, tokens): from the beginning on. A position sees itself and those before it only, so padding
        at the end changes nothing before it. `memory` (batch, frames, dim) and `n_frames` (batch,): what is attended
        to, and how much of it is valid; None for all. ValueError when a prefix is longer than the decoder can count.

        Returns
        -------
        states : torch.Tensor of shape (batch, tokens, dim)
        attention : torch.Tensor of shape (batch, tokens, frames)
            Of the last layer to the frames, the mean over its heads.
        """
        length = prefixes.shape[1]
        if length > LONGEST_TOKENS:
            raise ValueError(f"the attention decoder spells at most {LONGEST_TOKENS} tokens, got {length}")
        future = torch.ones(length, length, dtype=torch.bool, device=prefixes.device).triu(1)
        padding = None
        if n_frames is not None:
            valid = n_frames.clamp(min=1).unsqueeze(1)
            padding = torch.arange(memory.shape[1], device=memory.device) >= valid
        embedded = self.embedding(prefixes)
        embedded = self.dropout(embedded + self.positions(embedded))
        states, _, attention = self.layers(embedded, memory, tgt_mask=future, memory_key_padding_mask=padding)
        return states, attention[-1]

    def log_probs(self, prefixes: torch.Tensor, memory: torch.Tensor, n_frames: torch.Tensor | None) -> torch.Tensor:
        """Log-probs of the token after each position, (batch, tokens, vocabulary); arguments as of `decode`."""
        return torch.log_softmax(self.to_tokens(self.decode(prefixes, memory, n_frames)[0]), dim=-1)

    def prefixes(self, tokens: torch.Tensor) -> torch.Tensor:
        """The beginning, then `tokens` (batch, tokens): what the decoder is given to say them and then the end."""
        return torch.nn.functional.pad(tokens, (1, 0), value=self.begin_index)

    def step_macs(self, n_rows: int, n_prefix: int, n_frames: int) -> float:
        """Multiply-accumulates of one call of `decode`, and of reading the tokens after its last position."""
        own = 4 * n_prefix * self.dim**2 + 2 * n_prefix**2 * self.dim
        across = 2 * (n_prefix + n_frames) * self.dim**2 + 2 * n_prefix * n_frames * self.dim
        feed_forward = 2 * n_prefix * self.dim * self.ffn_dim
        tokens = n_prefix * self.dim * self.to_tokens.w.out_features
        return float(n_rows * (self.n_layers * (own + across + feed_forward) + tokens))

    def memory_macs(self, n_frames: int) -> float:
        """Multiply-accumulates of `memory` for one utterance."""
        return float(n_frames * self.to_memory.in_features * self.to_memory.out_features)


def misspelled(
    log_probs: torch.Tensor, targets: torch.Tensor, n_targets: torch.Tensor, *, decoder: AttentionDecoder
) -> torch.Tensor:
    """Tokens of each utterance, the end among them, that the decoder would not say next after the right ones.

    Returns: (batch,), of n_targets + 1.
    """
    wanted, counts = _wanted(targets, n_targets, decoder.end_index)
    return ((log_probs.argmax(dim=-1) != wanted) & counts).sum(dim=1)


def _wanted(targets: torch.Tensor, n_targets: torch.Tensor, end_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets with the end after them (batch, tokens + 1), and True where they are no padding."""
    position = torch.arange(targets.shape[1] + 1, device=targets.device)
    n_targets = n_targets.unsqueeze(1)
    wanted = torch.nn.functional.pad(targets, (0, 1)).masked_fill(position >= n_targets, end_index)
    return wanted, position <= n_targets


def spelling_losses(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    n_targets: torch.Tensor,
    *,
    decoder: AttentionDecoder,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy of the decoder on each utterance's tokens and the end after them, nats; shape (batch,).

    `log_probs` (batch, tokens + 1, vocabulary): of `AttentionDecoder.log_probs` for `prefixes(targets)`. `targets`
    (batch, tokens). `n_targets` (batch,): valid tokens; what lies beyond is not read. `label_smoothing`: share of the
    target that is spread evenly over all tokens that can be said (Szegedy et al. 2016).
    """
    wanted, counts = _wanted(targets, n_targets, decoder.end_index)
    losses = -log_probs.gather(2, wanted.unsqueeze(2)).squeeze(2)
    if label_smoothing:
        said = torch.ones(log_probs.shape[-1], dtype=torch.bool, device=log_probs.device)
        said[list(decoder.to_tokens.never)] = False
        losses = (1 - label_smoothing) * losses - label_smoothing * log_probs[..., said].mean(dim=-1)
    return losses.masked_fill(~counts, 0.0).sum(dim=1)


@dataclass(frozen=True)
class AttentionOptions:
    """How the attention decoder searches.

    ValueError when a number is out of range.

    Arguments
    ---------
    beam_size : int
        Transcripts kept at every token; 1 is greedy, by the decoder alone.
    ctc_weight : float
        Share of the exit's CTC prefix scores in the score of a beam, 0 to below 1.
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
    """What the decoder spells at one exit."""

    tokens: list[int]  # without beginning and end
    # `sequence_log_prob`: the decoder's log-prob of its tokens and the end, nats, the mean over them; `token_entropy`:
    # the entropy of its choices of them, nats, the mean likewise
    signals: dict[str, float]
    macs: float  # multiply-accumulates of the decoder that were run for it


class AttentionSearch:
    """Searches for the transcript of one utterance at one exit.

    Beams are SpeechBrain's `S2STransformerBeamSearcher` with its `CTCScorer`, a beam of 1 its greedy searcher. Each
    utterance is searched alone and without padding, so that its transcript does not depend on its batch; a transcript
    has at most as many tokens as there are frames.

    ValueError when the model has no attention decoder.
    """

    def __init__(self, model: nn.Module, *, options: AttentionOptions):
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
        """The best transcript of one utterance, by states (frames, dim) and CTC log-probs (frames, tokens)."""
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
        """How sure the decoder is of a transcript: `sequence_log_prob` and `token_entropy`."""
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
