"""One batch on its way through the exits: who is undecided, what they carry along, what has come out.

What a search says of one utterance at the exit where it leaves: words with times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary, plain_words
from eeasr_modules.exits.measure.fusion import FusionModel
from eeasr_modules.exits.policies.protocol import Policy, exits_back
from eeasr_modules.models.decoding.attention import AttentionSearch, Decoded
from eeasr_modules.models.decoding.ctc import BeamDecoder, aligned_path
from eeasr_modules.models.encoders.own_decoder import OwnDecoder
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.signals import WordFrames, word_signals
from eeasr_modules.models.walk import Walk
from eeasr_modules.runtime.signals import SignalPlan, head_signals, plain_signals, transcript_signals
from eeasr_modules.runtime.transcript import Word, fused_words, spell_words

OnExit = Callable[[int, Sequence[int], Sequence[str]], None]  # exit layer, who goes on, what they say there


class Engine(Protocol):
    """What a batch asks of the engine that runs it: see `runtime.engine.Engine`."""

    model: MultiExit
    policy: Policy
    plan: SignalPlan
    decoder: BeamDecoder | AttentionSearch | None
    own: OwnDecoder | None
    exit_layers: Sequence[int]
    vocabulary: CharVocabulary | SentencePieceVocabulary
    spellings: Sequence[str]
    word_frames: WordFrames | None
    sample_rate: int
    frame_s: float
    seed: int
    language: str
    gives_log_probs: bool
    fusion: FusionModel | None
    device: torch.device

    def texts(self, best: np.ndarray, n_frames: Sequence[int]) -> list[str]:
        """Transcripts of greedy paths (n, frames)."""


@dataclass(frozen=True)
class Recognised:
    """What came out for one utterance."""

    text: str  # transcript of the exit it left at, or the fusion of those up to there
    exit_layer: int  # that exit, from 1
    decided_layer: int  # where it stopped, which was paid for: `exit_layer`, unless the policy emits an earlier one
    confidence: float  # mean over frames of the best token's probability
    blank_rate: float  # share of frames whose best token is the blank
    words: tuple[Word, ...]  # of `text`, with times
    # (frames, tokens): of the exit that gave the text, where the engine is to hand them out
    log_probs: torch.Tensor | None = None


@dataclass
class _Exit:
    """What is known of the undecided at one exit; the head's part stays None until somebody asks."""

    index: int
    hidden: torch.Tensor  # (undecided, frames, dim)
    n_frames: torch.Tensor  # (undecided,)
    log_probs: torch.Tensor | None = None  # (undecided, frames, tokens)
    path: np.ndarray | None = None  # (2, undecided, frames): best token of each frame, its probability
    texts: list[str] | None = None
    spelled: list[Decoded] | None = None


class LiveBatch:
    """The walk of one batch under a policy.

    `utt_ids` (batch,): names. `duration_s` (batch,): seconds. `on_exit`: called at each exit with its layer, positions
    in the batch of those who go on, and their transcripts there.
    """

    def __init__(
        self, engine: Engine, walk: Walk, *, utt_ids: np.ndarray, duration_s: np.ndarray, on_exit: OnExit | None = None
    ):
        self.on_exit = on_exit
        self.engine, self.model, self.plan, self.walk = engine, engine.model, engine.plan, walk
        n = len(utt_ids)
        self.utt_ids, self.duration_s = utt_ids, duration_s
        self.n_frames = self.walk.n_frames.cpu().numpy()
        self.undecided = np.arange(n)  # positions in the batch of those still in the walk
        self.state = engine.policy.start(n)  # of the undecided
        self.heard = np.full((n, 2), None, dtype=object)  # likewise: fused words (`Heard`), paths of the exits passed
        self.before = [_Exit(-1, self.walk.view, self.walk.n_frames)]  # what exits are compared with, the latest first
        self.results: list[Recognised | None] = [None] * n  # in the order of the batch
        self.wavs: list[torch.Tensor] = []  # of everybody, where an own decoder may ask
        self.at_last_head: torch.Tensor | None = None  # log-probs there of those who go on to the own decoder

    @classmethod
    def begin(
        cls,
        engine: Engine,
        wavs: torch.Tensor,
        n_samples: torch.Tensor,
        utt_ids: Sequence[str],
        *,
        on_exit: OnExit | None = None,
    ) -> LiveBatch:
        """A batch whose front end has run: of `wavs` (batch, samples), zero-padded, with `n_samples` (batch,) valid."""
        wavs = wavs.to(engine.device)
        walk = engine.model.walk(wavs, n_samples.to(engine.device))
        names = np.array([*utt_ids], dtype=object)
        duration_s = n_samples.cpu().numpy() / engine.sample_rate
        batch = cls(engine, walk, utt_ids=names, duration_s=duration_s, on_exit=on_exit)
        if engine.own is not None:
            batch.wavs = [wav[:n] for wav, n in zip(wavs, n_samples.tolist(), strict=True)]
        return batch

    @classmethod
    def joined(cls, parts: Sequence[tuple[LiveBatch, np.ndarray]]) -> LiveBatch:
        """One batch of undecided utterances from several that stand after the same exit.

        `parts`: a batch, and which of its undecided are taken, in the new batch's order.
        """
        first = parts[0][0]
        rows = [torch.from_numpy(taken).to(one.walk.rows.device) for one, taken in parts]
        walk = Walk.joined([(one.walk, row) for (one, _), row in zip(parts, rows, strict=True)])
        utterances = [one.undecided[taken] for one, taken in parts]
        batch = cls(
            first.engine,
            walk,
            utt_ids=np.concatenate([one.utt_ids[at] for (one, _), at in zip(parts, utterances, strict=True)]),
            duration_s=np.concatenate([one.duration_s[at] for (one, _), at in zip(parts, utterances, strict=True)]),
        )
        batch.state = np.concatenate([one.state[taken] for one, taken in parts])
        batch.heard = np.concatenate([one.heard[taken] for one, taken in parts])
        if first.wavs:
            batch.wavs = [one.wavs[i] for (one, _), at in zip(parts, utterances, strict=True) for i in at]
        batch.before = [
            first._joined_exit([(one.before[back], row) for (one, _), row in zip(parts, rows, strict=True)])
            for back in range(len(first.before))
        ]
        return batch

    def run(self) -> list[Recognised]:
        """Everybody's result, in the order of the batch."""
        for k in range(len(self.engine.exit_layers)):
            if len(self.undecided):
                self.visit(k)
        return self.results

    def visit(self, k: int) -> None:
        """Exit k: read what the policy needs, ask it, take down those who stop; the last takes whoever is left."""
        if k == len(self.model.exit_layers):
            self._decode()
            return
        here = self._arrive(k)
        is_last = k == len(self.engine.exit_layers) - 1
        signals = self._signals(here) if not is_last or self.plan.reads_head[k] else {}
        if self.plan.fuses:
            self._fuse(here, signals)
        if is_last and not self.plan.keeps_paths:
            self._emit(here, np.arange(len(self.undecided)), decided=here)
            self.undecided = self.undecided[:0]
            return
        stop, self.state = self.engine.policy.step(signals, self.state)
        stop = np.ones(len(self.undecided), dtype=bool) if is_last else stop
        if self.on_exit is not None and not stop.all():
            self._tell(here, np.flatnonzero(~stop))
        if stop.any():
            self._emit_decided(here, np.flatnonzero(stop))
        if self.engine.own is not None and k == len(self.model.exit_layers) - 1 and not stop.all():
            self.at_last_head = self._read_head(here, np.flatnonzero(~stop))
        if stop.any():
            self.state, self.undecided, self.heard = self.state[~stop], self.undecided[~stop], self.heard[~stop]
        if len(self.undecided):
            self.before = [self._of_those_left(one, ~stop) for one in [here, *self.before][: self.plan.n_before]]
            self.walk.keep(torch.from_numpy(~stop).to(self.walk.rows.device))

    def _arrive(self, k: int) -> _Exit:
        """Layer states of the undecided at exit k."""
        return _Exit(k, self.walk.advance(self.model.exit_layers[k]), self.walk.n_frames)

    def _fuse(self, here: _Exit, signals: dict[str, np.ndarray]) -> None:
        """This exit's words into those of the exits before, whose paths stay for the words' times."""
        _, self.heard[:, :1] = self.engine.fusion.step(signals, self.heard[:, :1])
        for row, n_frames in enumerate(self.n_frames[self.undecided]):
            self.heard[row, 1] = (*(self.heard[row, 1] or ()), here.path[:, row, :n_frames])

    def _signals(self, here: _Exit) -> dict[str, np.ndarray]:
        plan, undecided = self.plan, self.undecided
        signals = plain_signals(
            plan.names,
            utt_ids=self.utt_ids[undecided],
            duration_s=self.duration_s[undecided],
            exit_layer=self.model.exit_layers[here.index],
            seed=self.engine.seed,
        )
        if not plan.reads_head[here.index]:
            signals.update(self._copied(here, plan.headless))
            # what the policy names but does not read here (below a floor) cannot stop anybody
            return {name: signals.get(name, np.full(len(undecided), np.nan)) for name in plan.names}
        here.log_probs = self._read_head(here, np.arange(len(undecided)))
        signals.update(self._copied(here, plan.acoustic))
        if plan.transcribes:
            here.texts = self.engine.texts(here.path[0].astype(np.int64), self.n_frames[undecided])
            before = [one.texts for one in self.before]
            signals.update(transcript_signals(plan, here.texts, before, language=self.engine.language))
        if plan.of_words:
            signals.update(self._of_words(here))
        if plan.of_decoder:
            here.spelled = spell_all(self.engine, here.index, here.hidden, here.log_probs, self.n_frames[undecided])
            signals.update({name: np.array([one.signals[name] for one in here.spelled]) for name in plan.of_decoder})
        return signals

    def _copied(self, here: _Exit, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Acoustic signals on the host; where they are needed, the greedy paths come in the same copy."""
        on_device = self._acoustic(here, names)
        if here.log_probs is not None and (self.plan.transcribes or self.plan.keeps_paths):
            values, here.path = _to_host(on_device, _best_path(here.log_probs))
        else:
            values = torch.stack(on_device).cpu().numpy() if on_device else ()
        return dict(zip(names, values, strict=True))

    def _of_words(self, here: _Exit) -> dict[str, np.ndarray]:
        """Lists of numbers, one per word, as object arrays (undecided,)."""
        found = word_signals(here.log_probs, here.n_frames, words=self.engine.word_frames, frame_s=self.engine.frame_s)
        signals = {name: np.empty(len(here.n_frames), dtype=object) for name in self.plan.of_words}
        for name, values in signals.items():
            values[:] = found[name]
        return signals

    def _acoustic(self, here: _Exit, names: Sequence[str]) -> list[torch.Tensor]:
        if not names:
            return []
        return head_signals(
            names,
            here.log_probs,
            here.hidden,
            here.n_frames,
            log_probs_before=[one.log_probs for one in self.before if one.log_probs is not None],
            previous_hidden=self.before[0].hidden,
            blank_index=self.model.blank_index,
        )

    def _emit_decided(self, here: _Exit, who: np.ndarray) -> None:
        """Take down those who stop here (positions among the undecided), each by the exit that is to speak for it."""
        back = exits_back(self.engine.policy, self.state[who], here.index)
        for n_back in np.unique(back):
            speaks = here if n_back == 0 else self.before[n_back - 1]
            self._emit(speaks, who[back == n_back], decided=here)

    def _emit(self, here: _Exit, who: np.ndarray, *, decided: _Exit) -> None:
        """Take down what the exit says of these (positions among the undecided), who stopped at another or there."""
        searches = self.engine.decoder is not None
        log_probs = self._read_head(here, who) if here.path is None or self._needs_log_probs else None
        path = _best_path(log_probs).cpu().numpy() if here.path is None else here.path[:, who]
        utterances = self.undecided[who]
        spelled = self._spelled(here, who, log_probs)
        for row, (position, utterance) in enumerate(zip(who, utterances, strict=True)):
            n_frames = self.n_frames[utterance]
            best, heard = path[0, row, :n_frames].astype(np.int64), path[1, row, :n_frames]
            if self.plan.fuses:
                fused, paths = self.heard[position]
                how = {"spellings": self.engine.spellings, "blank_index": self.model.blank_index}
                words = fused_words(fused, paths, frame_s=self.engine.frame_s, **how)
                text = " ".join(fused.words)
            elif searches:
                words = searched_words(self.engine, log_probs[row, :n_frames], heard, spelled=spelled[row])
                text = " ".join(word.text for word in words)
            else:
                words = spell_words(
                    best,
                    heard,
                    spellings=self.engine.spellings,
                    blank_index=self.model.blank_index,
                    frame_s=self.engine.frame_s,
                )
                text = here.texts[position] if here.texts else self.engine.texts(best[None], [n_frames])[0]
            self.results[utterance] = Recognised(
                text=text,
                exit_layer=self.model.exit_layers[here.index],
                decided_layer=self.model.exit_layers[decided.index],
                confidence=float(heard.mean(dtype=np.float64)) if n_frames else 0.0,
                blank_rate=float((best == self.model.blank_index).mean()) if n_frames else 0.0,
                words=words,
                log_probs=log_probs[row, :n_frames] if self.engine.gives_log_probs else None,
            )

    @property
    def _needs_log_probs(self) -> bool:
        """Whether those who leave are asked for more than their best path."""
        return self.engine.decoder is not None or self.engine.gives_log_probs

    def _decode(self) -> None:
        """Behind the last head: the checkpoint's own decoder takes whoever is left, one by one."""
        own, view, blank_index = self.engine.own, self.walk.view, self.model.blank_index
        for states, log_probs, i in zip(view, self.at_last_head, self.undecided, strict=True):
            n_frames = self.n_frames[i]
            log_probs = log_probs[:n_frames]
            best, heard = _best_path(log_probs).cpu().numpy()
            best = best.astype(np.int64)
            draft = self.engine.texts(best[None], [n_frames])[0]
            said = own.decode(self.model.encoder, states[:n_frames], self.wavs[i], draft=draft)
            text = plain_words(said.text)
            self.results[i] = Recognised(
                text=text,
                exit_layer=own.exit_layer,
                decided_layer=own.exit_layer,
                confidence=said.signals["confidence"],
                blank_rate=float((best == blank_index).mean()) if n_frames else 0.0,
                words=placed_words(self.engine, log_probs, heard, text),
                log_probs=None,
            )
        self.undecided = self.undecided[:0]

    def _tell(self, here: _Exit, who: np.ndarray) -> None:
        """Let the listener know what the exit says of these (positions among the undecided), who go on."""
        utterances = self.undecided[who]
        if here.texts is not None:
            texts = [here.texts[i] for i in who]
        else:
            best = self._read_head(here, who).argmax(dim=-1).cpu().numpy()
            texts = self.engine.texts(best, self.n_frames[utterances])
        self.on_exit(self.model.exit_layers[here.index], utterances.tolist(), texts)

    def _read_head(self, here: _Exit, who: np.ndarray) -> torch.Tensor:
        """Log-probs of these (positions among the undecided)."""
        everybody = len(who) == len(here.n_frames)
        rows = torch.from_numpy(who).to(here.hidden.device)
        if here.log_probs is None:
            earlier = [one.hidden for one in self.before if one.index < here.index][: self.model.reach]
            views = [view if everybody else view[rows] for view in (here.hidden, *earlier)]
            return self.model.read(here.index, views, here.n_frames if everybody else here.n_frames[rows])
        return here.log_probs if everybody else here.log_probs[rows]

    def _spelled(self, here: _Exit, who: np.ndarray, log_probs: torch.Tensor | None) -> list[Decoded | None]:
        """What the attention decoder spells for these (positions among the undecided); None without it."""
        if not isinstance(self.engine.decoder, AttentionSearch):
            return [None] * len(who)
        if here.spelled is not None:  # the policy has asked
            return [here.spelled[i] for i in who]
        rows = torch.from_numpy(who).to(here.hidden.device)
        return spell_all(self.engine, here.index, here.hidden[rows], log_probs, self.n_frames[self.undecided[who]])

    def _of_those_left(self, one: _Exit, left: np.ndarray) -> _Exit:
        """What later exits are compared with or replaced by, for those who go on: only what will be asked for."""
        longest = int(self.n_frames[self.undecided].max())
        kept = torch.from_numpy(left).to(one.hidden.device)

        def of_left(values: torch.Tensor) -> torch.Tensor:
            return values if left.all() else values[kept][:, :longest]

        searches = self.plan.keeps_paths and self._needs_log_probs
        hidden = of_left(one.hidden) if self.plan.keeps_states or searches else one.hidden[:0]
        log_probs = None
        if one.log_probs is not None and (self.plan.keeps_log_probs or searches):
            log_probs = of_left(one.log_probs)
        path = one.path[:, left][:, :, :longest] if one.path is not None and self.plan.keeps_paths else None
        texts, spelled = (
            None if values is None else [value for value, stays in zip(values, left, strict=True) if stays]
            for values in (one.texts, one.spelled)
        )
        return _Exit(one.index, hidden, one.n_frames[kept], log_probs, path, texts, spelled)

    def _joined_exit(self, parts: Sequence[tuple[_Exit, torch.Tensor]]) -> _Exit:
        """An exit before, for utterances of several batches: only what will be asked for."""
        at = [(one, int(i), int(one.n_frames[i])) for one, rows in parts for i in rows]
        first = parts[0][0]
        hidden, log_probs, path, texts, spelled = first.hidden[:0], None, None, None, None
        if len(first.hidden):
            hidden = _taken([one.hidden[i, :n] for one, i, n in at])
        if first.log_probs is not None:
            log_probs = _taken([one.log_probs[i, :n] for one, i, n in at])
        if first.path is not None:
            path = np.zeros((2, len(at), max(n for _, _, n in at)), dtype=first.path.dtype)
            for row, (one, i, n) in enumerate(at):
                path[:, row, :n] = one.path[:, i, :n]
        if first.texts is not None:
            texts = [one.texts[i] for one, i, _ in at]
        if first.spelled is not None:
            spelled = [one.spelled[i] for one, i, _ in at]
        n_frames = torch.cat([one.n_frames[rows] for one, rows in parts])
        return _Exit(first.index, hidden, n_frames, log_probs, path, texts, spelled)


def _taken(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows (frames, any) of different lengths, zero-padded to one tensor."""
    return torch.nn.utils.rnn.pad_sequence([*values], batch_first=True)


def _best_path(log_probs: torch.Tensor) -> torch.Tensor:
    """Best token of each frame and its probability, (2, batch, frames), in float32, exact for 2^24 tokens."""
    best = log_probs.float().max(dim=-1)
    return torch.stack([best.indices.float(), best.values.exp()])


def _to_host(signals: list[torch.Tensor], path: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Signals (n_signals, batch) and path (2, batch, frames), in one copy."""
    flat = torch.cat([*(values.float().flatten() for values in signals), path.flatten()]).cpu().numpy()
    n = len(signals) * path.shape[1]
    return flat[:n].reshape(len(signals), path.shape[1]), flat[n:].reshape(tuple(path.shape))


def spell_all(
    engine: Engine, exit_index: int, hidden: torch.Tensor, log_probs: torch.Tensor, n_frames: np.ndarray
) -> list[Decoded]:
    """What the attention decoder spells of each utterance at an exit.

    `hidden` (n, frames, dim): layer states. `log_probs` (n, frames, tokens): of the exit's CTC head. `n_frames` (n,):
    valid frames.
    """
    rows = zip(hidden, log_probs, n_frames.tolist(), strict=True)
    return [engine.decoder.decode(exit_index, states[:n], own[:n]) for states, own, n in rows]


def searched_words(
    engine: Engine, log_probs: torch.Tensor, heard: np.ndarray, *, spelled: Decoded | None = None
) -> tuple[Word, ...]:
    """Words of one utterance by search, sure as its best CTC tokens are between their ends.

    The words of an attention decoder lie where the likeliest CTC path that spells them has them; where there are too
    few frames for one, each takes an equal share of the utterance.

    `log_probs` (frames, tokens): of the exit's CTC head, without padding. `heard` (frames,): probability of each
    frame's best token. `spelled`: what the attention decoder spells; None for a CTC beam search.
    """
    frame_s = engine.frame_s
    if not isinstance(engine.decoder, AttentionSearch):
        return tuple(
            Word(word, begin * frame_s, end * frame_s, float(heard[begin:end].mean(dtype=np.float64)))
            for word, begin, end in engine.decoder.words(log_probs)
        )
    return placed_words(engine, log_probs, heard, engine.vocabulary.decode(spelled.tokens), tokens=spelled.tokens)


def placed_words(
    engine: Engine, log_probs: torch.Tensor, heard: np.ndarray, text: str, *, tokens: Sequence[int] | None = None
) -> tuple[Word, ...]:
    """Words of a transcript where the likeliest CTC path that spells it has them.

    `tokens`: its tokens; None for those that the vocabulary has for it.
    """
    blank_index, frame_s, path = engine.model.blank_index, engine.frame_s, None
    with contextlib.suppress(ValueError):  # a letter that the vocabulary lacks
        tokens = engine.vocabulary.encode(text) if tokens is None else tokens
        path = aligned_path(log_probs.float().cpu().numpy(), tokens, blank_index=blank_index)
    if path is not None:
        return spell_words(path, heard, spellings=engine.spellings, blank_index=blank_index, frame_s=frame_s)
    texts = text.split()
    ends = np.linspace(0, len(heard) * frame_s, len(texts) + 1)
    sure = float(heard.mean(dtype=np.float64))
    return tuple(Word(text, *map(float, ends[i : i + 2]), sure) for i, text in enumerate(texts))
