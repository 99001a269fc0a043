"""What a search says of one utterance at the exit where it leaves: words with times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from eeasr_modules.models.attention_search import AttentionSearch, Spelled
from eeasr_modules.models.ctc_alignment import aligned_path
from eeasr_modules.runtime.words import Word, spell_words

if TYPE_CHECKING:
    from eeasr_modules.runtime.engine import Engine


def spell_all(
    engine: Engine, exit_index: int, hidden: torch.Tensor, log_probs: torch.Tensor, n_frames: np.ndarray
) -> list[Spelled]:
    """What the attention decoder spells of each utterance at an exit.

    Arguments
    ---------
    engine : Engine
        Whose decoder is an `AttentionSearch`.
    exit_index : int
        From 0.
    hidden : torch.Tensor of shape (n, frames, dim)
        Layer states.
    log_probs : torch.Tensor of shape (n, frames, tokens)
        Of the exit's CTC head.
    n_frames : np.ndarray of shape (n,)
        Valid frames.
    """
    rows = zip(hidden, log_probs, n_frames.tolist(), strict=True)
    return [engine.decoder.spell(exit_index, states[:n], own[:n]) for states, own, n in rows]


def searched_words(
    engine: Engine, log_probs: torch.Tensor, heard: np.ndarray, *, spelled: Spelled | None = None
) -> tuple[Word, ...]:
    """Words of one utterance by search, sure as its best CTC tokens are between their ends.

    The words of an attention decoder lie where the likeliest CTC path that spells them has them; where there are too
    few frames for one, each takes an equal share of the utterance.

    Arguments
    ---------
    engine : Engine
        With a decoder.
    log_probs : torch.Tensor of shape (frames, tokens)
        Of the exit's CTC head, without padding.
    heard : np.ndarray of shape (frames,)
        Probability of each frame's best token.
    spelled : Spelled or None
        What the attention decoder spells; None for a CTC beam search.

    Returns
    -------
    tuple of Word
    """
    frame_s = engine.frame_s
    if not isinstance(engine.decoder, AttentionSearch):
        return tuple(
            Word(word, begin * frame_s, end * frame_s, float(heard[begin:end].mean(dtype=np.float64)))
            for word, begin, end in engine.decoder.words(log_probs)
        )
    blank_index = engine.model.blank_index
    path = aligned_path(log_probs.float().cpu().numpy(), spelled.tokens, blank_index=blank_index)
    if path is not None:
        return spell_words(path, heard, spellings=engine.spellings, blank_index=blank_index, frame_s=frame_s)
    texts = engine.vocabulary.decode(spelled.tokens).split()
    ends = np.linspace(0, len(heard) * frame_s, len(texts) + 1)
    sure = float(heard.mean(dtype=np.float64))
    return tuple(Word(text, *map(float, ends[i : i + 2]), sure) for i, text in enumerate(texts))
