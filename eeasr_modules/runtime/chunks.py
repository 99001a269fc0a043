"""Long recordings in chunks that overlap, and their words stitched together again.

Chunks are cut where the recording is quietest. Around a cut both neighbours hear the same seconds; where they agree on
a word there, the first one's words end with it and the second one's begin after it, otherwise the cut decides.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from eeasr_modules.runtime.words import Word

LONGEST_S, OVERLAP_S = 30.0, 4.0
_WINDOW_S = 0.2  # of which the loudness is taken
_SAME_WORD_S = 0.5  # two chunks place the same word at most so far apart


@dataclass(frozen=True)
class Stretch:
    """Where in a recording a chunk is, in seconds.

    Arguments
    ---------
    start_s, end_s : float
        Of what a model hears.
    cut_s : float or None
        Where the next chunk takes over; None for the last one.
    """

    start_s: float
    end_s: float
    cut_s: float | None


@dataclass(frozen=True)
class Chunk:
    """A piece of a recording.

    Arguments
    ---------
    wav : torch.Tensor of shape (samples,)
        What a model hears.
    stretch : Stretch
        Where that is.
    """

    wav: torch.Tensor
    stretch: Stretch


def chunks(
    blocks: Iterable[torch.Tensor], *, sample_rate: int, longest_s: float = LONGEST_S, overlap_s: float = OVERLAP_S
) -> Iterator[Chunk]:
    """Chunks of a recording, holding no more of it than one chunk and one block.

    Arguments
    ---------
    blocks : iterable of torch.Tensor of shape (samples,)
        That follow each other.
    sample_rate : int
        Hz.
    longest_s : float
        Of a chunk; a recording that is no longer is a single one.
    overlap_s : float
        That two neighbours share.

    Raises
    ------
    ValueError
        When the overlap is not below a third of the longest chunk.

    Example
    -------
    >>> found = chunks([torch.ones(50)], sample_rate=1, longest_s=30, overlap_s=4)
    >>> [one.stretch for one in found]
    [Stretch(start_s=0.0, end_s=22.0, cut_s=20.0), Stretch(start_s=18.0, end_s=50.0, cut_s=None)]
    """
    if not 0 <= overlap_s < longest_s / 3:
        raise ValueError(
            f"the overlap must be below a third of the longest chunk, {longest_s:g} s, got {overlap_s:g} s"
        )
    longest, half = int(longest_s * sample_rate), int(overlap_s / 2 * sample_rate)
    heard, start = torch.zeros(0), 0
    for block in blocks:
        heard = torch.cat([heard, block])
        while len(heard) > longest + half:  # so that the last chunk is never a mere overlap
            cut = _quietest(heard, int(longest_s * 2 / 3 * sample_rate), longest - half, sample_rate)
            yield _chunk(heard[: cut + half], start, start + cut, sample_rate)
            heard, start = heard[cut - half :], start + cut - half
    if len(heard):
        yield _chunk(heard, start, None, sample_rate)


def _chunk(wav: torch.Tensor, start: int, cut: int | None, sample_rate: int) -> Chunk:
    cut_s = None if cut is None else cut / sample_rate
    return Chunk(wav, Stretch(start / sample_rate, (start + len(wav)) / sample_rate, cut_s))


def _quietest(wav: torch.Tensor, first: int, last: int, sample_rate: int) -> int:
    """Middle of the quietest window between two samples; the earliest of equals."""
    width = max(1, int(_WINDOW_S * sample_rate))
    energy = wav[first:last].double().square().cumsum(0)
    hop = max(1, width // 4)
    begins = torch.arange(0, last - first - width, hop)
    if not len(begins):
        return (first + last) // 2
    quietest = int(begins[(energy[begins + width] - energy[begins]).argmin()])
    return first + quietest + (width // 2 if width > 1 else 0)


def stitch(parts: Sequence[tuple[Stretch, Sequence[Word]]]) -> list[Word]:
    """Words of a recording.

    Arguments
    ---------
    parts : sequence of (Stretch, sequence of Word)
        In order, the words with times from the beginning of their chunk.

    Returns
    -------
    list of Word
        With times from the beginning of the recording.

    Example
    -------
    >>> first, second = Stretch(0.0, 22.0, 20.0), Stretch(18.0, 25.0, None)
    >>> a = [Word("one", 18.5, 18.9, 1.0), Word("two", 20.1, 20.4, 1.0), Word("thr", 21.7, 22.0, 0.4)]
    >>> b = [Word("two", 2.2, 2.4, 1.0), Word("three", 3.7, 4.2, 1.0)]
    >>> [word.text for word in stitch([(first, a), (second, b)])]
    ['one', 'two', 'three']
    """
    words: list[Word] = []
    cut_s: float | None = None
    for stretch, own in parts:
        later = [word.shifted(stretch.start_s) for word in own]
        words = later if cut_s is None else _joined(words, later, cut_s, stretch.start_s)
        cut_s = stretch.cut_s
    return words


def _middle(word: Word) -> float:
    return (word.start_s + word.end_s) / 2


def _joined(earlier: list[Word], later: list[Word], cut_s: float, overlap_start_s: float) -> list[Word]:
    """Two neighbours' words, each once."""
    shared = [i for i, word in enumerate(earlier) if word.end_s >= overlap_start_s]
    reach_s = 2 * cut_s - overlap_start_s  # the overlap lies evenly around the cut
    pairs = [
        (i, j)
        for i in shared
        for j, word in enumerate(later)
        if word.start_s <= reach_s
        and word.text == earlier[i].text
        and abs(_middle(word) - _middle(earlier[i])) <= _SAME_WORD_S
    ]
    if pairs:
        i, j = min(pairs, key=lambda pair: abs(_middle(earlier[pair[0]]) - cut_s))
        return earlier[: i + 1] + later[j + 1 :]
    return [w for w in earlier if _middle(w) < cut_s] + [w for w in later if _middle(w) >= cut_s]
