"""Greedy CTC decoding; the alignment is the likeliest of all paths that spell a transcript."""

import itertools

import numpy as np
import pytest
import torch

from eeasr_modules.models.decoding.ctc import aligned_path, average_posteriors, greedy_decode


def decode(*frames, n_frames=None, n_tokens=4, blank=0):
    scores = torch.eye(n_tokens)[torch.tensor([frames])]
    return greedy_decode(scores, torch.tensor([n_frames or len(frames)]), blank_index=blank)[0]


@pytest.mark.parametrize(
    ("frames", "tokens"),
    [
        ((1, 1, 2, 2, 2), [1, 2]),
        ((1, 0, 1), [1, 1]),
        ((1, 2, 1), [1, 2, 1]),
        ((0, 0, 0), []),
        ((0, 3, 0, 0), [3]),
        ((3,), [3]),
    ],
)
def test_repeats_merge_and_blanks_go(frames, tokens):
    assert decode(*frames) == tokens


def test_the_blank_may_be_any_token():
    assert decode(1, 3, 1, 0, 0, blank=3) == [1, 1, 0]


def test_what_lies_beyond_the_last_frame_is_not_read():
    assert decode(1, 0, 2, 2, n_frames=2) == [1]
    rows = torch.eye(4)[torch.tensor([[1, 2, 3], [1, 2, 3]])]
    assert greedy_decode(rows, torch.tensor([3, 1]), blank_index=0) == [[1, 2, 3], [1]]


def test_log_probs_logits_and_probs_say_the_same():
    logits = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([20, 7, 13])
    same = [greedy_decode(f(logits), lengths, blank_index=2) for f in (lambda x: x, torch.exp, lambda x: x.softmax(-1))]
    assert same[0] == same[1] == same[2] and all(same[0])


def test_averaged_posteriors_are_probabilities_and_of_one_exit_its_own():
    one, two, three = (
        torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=-1) for seed in range(3)
    )
    mean = average_posteriors([one, two, three]).exp()
    torch.testing.assert_close(mean, (one.exp() + two.exp() + three.exp()) / 3)
    torch.testing.assert_close(mean.sum(dim=-1), torch.ones(2, 5))
    torch.testing.assert_close(average_posteriors([one]), one)


def test_averaging_lets_two_sure_exits_outvote_an_unsure_one():
    unsure, sure = torch.tensor([[[0.1, 0.5, 0.4]]]).log(), torch.tensor([[[0.0, 0.1, 0.9]]]).log()
    assert greedy_decode(unsure, torch.tensor([1]), blank_index=0) == [[1]]
    assert greedy_decode(average_posteriors([unsure, sure]), torch.tensor([1]), blank_index=0) == [[2]]


def ctc_collapse(frames, blank=0):
    return [token for token, _ in itertools.groupby(frames) if token != blank]


@pytest.mark.parametrize("tokens", [[], [1], [1, 2], [2, 2], [1, 2, 1], [1, 1, 2]])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_path_that_spells_it_is_likelier(tokens, seed):
    log_probs = np.log(np.random.default_rng(seed).dirichlet(np.ones(3), size=5))
    paths = [path for path in itertools.product(range(3), repeat=5) if ctc_collapse(path) == tokens]
    best = max(paths, key=lambda path: log_probs[range(5), path].sum())
    assert tuple(aligned_path(log_probs, tokens, blank_index=0)) == best


@pytest.mark.parametrize(("tokens", "n_frames"), [([1, 1], 2), ([1, 2, 1], 2), ([1], 0)])
def test_too_few_frames_give_none(tokens, n_frames):
    assert aligned_path(np.full((n_frames, 3), -1.0), tokens, blank_index=0) is None
    assert aligned_path(np.full((len(tokens) * 2, 3), -1.0), tokens, blank_index=0) is not None


def test_another_blank_is_left_out_likewise():
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(3), size=6))
    path = aligned_path(log_probs, [0, 1], blank_index=2)
    assert ctc_collapse(path, blank=2) == [0, 1]
