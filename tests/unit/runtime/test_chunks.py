"""Long recordings: chunks cover everything, are cut in pauses, and their words come out once."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from eeasr_modules.runtime.chunks import chunks, stitch
from eeasr_modules.runtime.transcript import Word

RATE = 1000


def speech_with_pauses(seconds, pauses, *, seed=0):
    wav = torch.from_numpy(np.random.default_rng(seed).standard_normal(int(seconds * RATE)).astype(np.float32))
    for at in pauses:
        wav[int((at - 0.2) * RATE) : int((at + 0.2) * RATE)] *= 0.01
    return wav


def test_a_short_recording_is_one_chunk():
    wav = speech_with_pauses(30, [])
    (one,) = chunks([wav], sample_rate=RATE)
    assert torch.equal(one.wav, wav) and one.stretch.cut_s is None


@pytest.mark.parametrize("block_s", [1.0, 7.3, 200.0])
def test_chunks_do_not_depend_on_blocks_cover_everything_and_overlap(block_s):
    wav = speech_with_pauses(200, range(5, 200, 9))
    found = list(chunks(wav.split(int(block_s * RATE)), sample_rate=RATE, longest_s=30, overlap_s=4))
    assert len(found) >= 7
    expected = list(chunks([wav], sample_rate=RATE))
    assert [one.stretch for one in found] == [one.stretch for one in expected]
    for one, following in pairwise(found):
        assert one.stretch.end_s - following.stretch.start_s == pytest.approx(4)
        assert one.stretch.start_s < following.stretch.start_s < one.stretch.cut_s < one.stretch.end_s
    for one in found:
        begin = round(one.stretch.start_s * RATE)
        assert torch.equal(one.wav, wav[begin : begin + len(one.wav)])
        assert len(one.wav) <= 32 * RATE
    assert found[-1].stretch.end_s == pytest.approx(200)


def test_cuts_lie_in_pauses():
    pauses = list(range(5, 200, 7))
    found = list(chunks([speech_with_pauses(200, pauses)], sample_rate=RATE))
    for one in found[:-1]:
        assert min(abs(one.stretch.cut_s - pause) for pause in pauses) < 0.15


def spoken(n, *, rng):
    """Words of a second each, the i-th around i + 0.5 s."""
    return [(f"w{rng.integers(5)}", i + 0.2, i + 0.8) for i in range(n)]


def heard(truth, stretch, *, jitter=0.0, rng=None):
    """What a chunk makes of them: those within it, a word at its edge cut to pieces."""
    words = []
    for text, start, end in truth:
        if start >= stretch.start_s and end <= stretch.end_s:
            shift = 0.0 if rng is None else rng.uniform(-jitter, jitter)
            words.append(Word(text, start - stretch.start_s + shift, end - stretch.start_s + shift, 1.0))
        elif end > stretch.start_s and start < stretch.end_s:
            words.append(Word("bit", max(0.0, start - stretch.start_s), min(end, stretch.end_s) - stretch.start_s, 0.3))
    return words


@pytest.mark.parametrize("seed", range(5))
def test_words_come_out_once_though_neighbours_place_them_differently(seed):
    rng = np.random.default_rng(seed)
    truth = spoken(200, rng=rng)
    stretches = [one.stretch for one in chunks([speech_with_pauses(200, [])], sample_rate=RATE)]
    parts = [(stretch, heard(truth, stretch, jitter=0.12, rng=rng)) for stretch in stretches]
    assert [word.text for word in stitch(parts)] == [text for text, _, _ in truth]


def test_where_neighbours_disagree_the_cut_decides():
    stretches = [one.stretch for one in chunks([speech_with_pauses(50, [25])], sample_rate=RATE)]
    first, second = stretches
    a = [Word("a", 24.5, 24.7, 1.0), Word("x", 25.5, 25.7, 1.0)]
    b = [
        Word("y", 24.5 - second.start_s, 24.7 - second.start_s, 1.0),
        Word("b", 26 - second.start_s, 27 - second.start_s, 1.0),
    ]
    assert [word.text for word in stitch([(first, a), (second, b)])] == ["a", "b"]


def test_times_count_from_the_beginning_of_the_recording():
    stretches = [one.stretch for one in chunks([speech_with_pauses(50, [25])], sample_rate=RATE)]
    words = stitch([(stretches[0], []), (stretches[1], [Word("late", 10.0, 10.5, 1.0)])])
    assert words[0].start_s == pytest.approx(stretches[1].start_s + 10.0)


def test_an_overlap_that_leaves_no_room_to_cut_is_refused():
    with pytest.raises(ValueError, match="below a third"):
        list(chunks([torch.ones(10)], sample_rate=RATE, longest_s=9, overlap_s=3))
