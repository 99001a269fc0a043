"""Dropout with cheap masks: the rate, the scale, the gradient, the seed, independence."""

import pytest
import torch
from torch import nn

from eeasr_modules.models.encoders.conformer import ByteDropout, cheapen_dropout


@pytest.mark.parametrize("p", [0.05, 0.15, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_is_kept_to_a_256th_and_so_is_the_mean(p, dtype):
    torch.manual_seed(0)
    out = ByteDropout(p).train()(torch.ones(1001, 1003, dtype=dtype))
    assert out.dtype == dtype
    assert float((out == 0).float().mean()) == pytest.approx(round(256 * p) / 256, abs=0.002)
    assert float(out.float().mean()) == pytest.approx(1.0, abs=0.01)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(1)
    dropped = (ByteDropout(0.25).train()(torch.ones(1 << 20)) == 0).float()
    for distance in (1, 2, 7, 8, 64):  # bytes of one draw, and of the next
        both = (dropped[distance:] * dropped[:-distance]).mean()
        assert float(both) == pytest.approx(0.0625, abs=0.002)


def test_the_gradient_has_the_mask_of_the_output():
    x = torch.ones(100, 10, requires_grad=True)
    out = ByteDropout(0.3).train()(x)
    out.sum().backward()
    assert torch.equal(out.detach(), x.grad)


def test_the_seed_decides_and_evaluation_changes_nothing():
    dropout, x = ByteDropout(0.3).train(), torch.randn(33, 7)
    torch.manual_seed(5)
    first = dropout(x)
    torch.manual_seed(5)
    assert torch.equal(dropout(x), first) and not torch.equal(dropout(x), first)
    assert dropout.eval()(x) is x and ByteDropout(0.0).train()(x) is x
    assert ByteDropout(0.3).train()(torch.empty(0, 4)).shape == (0, 4)


def test_every_dropout_below_a_module_is_replaced_with_its_rate():
    inner = nn.ModuleDict({"a": nn.Dropout(0.2), "b": nn.Dropout1d(0.4)})
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), inner)
    cheapen_dropout(module)
    assert [(type(one), one.p) for one in (module[1], inner["a"], inner["b"])] == [
        (ByteDropout, 0.1),
        (ByteDropout, 0.2),
        (nn.Dropout1d, 0.4),
    ]
