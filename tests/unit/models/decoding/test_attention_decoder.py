"""The decoder that exits share: what it sees, what it is taught, and that it is part of the model."""

import pytest
import torch

from eeasr_modules.models.decoding.attention import AttentionDecoder, misspelled, spelling_losses
from eeasr_modules.models.multi_exit import MultiExit

SHAPE = {"n_layers": 2, "dim": 16, "n_heads": 2, "ffn_dim": 32, "dropout": 0.1}


@pytest.fixture
def model(make_model):
    """A small model with a decoder, in eval mode."""
    return make_model(decoder=SHAPE)


def read(model, batch, tokens):
    """Log-probs of the decoder at every exit."""
    prefixes = model.decoder.prefixes(tokens)
    return model(*batch, prefixes=prefixes, spelling_exits=(0, 1, 2))[2]


@pytest.fixture
def tokens():
    """Targets of four utterances, padded with zeros."""
    return torch.tensor([[1, 2, 3], [4, 4, 0], [5, 0, 0], [6, 1, 2]])


@torch.no_grad()
def test_padding_of_audio_and_of_tokens_changes_nothing(model, batch, tokens):
    wavs, n_samples = batch
    together = read(model, batch, torch.nn.functional.pad(tokens, (0, 4)))
    for i, n in enumerate([3, 2, 1, 3]):
        alone = read(model, (wavs[i : i + 1, : n_samples[i]], n_samples[i : i + 1]), tokens[i : i + 1, :n])
        for e in range(3):
            torch.testing.assert_close(together[e][i, : n + 1], alone[e][0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_position_sees_no_token_after_it(model, batch, tokens):
    other = tokens.clone()
    other[:, 1] = 6
    one, two = read(model, batch, tokens)[1], read(model, batch, other)[1]
    torch.testing.assert_close(one[:, :2], two[:, :2])
    assert (one[:, 2:] - two[:, 2:]).abs().max() > 1e-3


@torch.no_grad()
def test_exits_have_their_own_norm_and_share_the_rest(model, batch, tokens):
    before = read(model, batch, tokens)
    model.decoder.norms[1].weight.mul_(-1.0)
    after = read(model, batch, tokens)
    assert [torch.equal(before[e], after[e]) for e in range(3)] == [True, False, True]


@torch.no_grad()
def test_log_probs_sum_to_one_and_the_blank_and_the_beginning_are_never_said(model, batch, tokens):
    for log_probs in read(model, batch, tokens).values():
        assert log_probs.shape == (4, 4, 9) and log_probs.dtype == torch.float32
        torch.testing.assert_close(log_probs.exp().sum(dim=-1), torch.ones(4, 4))
        assert log_probs[..., [0, model.decoder.begin_index]].exp().max() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_the_tokens_and_the_end_whatever_pads_them(model, batch, tokens, smoothing):
    n_tokens = torch.tensor([3, 2, 1, 3])
    padded = torch.nn.functional.pad(tokens, (0, 3), value=5)
    log_probs = read(model, batch, padded)[0]
    how = {"decoder": model.decoder, "label_smoothing": smoothing}
    losses = spelling_losses(log_probs, padded, n_tokens, **how)
    for i, n in enumerate(n_tokens.tolist()):
        wanted = [*tokens[i, :n].tolist(), 8]
        expected = 0.0
        for position, token in enumerate(wanted):
            row = log_probs[i, position]
            spread = row[[1, 2, 3, 4, 5, 6, 8]].mean()  # all that can be said
            expected -= (1 - smoothing) * row[token] + smoothing * spread
        torch.testing.assert_close(losses[i], expected)


@torch.no_grad()
def test_wrong_tokens_are_counted_with_the_end_and_without_padding(model, batch, tokens):
    n_tokens = torch.tensor([3, 2, 1, 3])
    log_probs = torch.zeros(4, 4, 9)
    for i, n in enumerate(n_tokens.tolist()):
        for position, token in enumerate([*tokens[i, :n].tolist(), 8]):
            log_probs[i, position, token] = 1.0
    assert misspelled(log_probs, tokens, n_tokens, decoder=model.decoder).tolist() == [0, 0, 0, 0]
    log_probs[0, 1, 5] = log_probs[0, 3, 2] = log_probs[2, 1, 4] = 2.0  # a token and the end; the end
    log_probs[2, 3, 4] = 2.0  # padding
    assert misspelled(log_probs, tokens, n_tokens, decoder=model.decoder).tolist() == [2, 0, 1, 0]


def test_gradients_of_one_exit_reach_the_decoder_the_encoder_and_that_exits_norm(model, batch, tokens):
    prefixes = model.decoder.prefixes(tokens)
    log_probs = model(*batch, prefixes=prefixes, spelling_exits=(1,))[2][1]
    spelling_losses(log_probs, tokens, torch.tensor([3, 2, 1, 3]), decoder=model.decoder).sum().backward()
    assert [norm.weight.grad is not None for norm in model.decoder.norms] == [False, True, False]
    assert model.decoder.layers.layers[0].multihead_attn.att.in_proj_weight.grad.abs().max() > 0
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.encoder.parameters())
    assert all(p.grad is None for p in model.heads.parameters())


def test_the_model_folder_keeps_it_and_a_folder_without_one_has_none(model, make_model, batch, tokens, tmp_path):
    model.save(tmp_path / "with")
    again = MultiExit.load(tmp_path / "with")
    assert again.config["decoder"] == SHAPE
    with torch.no_grad():
        ours, theirs = read(model, batch, tokens), read(again, batch, tokens)
    assert all(torch.equal(ours[e], theirs[e]) for e in range(3))
    make_model().save(tmp_path / "without")
    assert MultiExit.load(tmp_path / "without").decoder is None


@torch.no_grad()
def test_ctc_exits_are_those_of_the_model_without_it(make_model, batch):
    plain, joint = make_model(), make_model(decoder=SHAPE)
    joint.load_state_dict(plain.state_dict(), strict=False)
    for ours, theirs in zip(joint(*batch)[0], plain(*batch)[0], strict=True):
        assert torch.equal(ours, theirs)


def test_its_cost_is_that_of_its_matrices(make_model):
    decoder = make_model(decoder={**SHAPE, "n_layers": 1}).decoder
    shapes = [p.shape for name, p in decoder.layers.named_parameters() if p.dim() == 2]
    weights = sum(rows * columns for rows, columns in shapes) + 9 * 16
    # one token, one frame: every matrix once, and two products of each of the two attentions
    assert decoder.step_macs(1, 1, 1) == weights + 4 * 16
    assert decoder.step_macs(5, 1, 1) == 5 * decoder.step_macs(1, 1, 1)
    assert decoder.memory_macs(7) == 7 * 16 * 16


@pytest.mark.parametrize("shape", [{"dim": 18, "n_heads": 4}, {"dim": 15, "n_heads": 3}])
def test_a_width_that_does_not_divide_is_refused(shape):
    with pytest.raises(ValueError, match=f"even and a multiple of decoder_heads, got {shape['dim']}"):
        AttentionDecoder(8, n_exits=1, n_tokens=4, blank_index=0, n_layers=1, ffn_dim=8, **shape)


def test_more_tokens_than_positions_are_refused(model):
    with pytest.raises(ValueError, match="at most 2500 tokens, got 2501"):
        model.decoder.decode(torch.zeros(1, 2501, dtype=torch.long), torch.zeros(1, 3, 16))
