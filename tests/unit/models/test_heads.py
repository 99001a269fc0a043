"""Heads: separate or shared projections, norms of their own."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


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


def test_the_last_head_has_a_norm_of_its_own_only_where_the_config_says_so(make_model, batch, tmp_path):
    plain, normed = make_model(), make_model(last_norm=True)
    assert "last_norm" not in plain.config  # folders from before the key say the same
    plain.save(tmp_path / "plain")
    normed.save(tmp_path / "normed")
    for folder, kind in (("plain", nn.Identity), ("normed", nn.LayerNorm)):
        model = type(plain).load(tmp_path / folder)
        assert isinstance(model.heads[-1].norm, kind)
        before = {"plain": plain, "normed": normed}[folder]
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(before(*batch)[0], model(*batch)[0], strict=True))
    assert plain.heads.state_dict().keys() < normed.heads.state_dict().keys()
    assert isinstance(make_model(head="paper", last_norm=True).heads[-1].norm, nn.Identity)


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


class TestOtherHeads:
    @pytest.mark.parametrize("head", ["linear", "mlp", "attention", "paper"])
    def test_every_exit_gives_an_utterance_the_same_alone_and_in_a_batch(self, make_model, batch, head):
        model = make_model(head=head, head_dim=12)
        wavs, n_samples = batch
        with torch.no_grad():
            together, n_frames = model(wavs, n_samples)
            for i, samples in enumerate(n_samples.tolist()):
                alone, _ = model(wavs[i : i + 1, :samples], n_samples[i : i + 1])
                for many, one in zip(together, alone, strict=True):
                    torch.testing.assert_close(many[i, : n_frames[i]], one[0], atol=1e-5, rtol=0)

    def test_the_attention_head_looks_at_other_frames_and_never_at_padding(self, make_model):
        head = make_model(head="attention").heads[0]
        hidden, n_frames = torch.randn(2, 10, 16), torch.tensor([10, 6])
        with torch.no_grad():
            before = head(hidden, n_frames)
            hidden[1, 8] = torch.randn(16)  # padding of the second
            after = head(hidden, n_frames)
            assert torch.equal(after[1, :6], before[1, :6])
            hidden[1, 5] = torch.randn(16)
            assert (head(hidden, n_frames)[1, 0] - before[1, 0]).abs().max() > 1e-3

    def test_the_attention_head_will_not_guess_where_padding_begins(self, make_model):
        with pytest.raises(ValueError, match="must know where padding begins: expected n_frames, got None"):
            make_model(head="attention").heads[0](torch.randn(1, 4, 16))

    @pytest.mark.parametrize("head", ["mlp", "attention"])
    def test_they_are_kept_in_the_model_folder_and_train(self, make_model, batch, tmp_path, head):
        model = make_model(head=head, head_dim=8).train()
        sum(one.square().sum() for one in model(*batch)[0]).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.heads.parameters())
        model.eval().save(tmp_path)
        with torch.no_grad():
            for ours, theirs in zip(model(*batch)[0], type(model).load(tmp_path)(*batch)[0], strict=True):
                assert torch.equal(ours, theirs)

    @pytest.mark.parametrize("head", ["mlp", "attention", "paper"])
    @pytest.mark.parametrize("width", [None, 8, 20])
    def test_their_cost_is_what_torch_counts(self, make_model, head, width):
        one = make_model(head=head, head_dim=width).heads[1]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            one(torch.randn(1, 30, 16), torch.tensor([30]))
        counted = counter.get_total_flops() / 2
        if head == "attention":  # torch does not count its attention kernel on CPU
            counted += 2 * 30 * 30 * (width or 16)
        assert one.macs(30) == counted

    def test_a_paper_head_is_its_formula_without_residual_or_norm(self, make_model):
        model = make_model(head="paper", head_dim=8, share_projection=True, head_dropout=0.3).eval()
        assert len({id(p) for p in projections(model)}) == 1 and len({id(head.body) for head in model.heads}) == 3
        head, x = model.heads[0], torch.randn(1, 5, 16)
        body = head.body
        with torch.no_grad():
            y = body.linear(x[0])
            query, key, value = body.queries_keys_values(y).split(8, dim=-1)
            attended = torch.softmax(query @ key.T / 8**0.5, dim=-1) @ value
            inner = torch.relu(body.inner(body.output(attended)))
            expected = torch.log_softmax(head.projection(body.outer(inner)), dim=-1)
            assert torch.allclose(head(x, torch.tensor([5]))[0], expected, atol=1e-5)
            padded = torch.cat([x, torch.randn(1, 3, 16)], dim=1)
            assert torch.allclose(head(padded, torch.tensor([5]))[0, :5], expected, atol=1e-5)
        with pytest.raises(ValueError, match="must know where padding begins"):
            head(x)

    def test_a_shared_projection_fits_the_width(self, make_model):
        model = make_model(head="mlp", head_dim=8, share_projection=True)
        assert {head.projection.in_features for head in model.heads} == {8}
        assert len({id(p) for p in projections(model)}) == 1 and len({id(head.body) for head in model.heads}) == 3

    def test_unknown_kinds_and_widths_that_do_not_divide_are_refused(self, make_model):
        with pytest.raises(ValueError, match=r"head must be one of linear, mlp, attention, paper, got 'conv'"):
            make_model(head="conv")
        with pytest.raises(ValueError, match=r"head_dim must be a multiple of 4 .* got 10"):
            make_model(head="attention", head_dim=10)
