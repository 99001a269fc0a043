"""Batches of similar length."""

import numpy as np
import pytest

from eeasr_modules.common.batches import length_batches

DURATIONS = np.random.default_rng(0).uniform(0.2, 9.0, 200).tolist()
BOTH = pytest.mark.parametrize("longest_first", [False, True])


@BOTH
@pytest.mark.parametrize("batch_seconds", [0.1, 5.0, 20.0, 300.0, 1e9])
def test_every_utterance_is_in_one_batch_of_bounded_padded_length(batch_seconds, longest_first):
    batches = length_batches(DURATIONS, batch_seconds, longest_first=longest_first)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(len(batch) == 1 or max(DURATIONS[i] for i in batch) * len(batch) <= batch_seconds for batch in batches)


@BOTH
def test_neighbours_are_alike_in_length(longest_first):
    order = [DURATIONS[i] for batch in length_batches(DURATIONS, 20.0, longest_first=longest_first) for i in batch]
    assert order == sorted(order, reverse=longest_first)
    assert length_batches([1.0, 1.0, 1.0], 2.0, longest_first=longest_first) == [[0, 1], [2]]


@BOTH
def test_a_small_bound_is_one_utterance_a_batch_and_a_large_one_is_one_batch(longest_first):
    assert len(length_batches(DURATIONS, 0.0, longest_first=longest_first)) == 200
    assert len(length_batches(DURATIONS, 1e9, longest_first=longest_first)) == 1
    assert length_batches([], 10.0, longest_first=longest_first) == []
