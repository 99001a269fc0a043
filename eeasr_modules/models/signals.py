"""Acoustic signals of utterances and of single words, from one exit's log-probs.

All ignore padding and are computed in float32; what several share is computed once, and what nobody asks for is not
computed. *Tokens* are those of the greedy path: runs of frames with the same best token, blank left out; a word's
times are those of its spikes, not of the sound's ends. Normalised entropies after Laptev & Ginsburg 2022, "Fast
Entropy-Based Methods of Word-Level Confidence Estimation for End-to-End Automatic Speech Recognition" (SLT): from 0
(all tokens equally likely) to 1 with their exponential normalisation, over frames that are not blank, Tsallis' and
Renyi's with alpha 1/3.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from eeasr_modules.models.decoding.ctc import run_starts, valid_frames

MOST_LAGS = 4  # exits back that posteriors are compared with; `exits.policies.protocol` has the same number
LAGS = range(1, MOST_LAGS + 1)
ALPHA = 1 / 3  # of Tsallis' and Renyi's entropies; below 1 the unlikely tokens weigh more than in Gibbs'
LEAST_LOG_PROB = -100.0  # in place of -inf: 0 log 0 is 0, not nan


@dataclass(frozen=True, eq=False)
class ExitFrames:
    """One exit's frames, and what signals are made of, each part computed when it is first asked for."""

    log_probs: torch.Tensor  # (batch, frames, tokens): of this exit, float32
    # hidden, previous_hidden: (batch, frames, dim): layer states at this exit and at the one before
    hidden: torch.Tensor
    n_frames: torch.Tensor  # (batch,): valid frames
    previous_log_probs: torch.Tensor | None  # (batch, frames, tokens): of the exit before; None at the first exit
    previous_hidden: torch.Tensor
    blank_index: int
    # (batch, frames, tokens): of the exits before the one before, the latest first; as many as there are
    earlier_log_probs: Sequence[torch.Tensor] = ()

    @cached_property
    def valid(self) -> torch.Tensor:
        """True for frames that are not padding, (batch, frames)."""
        return valid_frames(self.log_probs, self.n_frames)

    @cached_property
    def finite(self) -> torch.Tensor:
        """Log-probs without -inf."""
        return self.log_probs.clamp(min=LEAST_LOG_PROB)

    @cached_property
    def path(self) -> torch.Tensor:
        """Best token of each frame, (batch, frames)."""
        return self.log_probs.argmax(dim=-1)

    @cached_property
    def spoken(self) -> torch.Tensor:
        """True for valid frames whose best token is not blank."""
        return self.valid & (self.path != self.blank_index)

    @cached_property
    def run(self) -> torch.Tensor:
        """Which run of equal best tokens each frame is in, from 0, (batch, frames)."""
        return run_starts(self.path).long().cumsum(dim=1) - 1

    @cached_property
    def top_probs(self) -> torch.Tensor:
        """The two largest probabilities of each frame, (batch, frames, 2)."""
        return self.log_probs.topk(2, dim=-1).values.exp()

    @cached_property
    def entropy(self) -> torch.Tensor:
        """Nats of each frame, (batch, frames)."""
        return -(self.log_probs.exp() * self.finite).sum(dim=-1)

    @cached_property
    def power_sum(self) -> torch.Tensor:
        """Sum of p ** ALPHA of each frame, (batch, frames)."""
        return (self.log_probs * ALPHA).exp().sum(dim=-1)

    @cached_property
    def tsallis(self) -> torch.Tensor:
        """Confidence of each frame by Tsallis' entropy, (batch, frames)."""
        largest = (self.log_probs.shape[-1] ** (1 - ALPHA) - 1) / (1 - ALPHA)
        return _confidence((self.power_sum - 1) / (1 - ALPHA), largest)

    @cached_property
    def finite_against(self) -> torch.Tensor:
        """Log of 1 - p without -inf, (batch, frames, tokens)."""
        return torch.log1p(-self.log_probs.exp()).clamp(min=LEAST_LOG_PROB)

    def before(self, lag: int) -> torch.Tensor | None:
        """Log-probs of the exit so many before, None where there is none."""
        earlier = [] if self.previous_log_probs is None else [self.previous_log_probs, *self.earlier_log_probs]
        return earlier[lag - 1].float() if lag <= len(earlier) else None

    def mean(self, values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Mean over the frames kept, (batch, frames) -> (batch,); 0 where there is none."""
        return (values * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)

    def per_token(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean over each token's frames, and where there is a token, both (batch, frames): one column per run."""
        zeros = torch.zeros_like(values)
        counts = zeros.scatter_add(1, self.run, self.spoken.to(values.dtype))
        sums = zeros.scatter_add(1, self.run, values * self.spoken)
        return sums / counts.clamp(min=1), counts > 0


def _confidence(entropy: torch.Tensor, largest: float) -> torch.Tensor:
    """Laptev & Ginsburg's exponential normalisation of an entropy that is at most `largest`."""
    return ((-entropy).exp() - math.exp(-largest)) / -math.expm1(-largest)


def _cross_entropy(frames: ExitFrames, lag: int) -> torch.Tensor:
    before = frames.before(lag)
    if before is None:
        return frames.mean(-frames.finite[..., frames.blank_index], frames.valid)
    return frames.mean(-(before.exp() * frames.finite).sum(dim=-1), frames.valid)


def _binary_cross_entropy(frames: ExitFrames, lag: int) -> torch.Tensor:
    """Every token as a yes or no of its own, and the mean over tokens too; after Berrebbi et al. (2022)."""
    before = frames.before(lag)
    if before is None:
        wrong = torch.ones_like(frames.finite[0, 0])
        wrong[frames.blank_index] = 0.0
        per_frame = -(wrong * frames.finite_against).mean(dim=-1)
        per_frame = per_frame - frames.finite[..., frames.blank_index] / frames.finite.shape[-1]
    else:
        p = before.exp()
        per_frame = -(p * frames.finite + (1 - p) * frames.finite_against).mean(dim=-1)
    return frames.mean(per_frame, frames.valid)


def _cosine(frames: ExitFrames) -> torch.Tensor:
    states = torch.cosine_similarity(frames.hidden.float(), frames.previous_hidden.float(), dim=-1)
    return frames.mean(states, frames.valid)


def _token_mean(frames: ExitFrames, values: torch.Tensor) -> torch.Tensor:
    return frames.mean(*frames.per_token(values))


def _gibbs(frames: ExitFrames) -> torch.Tensor:
    return _token_mean(frames, _confidence(frames.entropy, math.log(frames.log_probs.shape[-1])))


def _renyi(frames: ExitFrames) -> torch.Tensor:
    entropy = frames.power_sum.log() / (1 - ALPHA)
    return _token_mean(frames, _confidence(entropy, math.log(frames.log_probs.shape[-1])))


def _tsallis_min(frames: ExitFrames) -> torch.Tensor:
    values, is_token = frames.per_token(frames.tsallis)
    return values.masked_fill(~is_token, 1.0).amin(dim=1) * is_token.any(dim=1)


def _tsallis_product(frames: ExitFrames) -> torch.Tensor:
    values, is_token = frames.per_token(frames.tsallis)
    return values.clamp(0.0, 1.0).masked_fill(~is_token, 1.0).prod(dim=1) * is_token.any(dim=1)


def _suffix(lag: int) -> str:
    """Of the name of a signal that compares with the exit so many before."""
    return "" if lag == 1 else f"_{lag}"


# One line per signal; a new one is a function of `ExitFrames` to (batch,). All are 0 where no frame counts.
SIGNALS: dict[str, Callable[[ExitFrames], torch.Tensor]] = {
    # mean frame entropy, nats; over frames whose best token is not blank; mean over tokens of a token's mean
    "entropy": lambda f: f.mean(f.entropy, f.valid),
    "entropy_nonblank": lambda f: f.mean(f.entropy, f.spoken),
    # nats of the frame that is least sure
    "max_entropy": lambda f: (f.entropy * f.valid).amax(dim=1),
    "entropy_token": lambda f: _token_mean(f, f.entropy),
    # mean of the best probability, of best minus second; share of frames whose best token is blank
    "confidence": lambda f: f.mean(f.top_probs[..., 0], f.valid),
    "margin": lambda f: f.mean(f.top_probs[..., 0] - f.top_probs[..., 1], f.valid),
    "blank_rate": lambda f: f.mean((f.path == f.blank_index).float(), f.valid),
    # log-probability of the greedy path, nats per frame
    "path_log_prob": lambda f: f.mean(f.finite.amax(dim=-1), f.valid),
    # normalised entropies, 0 to 1: mean, least and product over tokens
    "gibbs_confidence": _gibbs,
    "tsallis_confidence": lambda f: _token_mean(f, f.tsallis),
    "tsallis_min": _tsallis_min,
    "tsallis_product": _tsallis_product,
    "renyi_confidence": _renyi,
    # compared with the exit before: mean of -sum p_previous log p; mean cosine of the layer states
    "cosine": _cosine,
    # the same of posteriors, with the exit before and with exits further back; and with each token as a yes or no
    **{f"cross_entropy{_suffix(lag)}": partial(_cross_entropy, lag=lag) for lag in LAGS},
    **{f"binary_cross_entropy{_suffix(lag)}": partial(_binary_cross_entropy, lag=lag) for lag in LAGS},
}
ACOUSTIC_SIGNALS = tuple(SIGNALS)


def acoustic_signals(
    log_probs: torch.Tensor,
    hidden: torch.Tensor,
    n_frames: torch.Tensor,
    *,
    previous_log_probs: torch.Tensor | None,
    previous_hidden: torch.Tensor,
    blank_index: int,
    earlier_log_probs: Sequence[torch.Tensor] = (),
    names: Sequence[str] = ACOUSTIC_SIGNALS,
) -> dict[str, torch.Tensor]:
    """Signals of one exit for a batch, each of shape (batch,) and float32; what each is says `SIGNALS`.

    ValueError when there is no signal of a name; those there are, are named.

    Arguments
    ---------
    hidden, previous_hidden : torch.Tensor of shape (batch, frames, dim)
        Layer states at this exit and at the one before (the input of layer 1 before the first exit). Read by
        `cosine` only.
    previous_log_probs : torch.Tensor of shape (batch, frames, tokens) or None
        Of the exit before; None at the first exit, which is compared with the all-blank posterior (the empty
        transcript). Read by `cross_entropy` and `binary_cross_entropy` only.
    earlier_log_probs : sequence of torch.Tensor of shape (batch, frames, tokens)
        Of the exits before that one, the latest first, `MOST_LAGS` - 1 of them or as many as there are: an exit that
        is not there is the all-blank posterior.
    names : sequence of str
        Which of `SIGNALS`; others are not computed.

    Example
    -------
    >>> log_probs = torch.tensor([[[0.9, 0.05, 0.05], [0.1, 0.1, 0.8]]]).log()
    >>> states = torch.ones(1, 2, 4)
    >>> found = acoustic_signals(log_probs, states, torch.tensor([2]), previous_log_probs=None,
    ...                          previous_hidden=states, blank_index=0, names=["confidence", "blank_rate"])
    >>> {name: round(values.item(), 3) for name, values in found.items()}
    {'confidence': 0.85, 'blank_rate': 0.5}
    """
    unknown = [name for name in names if name not in SIGNALS]
    if unknown:
        raise ValueError(f"no acoustic signal {unknown[0]!r}; those there are: {', '.join(SIGNALS)}")
    frames = ExitFrames(
        log_probs.float(), hidden, n_frames, previous_log_probs, previous_hidden, blank_index, earlier_log_probs
    )
    return {name: SIGNALS[name](frames) for name in names}


WORD_SIGNALS = ("word_entropy", "word_margin", "word_start_s", "word_end_s")


class WordFrames:
    """Says which frames spell which word.

    `spellings`: what each token adds to the transcript: characters, with a space before where a word begins, " " for
    the space between words, "" for blank and specials (`spellings` of a vocabulary). ValueError when a token has a
    space between its characters, and so belongs to two words.
    """

    def __init__(self, spellings: Sequence[str], *, blank_index: int):
        two = [text for text in spellings if len(text.split()) > 1]
        if two:
            raise ValueError(f"every token must belong to one word, got {two[0]!r} with a space between characters")
        spells = [bool(text.strip()) and index != blank_index for index, text in enumerate(spellings)]
        self.spells = torch.tensor(spells)
        spaces = [bool(text) and text[0].isspace() for text in spellings]
        self.breaks_before = torch.tensor(spaces) & (torch.arange(len(spellings)) != blank_index)

    def words(self, path: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Word of each frame (batch, frames) by its best token, from 0; -1 for padding and frames that spell nothing.

        Example
        -------
        >>> frames = WordFrames(["", " ", "A", "B"], blank_index=0)
        >>> path = torch.tensor([[1, 2, 2, 0, 3, 1, 0, 1, 3]])
        >>> frames.words(path, path >= 0)
        tensor([[-1,  0,  0, -1,  0, -1, -1, -1,  1]])
        """
        device = path.device
        spells = valid & self.spells.to(device)[path]
        stretch = (run_starts(path) & valid & self.breaks_before.to(device)[path]).long().cumsum(dim=1)
        # stretches between spaces may be empty: number those that spell something
        holds = torch.zeros(path.shape[0], path.shape[1] + 1, dtype=torch.long, device=device)
        holds = holds.scatter_reduce(1, stretch, spells.long(), reduce="amax")
        word = (holds.cumsum(dim=1) - 1).gather(1, stretch)
        return word.masked_fill(~spells, -1)


def word_signals(
    log_probs: torch.Tensor, n_frames: torch.Tensor, *, words: WordFrames, frame_s: float
) -> dict[str, list[np.ndarray]]:
    """Signals of every word of one exit for a batch.

    `log_probs` (batch, frames, tokens). `n_frames` (batch,): valid ones. Returns: (n_words,), per utterance, float32,
    in the order of its words: `word_entropy` (nats) and `word_margin` (best minus second probability), both means over
    the word's frames; `word_start_s` and `word_end_s`, where they begin and end.
    """
    log_probs = log_probs.float()
    path, valid = log_probs.argmax(dim=-1), valid_frames(log_probs, n_frames)
    word = words.words(path, valid)
    entropy = -(log_probs.exp() * log_probs.clamp(min=LEAST_LOG_PROB)).sum(dim=-1)
    top = log_probs.topk(2, dim=-1).values.exp()
    n_words = word.amax(dim=1) + 1 if word.shape[1] else torch.zeros(len(word), dtype=torch.long)
    slot = word + 1  # frames that spell nothing go to slot 0
    shape = (len(word), (int(n_words.max()) if len(word) else 0) + 1)

    def summed(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(shape).scatter_add(1, slot, values)

    counts = summed(torch.ones_like(entropy)).clamp(min=1)
    position = torch.arange(word.shape[1], device=word.device).expand_as(word)
    first = position.new_full(shape, word.shape[1]).scatter_reduce(1, slot, position, reduce="amin")
    last = position.new_zeros(shape).scatter_reduce(1, slot, position, reduce="amax")
    columns = {
        "word_entropy": summed(entropy) / counts,
        "word_margin": summed(top[..., 0] - top[..., 1]) / counts,
        "word_start_s": first * frame_s,
        "word_end_s": (last + 1) * frame_s,
    }
    lengths = n_words.tolist()
    return {
        name: [row[1 : n + 1] for row, n in zip(values.float().cpu().numpy(), lengths, strict=True)]
        for name, values in columns.items()
    }
