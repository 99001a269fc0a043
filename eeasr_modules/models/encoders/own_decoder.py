"""The decoder that a checkpoint was trained with (Moonshine's, Whisper's), as the exit behind the last CTC exit.

It is transformers' own module with its key-value cache, and beam search is transformers' too; here are greedy search, a
draft that is checked by one parallel pass, what it says of its own sureness, and what it costs. Utterances are decoded
one by one, so that none depends on its batch. English, no timestamps.

*Draft and verify*: the transcript of the last CTC exit, in lower case with a capital at the beginning as the decoder
would write it, is read by the decoder in one pass. Upper case, punctuation and spaces are no part of a CTC transcript,
so they are no part of the comparison: a token's probability is that of all tokens with the same letters, among those
that have any. The first one below `floor` and everything after it goes, and greedy search goes on from there with the
cache of what stays. Nothing goes where, after the last one, an end or what ends a sentence is as probable as `floor`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from eeasr_modules.models.encoders.huggingface_checkpoint import WITH_DECODER, as_json, checkpoint_config, quiet

NOMINAL_S, NOMINAL_TOKENS_PER_S = 10.0, 4.0  # by which the exit gets its layer; MACs are counted as they run
TOKENS_PER_S, MORE_TOKENS = 6.5, 4  # what Moonshine's authors advise at most, and a word more for the shortest
FRAMES_PER_S = {"moonshine": 16000 / 384, "whisper": 50.0}
WHISPER_BEGINS = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
SENTENCE_ENDS = (".", "?", "!")


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a checkpoint's encoder and decoder."""

    kind: str  # of `WITH_DECODER`
    # dim, ffn_dim, n_layers: of the decoder; `dim` and the width of the feed-forward layers are the encoder's too
    dim: int
    ffn_dim: int
    n_layers: int
    encoder_layers: int
    vocabulary: int  # tokens that it can say
    most_tokens: int  # that it can count
    padded_frames: int | None  # frames that the decoder needs whatever the length; None: those that there are

    @classmethod
    def of(cls, config: Mapping) -> DecoderShape:
        """Sizes that a checkpoint's settings (`as_json`) say."""
        if config["model_type"] == "whisper":
            names = ("d_model", "decoder_ffn_dim", "decoder_layers", "encoder_layers")
            more = (config["max_target_positions"], config["max_source_positions"])
        else:
            names = ("hidden_size", "intermediate_size", "decoder_num_hidden_layers", "encoder_num_hidden_layers")
            more = (config["max_position_embeddings"], None)
        return cls(config["model_type"], *(config[name] for name in names), config["vocab_size"], *more)

    def memory_macs(self, n_frames: int) -> float:
        """Multiply-accumulates of all layers' keys and values for the encoder's states, once an utterance."""
        return 2.0 * self.n_layers * n_frames * self.dim**2

    def pass_macs(self, n_tokens: int, n_before: int, n_frames: int, *, n_read: int) -> float:
        """Multiply-accumulates of one call of the decoder.

        `n_before`: in the cache. `n_frames`: attended to. `n_read`: positions behind which the next token's
        probabilities are read.
        """
        gated = 3 if self.kind == "moonshine" else 2
        own = 4 * n_tokens * self.dim**2 + 2 * n_tokens * (n_before + n_tokens) * self.dim
        across = 2 * n_tokens * self.dim**2 + 2 * n_tokens * n_frames * self.dim
        feed_forward = gated * n_tokens * self.dim * self.ffn_dim
        return float(self.n_layers * (own + across + feed_forward) + n_read * self.dim * self.vocabulary)

    def layer_macs(self, n_frames: float) -> float:
        """Multiply-accumulates of one layer of the encoder."""
        return 4 * n_frames * self.dim**2 + 2 * n_frames**2 * self.dim + 2 * n_frames * self.dim * self.ffn_dim

    def exit_layer(self, *, beams: int = 1) -> int:
        """The exit's layer: that of the encoder's last, and as many as decoding costs in layers of the encoder.

        By multiply-accumulates, for 10 s of audio and 4 tokens a second; at least one. Whisper's encoder runs again
        over 30 s, which is counted with it. Each of `beams` costs what one does.

        Example
        -------
        >>> moonshine = DecoderShape("moonshine", 416, 1664, 8, 8, 32768, 512, None)
        >>> moonshine.exit_layer(), moonshine.exit_layer(beams=4)
        (11, 19)
        >>> DecoderShape("whisper", 512, 2048, 6, 6, 51865, 448, 1500).exit_layer()
        33
        """
        heard = NOMINAL_S * FRAMES_PER_S[self.kind]
        n_frames, n_tokens = self.padded_frames or round(heard), round(NOMINAL_S * NOMINAL_TOKENS_PER_S)
        steps = sum(self.pass_macs(1, n, n_frames, n_read=1) for n in range(n_tokens))
        macs = beams * (self.memory_macs(n_frames) + steps)
        if self.padded_frames is not None:
            macs += self.encoder_layers * self.layer_macs(self.padded_frames)
        return self.encoder_layers + max(1, round(macs / self.layer_macs(heard)))


def most_tokens(n_samples: int) -> int:
    """Tokens that a recording of so many samples at 16 kHz may get: a decoder that goes on for ever is stopped there.

    Example
    -------
    >>> most_tokens(160_000), most_tokens(4_800)
    (69, 5)
    """
    return int(TOKENS_PER_S * n_samples / 16_000) + MORE_TOKENS


def cache_name(module) -> str:
    """What a decoder's forward calls its cache, which changed within transformers 5."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


def new_cache():
    """An empty cache of a decoder's keys and values, of its own tokens and of the encoder's states."""
    from transformers import DynamicCache, EncoderDecoderCache

    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def shape_of_decoder(source: str) -> DecoderShape:
    """Sizes of the decoder of a checkpoint; no weights are read.

    ValueError when the checkpoint cannot be had, or has no decoder.
    """
    config = checkpoint_config(source)
    whole = any(name.endswith("ForConditionalGeneration") for name in config.architectures or [])
    if config.model_type not in WITH_DECODER or not whole:
        raise ValueError(
            f"decoder: own needs a checkpoint with a decoder ({' or '.join(WITH_DECODER)}, saved whole), '{source}' is "
            f"{' '.join(config.architectures or []) or 'an encoder'}: give decoder: null"
        )
    return DecoderShape.of(as_json(config))


@dataclass(frozen=True)
class Said:
    """What the decoder says of one utterance."""

    tokens: list[int]  # without beginning and end
    text: str  # as the decoder writes it, with case and punctuation
    # n_drafted, n_accepted: tokens of the draft, and those of them that stayed
    n_drafted: int
    n_accepted: int
    # over its tokens and the end: `entropy` and `max_entropy` (nats), `confidence`, `margin` (probabilities),
    # `path_log_prob` (nats a token)
    signals: dict[str, float]
    # each token's text, with a space before where a word begins, and the entropy of its choice
    pieces: list[tuple[str, float]]
    macs: float  # multiply-accumulates that ran for it, what the encoder did once more among them

    def word_entropies(self, normalise) -> list[float]:
        """Entropy of each word of the normalised text: the mean over the tokens that spell it, in nats.

        `normalise`: from a text to its plain words, as one text.
        """
        found, letters, values = [], "", []
        for piece, entropy in [*self.pieces, (" ", 0.0)]:
            if piece.startswith(" ") and letters.strip():
                found += [float(np.mean(values))] * len(normalise(letters).split())
                letters, values = "", []
            letters, values = letters + piece, [*values, entropy]
        n_words = len(normalise(self.text).split())
        return found if len(found) == n_words else [self.signals["entropy"]] * n_words


class OwnDecoder:
    """A checkpoint's decoder, its weights read when it first decodes.

    ValueError when the checkpoint cannot be had, or has no decoder.

    Arguments
    ---------
    exit_layer : int
        Of its exit, as `DecoderShape.exit_layer` says.
    beams : int
        Hypotheses kept; 1 is greedy.
    draft : bool
        Check the CTC transcript, and decode from where it is doubtful.
    floor : float
        Least probability of a drafted token that stays.
    """

    def __init__(
        self,
        source: str,
        *,
        exit_layer: int,
        beams: int = 1,
        draft: bool = False,
        floor: float = 0.5,
        device: str | torch.device = "cpu",
    ):
        self.source, self.exit_layer, self.beams, self.device = source, exit_layer, beams, device
        self.draft, self.floor = draft, floor
        self.shape = shape_of_decoder(source)

    @classmethod
    def of(cls, model) -> OwnDecoder | None:
        """That of a `MultiExit`, on its device; None where it has none."""
        settings = model.config.get("own_decoder")
        return None if settings is None else cls(**settings, device=next(model.parameters()).device)

    @cached_property
    def _model(self):
        from transformers import AutoModelForSpeechSeq2Seq

        with quiet():
            model = AutoModelForSpeechSeq2Seq.from_pretrained(self.source, dtype=torch.float32)
        del model.model.encoder
        return model.to(self.device).eval().requires_grad_(False)

    @cached_property
    def _tokenizer(self):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.source)

    @cached_property
    def _begins(self) -> list[int]:
        """Tokens that it is given before it says the first: English, transcribe, no timestamps."""
        if self.shape.kind == "moonshine":
            return [self._model.config.decoder_start_token_id]
        known = self._tokenizer.get_vocab()
        return [known[name] for name in WHISPER_BEGINS if name in known]

    @cached_property
    def _end(self) -> int:
        if self.shape.kind == "whisper" and "<|endoftext|>" in (known := self._tokenizer.get_vocab()):
            return known["<|endoftext|>"]
        return self._model.generation_config.eos_token_id

    @cached_property
    def _never(self) -> torch.Tensor:
        """Log-odds (2, vocabulary) to add: everywhere, and moreover at the first token."""
        generation = self._model.generation_config
        added = torch.zeros(2, self.shape.vocabulary, device=self.device)
        added[:, [*(getattr(generation, "suppress_tokens", None) or [])]] = -math.inf
        if self.shape.kind == "whisper":
            added[:, self._end + 1 :] = -math.inf  # tasks, languages, timestamps
            first = [one for one in getattr(generation, "begin_suppress_tokens", None) or [] if one < self._end]
            added[1, [*first, self._end]] = -math.inf
        return added

    @cached_property
    def _pieces(self) -> list[str]:
        """Each token's text; a space before it where a word begins."""
        known = self._tokenizer.convert_ids_to_tokens(list(range(min(len(self._tokenizer), self.shape.vocabulary))))
        pieces = [re.sub("[\u2581\u0120]", " ", one or "") for one in known]
        return pieces + [""] * (self.shape.vocabulary - len(pieces))

    @cached_property
    def _same_letters(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each token: the number of its letters' class (from 1; 0 for none), and whether it ends a sentence."""
        classes: dict[str, int] = {}
        numbers = np.zeros(self.shape.vocabulary, dtype=np.int64)
        for token, piece in enumerate(self._pieces):
            letters = re.sub(r"[^\w' ]", "", piece).upper()
            if re.search(r"[\w']", letters) and token != self._end:
                numbers[token] = classes.setdefault(letters, len(classes) + 1)
        ends = torch.tensor([piece.strip() in SENTENCE_ENDS for piece in self._pieces], device=self.device)
        numbers = torch.from_numpy(numbers).to(self.device)
        silent = numbers == 0
        silent[self._end] = False
        return numbers, silent, ends

    def drafted(self, text: str) -> list[int]:
        """Tokens of a CTC transcript, as the decoder would begin to write it."""
        words = [re.sub(r"^i(?=$|')", "I", word) for word in text.lower().split()]
        if not words:
            return []
        text = " ".join(words)
        text = text[0].upper() + text[1:]
        written = text if self.shape.kind == "moonshine" else f" {text}"
        tokens = self._tokenizer.encode(written, add_special_tokens=False)
        if self._tokenizer.decode(tokens).strip() != text:  # a tokenizer that was made to read only
            tokens = self._merged(f" {text}")
        return tokens

    def _merged(self, text: str) -> list[int]:
        """As SentencePiece's pair encoding does: neighbours are joined, those of the lowest number first."""
        numbers = {piece: token for token, piece in reversed([*enumerate(self._pieces)]) if piece}
        tokens = []
        for word in re.findall(r" [^ ]+", text):
            parts = [*word]
            while len(parts) > 1:
                joined = [numbers.get(one + two, math.inf) for one, two in pairwise(parts)]
                if min(joined) == math.inf:
                    break
                at = int(np.argmin(joined))
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            tokens += [numbers[part] for part in parts if part in numbers]
        return tokens

    @torch.no_grad()
    def decode(self, encoder, hidden: torch.Tensor, wav: torch.Tensor, *, draft: str | None = None) -> Said:
        """What it says of one utterance.

        `hidden` (frames, dim): states after the encoder's last layer, without padding. `wav` (samples,): the utterance;
        read where the decoder needs it padded. `draft`: the CTC transcript to check; None, or a decoder without
        `draft`: all is decoded.
        """
        states, macs = encoder.decoder_states(hidden, wav)
        most = min(self.most_tokens, most_tokens(len(wav)))
        spelling = _Spelling(self, states.float()[None].to(self.device), macs)
        if self.beams > 1:
            return self._searched(spelling, most)
        candidates = self.drafted(draft) if self.draft and draft else []
        candidates = candidates[: most - 1]
        rows = spelling.read([*self._begins, *candidates], n_read=len(candidates) + 1)
        n_accepted, ended = self._accepted(rows, candidates)
        spelling.forget(len(candidates) - n_accepted)
        spelling.say(candidates[:n_accepted], rows[:n_accepted])
        row = rows[n_accepted]
        while True:
            token = self._end if ended else int(row.argmax())
            spelling.say([token], row[None])
            if token == self._end or len(spelling.tokens) >= most:
                break
            row = spelling.read([token], n_read=1)[0]
        return spelling.said(n_drafted=len(candidates), n_accepted=n_accepted)

    def _searched(self, spelling: _Spelling, most: int) -> Said:
        """By transformers' beam search; then one pass over what it found says how sure the decoder is."""
        from transformers import GenerationMixin, LogitsProcessorList
        from transformers.modeling_outputs import BaseModelOutput

        start, shape = len(self._begins), self.shape
        spelling.macs += (self.beams - 1) * shape.memory_macs(spelling.states.shape[1])

        def allowed(given: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores + (self._never.sum(dim=0) if given.shape[1] == start else self._never[0])

        def charge(_, __, given: dict) -> None:
            rows, n_tokens = given["input_ids"].shape
            before = given[cache_name(decoder)].get_seq_length()
            spelling.macs += rows * shape.pass_macs(n_tokens, before, spelling.states.shape[1], n_read=1)

        heard = BaseModelOutput(last_hidden_state=spelling.states)
        heard.attention_mask = None  # Moonshine's has one
        decoder = self._model.model.decoder
        hook = decoder.register_forward_pre_hook(charge, with_kwargs=True)
        try:
            found = GenerationMixin.generate(
                self._model,
                encoder_outputs=heard,
                decoder_input_ids=torch.tensor([self._begins], device=spelling.states.device),
                logits_processor=LogitsProcessorList([allowed]),
                num_beams=self.beams,
                do_sample=False,
                max_length=start + most,
                eos_token_id=self._end,
                pad_token_id=self._end,
                suppress_tokens=None,
                begin_suppress_tokens=None,
            )[0, start:].tolist()
        finally:
            hook.remove()
        tokens = found[: found.index(self._end) + 1] if self._end in found else found
        rows = spelling.read([*self._begins, *tokens[:-1]], n_read=len(tokens))
        spelling.say(tokens, rows)
        return spelling.said(n_drafted=0, n_accepted=0)

    @cached_property
    def most_tokens(self) -> int:
        """Longest transcript that the decoder can count, in tokens."""
        longest = self._model.generation_config.max_length or self.shape.most_tokens
        return min(longest, self.shape.most_tokens) - len(self._begins)

    def _accepted(self, log_probs: torch.Tensor, candidates: Sequence[int]) -> tuple[int, bool]:
        """How many drafted tokens stay, and whether the transcript ends with them."""
        if not candidates:
            return 0, False
        numbers, silent, ends = self._same_letters
        probabilities = log_probs.exp()
        at = torch.tensor(candidates, device=log_probs.device)
        same = torch.where(numbers[at][:, None] == numbers, probabilities[:-1], 0.0).sum(dim=1)
        heard = 1 - probabilities[:-1, silent].sum(dim=1)
        stays = (same >= self.floor * heard).tolist()
        n_accepted = stays.index(False) if False in stays else len(stays)
        over = probabilities[-1, self._end] + probabilities[-1, ends].sum()
        return n_accepted, n_accepted == len(candidates) and bool(over >= self.floor)


class _Spelling:
    """One utterance while it is spelled: cache, tokens said, how sure, what it cost."""

    def __init__(self, decoder: OwnDecoder, states: torch.Tensor, macs: float):
        self.decoder, self.states = decoder, states
        self.macs = macs + decoder.shape.memory_macs(states.shape[1])
        self.cache, self.n_cached = new_cache(), 0
        self.tokens: list[int] = []
        self.sure: list[torch.Tensor] = []

    def read(self, tokens: Sequence[int], *, n_read: int) -> torch.Tensor:
        """Log-probs (n_read, vocabulary) of what comes after each of the last so many of these tokens."""
        own, shape = self.decoder, self.decoder.shape
        given = torch.tensor([tokens], device=self.states.device)
        decoder = own._model.model.decoder
        cached = {cache_name(decoder): self.cache}  # filled in place
        found = decoder(input_ids=given, encoder_hidden_states=self.states, use_cache=True, **cached)
        self.macs += shape.pass_macs(len(tokens), self.n_cached, self.states.shape[1], n_read=n_read)
        is_first = self.n_cached == 0
        self.n_cached += len(tokens)
        logits = own._model.proj_out(found.last_hidden_state[0, -n_read:]).float()
        logits = logits + own._never[0]
        if is_first:
            logits[0] += own._never[1]
        return torch.log_softmax(logits, dim=-1)

    def forget(self, n_tokens: int) -> None:
        """Take the last so many tokens out of the cache."""
        if n_tokens:
            self.cache.crop(-n_tokens)
            self.n_cached -= n_tokens

    def say(self, tokens: Sequence[int], log_probs: torch.Tensor) -> None:
        """Note tokens, and log-probs (tokens, vocabulary) of the choices of them."""
        if not len(tokens):
            return
        self.tokens += tokens
        two = log_probs.topk(2, dim=-1).values.exp()
        finite = log_probs.clamp(min=-1e4)
        entropy = -(log_probs.exp() * finite).sum(dim=-1)
        chosen = finite.gather(1, torch.tensor(tokens, device=log_probs.device)[:, None])[:, 0]
        self.sure.append(torch.stack([entropy, two[:, 0], two[:, 0] - two[:, 1], chosen], dim=1))

    def said(self, *, n_drafted: int, n_accepted: int) -> Said:
        """The result."""
        own = self.decoder
        sure = torch.cat(self.sure).double().cpu().numpy()
        tokens = [token for token in self.tokens if token != own._end]
        means = dict(
            zip(("entropy", "confidence", "margin", "path_log_prob"), map(float, sure.mean(axis=0)), strict=True)
        )
        pieces = [(own._pieces[token], float(entropy)) for token, entropy in zip(tokens, sure[:, 0])]
        text = own._tokenizer.decode(tokens, skip_special_tokens=True).strip()
        signals = {**means, "max_entropy": float(sure[:, 0].max())}
        return Said(tokens, text, n_drafted, n_accepted, signals, pieces, self.macs)
