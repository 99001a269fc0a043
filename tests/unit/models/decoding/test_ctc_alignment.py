"""The alignment is the likeliest of all paths that spell a transcript."""

import itertools

import numpy as np
import pytest

from eeasr_modules.data.text import ctc_collapse
from eeasr_modules.models.decoding.greedy import aligned_path


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
