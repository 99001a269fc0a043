"""Heads: separate or shared projections, norms of their own."""

import pytest
import torch
from torch import nn


def projections(model):
    return [head.projection for head in model.heads]


def test_separate_heads_share_no_memory_and_start_apart(make_model):
    weights = [p.weight for p in projections(make_model())]
    assert len({w.data_ptr() for w in weights}) == 3
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_training_one_separate_head_leaves_the_others(make_model, batch):
    model = make_model()
    before = [p.weight.clone() for p in projections(model)]
    outputs, _ = model(*batch)
    outputs[1][..., 3].sum().backward()
    torch.optim.SGD(model.heads.parameters(), lr=1.0).step()
    changed = [not torch.equal(p.weight, w) for p, w in zip(projections(model), before)]
    assert changed == [False, True, False]


def test_a_shared_projection_is_one_and_norms_stay_apart(make_model):
    model = make_model(share_projection=True)
    assert len({id(p) for p in projections(model)}) == 1
    assert model.heads[0].norm is not model.heads[1].norm
    separate = sum(p.numel() for p in make_model().heads.parameters())
    assert separate - sum(p.numel() for p in model.heads.parameters()) == 2 * (16 * 7 + 7)


def test_inner_norms_start_as_copies_of_the_final_norm_and_the_last_head_has_none(make_model):
    model = make_model(seed=4)
    final = model.encoder.final_norm
    assert isinstance(model.heads[-1].norm, nn.Identity)
    for head in model.heads[:-1]:
        assert isinstance(head.norm, nn.LayerNorm) and head.norm.weight is not final.weight
        assert torch.equal(head.norm.weight, final.weight) and torch.equal(head.norm.bias, final.bias)
        assert head.norm.eps == final.eps


def test_the_last_head_sees_normalised_states(model, batch):
    with torch.no_grad():
        last = list(model.exits(*batch))[-1].hidden
    torch.testing.assert_close(last.mean(-1), torch.zeros(last.shape[:2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_log_probs_are_float32_and_sum_to_one_under_autocast(model, batch, precision):
    with torch.no_grad(), torch.autocast("cpu", precision):
        outputs, _ = model(*batch)
    with torch.no_grad():
        exact, _ = model(*batch)
    for half, full in zip(outputs, exact, strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half.exp().sum(-1), torch.ones(half.shape[:2]))
        torch.testing.assert_close(half, full, atol=0.1, rtol=0)
        assert not torch.equal(half, full)  # autocast was really on
