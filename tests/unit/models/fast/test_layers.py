"""Faster layers: stock's numbers, and stock itself where they are not meant to run."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from eeasr_modules.models.fast import layers as fast_layers
from eeasr_modules.models.fast import module as fast_module
from eeasr_modules.models.fast.layers import faster_layers, stock_layers

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
SHAPES = {
    "wav2vec2-base": ("wav2vec2", {}),
    "wav2vec2-large": ("wav2vec2", LARGE),
    "wav2vec2-relu": ("wav2vec2", {"hidden_act": "relu"}),
    "hubert-large": ("hubert", LARGE),
    "wavlm-base": ("wavlm", {}),
    "data2vec-audio": ("data2vec-audio", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 7}),
}


def stock_model(name="wav2vec2-base"):
    torch.manual_seed(4)
    kind, shape = SHAPES[name]
    model = AutoModel.from_config(AutoConfig.for_model(kind, **{**TINY, **shape})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that do something
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def masked(n_samples):
    mask = torch.arange(max(n_samples)) < torch.tensor(n_samples)[:, None]
    return noise(len(n_samples), max(n_samples)) * mask, mask.long()


def swapped(model):
    return sorted({type(module.forward).__name__ for module in model.modules() if "forward" in vars(module)})


@torch.no_grad()
@pytest.mark.parametrize("name", SHAPES)
def test_the_output_is_that_of_stock(name):
    model = stock_model(name)
    wavs, mask = masked([16000, 9000])
    stock = model(wavs).last_hidden_state, model(wavs, attention_mask=mask).last_hidden_state
    faster_layers(model)
    assert "FasterLinear" in swapped(model)
    assert ("FasterFeedForward" in swapped(model)) == (name != "wav2vec2-relu")
    assert (model(wavs).last_hidden_state - stock[0]).abs().max() < 2e-5
    assert (model(wavs, attention_mask=mask).last_hidden_state - stock[1]).abs().max() < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["wav2vec2-base", "wav2vec2-large", "wavlm-base"])
def test_rounded_products_are_as_near_to_float32_as_stock_s(name):
    model = stock_model(name)
    wavs, mask = masked([16000, 9000])
    exact = model(wavs, attention_mask=mask).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        stock = model(wavs, attention_mask=mask).last_hidden_state
        own = faster_layers(model)(wavs, attention_mask=mask).last_hidden_state
    frames = model._get_feat_extract_output_lengths(torch.tensor([16000, 9000]))
    for i, n in enumerate(frames.tolist()):
        error, allowed = (own[i, :n] - exact[i, :n]).abs(), (stock[i, :n] - exact[i, :n]).abs()
        assert 0 < error.mean() < 1.3 * allowed.mean()


@torch.no_grad()
def test_where_onednn_refuses_bfloat16_stock_runs(monkeypatch):
    refusing = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: False)  # as before AVX-512: any product would raise
    monkeypatch.setattr(fast_layers.torch.ops, "mkldnn", refusing)
    model, wavs = stock_model(), noise(1, 16000)
    with torch.autocast("cpu", torch.bfloat16):
        stock = model(wavs).last_hidden_state
        for layer in model.encoder.layers:
            for module in fast_layers._swappable(layer):
                fast_layers._faster(module).swap()
        assert torch.equal(model(wavs).last_hidden_state, stock)


@torch.no_grad()
def test_attention_in_bfloat16_gives_an_utterance_the_same_alone_and_beside_padding():
    attention = faster_layers(stock_model()).encoder.layers[0].attention
    x, valid = noise(2, 9, 24), torch.arange(9) < torch.tensor([[9], [5]])
    with torch.autocast("cpu", torch.bfloat16):
        batch, weights = attention(x, attention_mask=valid[:, None, None, :].expand(2, 1, 9, 9))
        alone, _ = attention(x[1:, :5], attention_mask=None)
    assert weights is None and batch.dtype == torch.bfloat16
    assert (batch[1, :5].float() - alone[0].float()).abs().max() < 0.02
    assert batch[0].std() > 0.1


@torch.no_grad()
def test_stock_comes_back_bit_for_bit_and_keys_never_change():
    model, wavs = stock_model(), noise(1, 16000)
    stock, keys = model(wavs).last_hidden_state, list(model.state_dict())
    assert list(faster_layers(model).state_dict()) == keys
    assert swapped(stock_layers(model)) == []
    assert torch.equal(model(wavs).last_hidden_state, stock)


def test_gradients_and_dropout_are_stock_s():
    model, wavs = stock_model(), noise(1, 16000)
    other = faster_layers(copy.deepcopy(model))
    for one in (model, other):
        one(wavs).last_hidden_state.square().sum().backward()
    name = "encoder.layers.0.feed_forward.intermediate_dense.weight"
    assert torch.equal(model.get_parameter(name).grad, other.get_parameter(name).grad)
    feed_forward, x = other.encoder.layers[0].feed_forward.train(), noise(1, 9, 24)
    with torch.no_grad():
        assert not torch.equal(feed_forward(x), feed_forward(x))


@torch.no_grad()
@pytest.mark.parametrize("rounded", [False, True])
def test_new_weights_are_used_and_a_copy_reads_its_own(rounded):
    layer, x = faster_layers(stock_model()).encoder.layers[0], noise(1, 9, 24)
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        before = layer.feed_forward(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            other.feed_forward.output_dense.bias.add_(1.0)
            assert (other.feed_forward(x) - before - 1.0).abs().max() < 0.05
        assert torch.equal(layer.feed_forward(x), before)


def test_models_without_such_layers_are_refused_in_one_sentence():
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(ValueError, match="got a BertModel"):
        faster_layers(bert)


def test_a_difference_found_at_the_swap_leaves_stock_in_place(monkeypatch):
    monkeypatch.setitem(fast_module.TOLERANCE, torch.float32, -1.0)
    model = stock_model()
    with pytest.raises(RuntimeError, match="use the stock ones"):
        faster_layers(model)
    assert swapped(model) == []
