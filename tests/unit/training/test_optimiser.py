"""The learning rate as a function of progress."""

from itertools import pairwise

import pytest

from eeasr_modules.training.optimiser import warmup_cosine


def shares(warmup, final, n=1000):
    return [warmup_cosine(i / n, warmup_share=warmup, final_share=final) for i in range(n + 1)]


@pytest.mark.parametrize(("warmup", "final"), [(0.08, 0.01), (0.0, 0.0), (0.5, 1.0), (1.0, 0.1)])
def test_it_rises_to_the_peak_and_falls_from_there(warmup, final):
    found = shares(warmup, final)
    top = round(warmup * 1000)
    assert found[top] == pytest.approx(1.0)
    assert all(a < b for a, b in pairwise(found[: top + 1]))
    assert all(a >= b for a, b in pairwise(found[top:]))
    assert all(0.0 <= share <= 1.0 for share in found)


def test_warm_up_is_linear_and_the_end_is_what_was_asked_for():
    found = shares(0.2, 0.05)
    assert found[0] == 0.0 and found[50] == pytest.approx(0.25) and found[100] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.05)
    assert found[600] == pytest.approx((1 + 0.05) / 2)  # half way down the cosine


def test_beyond_the_end_nothing_rises_again():
    # batches are drawn anew every epoch, so the count of updates may be off by a few
    assert warmup_cosine(1.07, warmup_share=0.1, final_share=0.02) == pytest.approx(0.02)
