"""Acoustic signals of single words, read off the greedy path.

A word's frames are those whose best token spells it: blanks between its characters do not count, and CTC makes a
token as short as it likes, so times are those of the spikes and not of the sound's ends.
"""

from collections.abc import Sequence

import numpy as np
import torch

from eeasr_modules.models.decode import run_starts, valid_frames
from eeasr_modules.models.signals import LEAST_LOG_PROB

WORD_SIGNALS = ("word_entropy", "word_margin", "word_start_s", "word_end_s")


class WordFrames:
    """Says which frames spell which word.

    Arguments
    ---------
    spellings : sequence of str
        What each token adds to the transcript: characters, with a space before where a word begins, " " for the
        space between words, "" for blank and specials (`spellings` of a vocabulary).
    blank_index : int
        Index of blank.

    Raises
    ------
    ValueError
        When a token has a space between its characters, and so belongs to two words.
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
        """Word of each frame, from 0; -1 for frames that spell nothing.

        Arguments
        ---------
        path : torch.Tensor of shape (batch, frames)
            Best token of each frame.
        valid : torch.Tensor of shape (batch, frames)
            False for padding.

        Returns
        -------
        torch.Tensor of shape (batch, frames)

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

    Arguments
    ---------
    log_probs : torch.Tensor of shape (batch, frames, tokens)
        Of this exit.
    n_frames : torch.Tensor of shape (batch,)
        Valid frames.
    words : WordFrames
        Of the model's vocabulary.
    frame_s : float
        Seconds of a frame.

    Returns
    -------
    dict of str to list of np.ndarray of shape (n_words,)
        Per utterance, float32, in the order of its words: `word_entropy` (nats) and `word_margin` (best minus second
        probability), both means over the word's frames; `word_start_s` and `word_end_s`, where they begin and end.
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
