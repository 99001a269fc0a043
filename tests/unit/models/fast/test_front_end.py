"""The faster front end: stock's numbers, in and out of models of transformers and of ours."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCTC, BertConfig, BertModel

from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.fast import convolutions
from eeasr_modules.models.fast import front_end as fast_front_end
from eeasr_modules.models.fast import module as fast_module
from eeasr_modules.models.fast.front_end import (
    DirectConvolution,
    SpectralConvolution,
    faster_front_end,
    stock_front_end,
)
from eeasr_modules.models.walk import Walk

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embedding_groups": 4,
}
BASE = {"feat_extract_norm": "group", "num_conv_pos_embeddings": 16}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_conv_pos_embeddings": 16}
SHAPES = {
    "wav2vec2-base": ("wav2vec2", BASE),
    "wav2vec2-large": ("wav2vec2", LARGE),
    "wav2vec2-bias": ("wav2vec2", {**LARGE, "conv_bias": True}),
    "wav2vec2-group-bias": ("wav2vec2", {**BASE, "conv_bias": True}),
    "wav2vec2-odd-kernel": ("wav2vec2", {**BASE, "num_conv_pos_embeddings": 15}),
    "wav2vec2-relu": ("wav2vec2", {**BASE, "feat_extract_activation": "relu"}),
    "hubert-base": ("hubert", BASE),
    "hubert-large": ("hubert", LARGE),
    "hubert-batch-norm": ("hubert", {**BASE, "conv_pos_batch_norm": True}),
    "wavlm-base": ("wavlm", BASE),
    "wavlm-large": ("wavlm", LARGE),
    "unispeech-large": ("unispeech", LARGE),
    "unispeech-sat-base": ("unispeech-sat", BASE),
    "data2vec-audio": ("data2vec-audio", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 7}),
}


def stock_model(name, *, ctc=False):
    torch.manual_seed(4)
    kind, shape = SHAPES[name]
    config = AutoConfig.for_model(kind, **TINY, **shape)
    model = (AutoModelForCTC if ctc else AutoModel).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that do something
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def swapped(model):
    return [type(module).__name__ for module in model.modules() if "forward" in vars(module)]


@torch.no_grad()
@pytest.mark.parametrize("name", SHAPES)
def test_the_output_is_that_of_stock(name):
    model, wavs = stock_model(name), noise(3, 23456)
    stock = model(wavs).last_hidden_state, model.feature_extractor(wavs)
    faster_front_end(model)
    assert len(swapped(model)) == (4 if name == "data2vec-audio" else 2)
    features = model.feature_extractor(wavs)
    assert features.shape == stock[1].shape
    assert (features - stock[1]).abs().max() < 1e-5 * max(1.0, stock[1].std().item())
    assert (model(wavs).last_hidden_state - stock[0]).abs().max() < 5e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["wav2vec2-base", "wavlm-large", "data2vec-audio"])
def test_padded_batches_with_a_mask_come_out_as_stock_does_them(name):
    model = stock_model(name)
    mask = (torch.arange(16000) < torch.tensor([[16000], [9000]])).long()
    wavs = noise(2, 16000) * mask
    stock = model(wavs, attention_mask=mask).last_hidden_state
    assert (faster_front_end(model)(wavs, attention_mask=mask).last_hidden_state - stock).abs().max() < 5e-5


@torch.no_grad()
@pytest.mark.parametrize("n_samples", [400, 401, 719, 720, 10_321, 41_039, 41_040, 41_359, 41_360, 82_320])
def test_every_length_around_the_cuts_has_stock_s_frames_and_numbers(n_samples):
    model, wav = stock_model("wav2vec2-base"), noise(1, n_samples)
    stock = model.feature_extractor(wav)
    ours = faster_front_end(model).feature_extractor(wav)
    assert ours.shape == stock.shape
    assert (ours - stock).abs().max() < 2e-5 if stock.shape[2] > 1 else True


@torch.no_grad()
def test_how_time_is_cut_does_not_matter():
    extractor = stock_model("wav2vec2-large").feature_extractor
    layers, wav = convolutions.pack(extractor, torch.float32), noise(16000)
    stock = extractor(wav[None])[0].T
    for chunk_frames in (1, 7, 48, 49, 1000):
        out = torch.empty(49, 16)
        convolutions.convolve(layers, wav, group_norm=None, out=out, chunk_frames=chunk_frames)
        assert (out - stock).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (100.0, 0.0), (0.01, 1.0)])
def test_the_folded_group_norm_holds_for_quiet_loud_and_shifted_recordings(scale, offset):
    model, wav = stock_model("wav2vec2-base"), scale * noise(1, 16000) + offset
    exact = copy.deepcopy(model.feature_extractor).double()(wav.double())
    stock = (model.feature_extractor(wav) - exact).abs().max()
    ours = (faster_front_end(model).feature_extractor(wav) - exact).abs().max()
    assert ours < max(1e-5, 2 * stock)


@torch.no_grad()
def test_silence_comes_out_as_in_stock():
    model, wav = stock_model("hubert-base"), torch.zeros(1, 16000)
    stock = model.feature_extractor(wav)
    assert (faster_front_end(model).feature_extractor(wav) - stock).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 31, 32, 33, 200])
@pytest.mark.parametrize("kernel", [1, 7, 16])
def test_the_transformed_convolution_is_the_convolution(frames, kernel):
    conv = torch.nn.Conv1d(12, 12, kernel, padding=kernel // 2, groups=3)
    x = noise(2, 12, frames)
    ours = SpectralConvolution(conv, torch.float32)(x)
    assert ours.shape == conv(x).shape
    assert (ours - conv(x)).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this CPU")
@pytest.mark.parametrize("frames", [1, 31, 255, 256, 300])
@pytest.mark.parametrize("kernel", [15, 16])
def test_the_convolution_laid_out_once_is_the_convolution(frames, kernel):
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(64, 64, kernel, padding=kernel // 2, groups=4)
    x = noise(2, 64, frames)
    ours = DirectConvolution(conv)(x)
    assert ours.shape == conv(x).shape and ours.dtype == torch.bfloat16
    assert (ours - conv(x)).abs().max() < 0.02


@torch.no_grad()
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this CPU")
def test_the_convolution_is_laid_out_where_matrix_units_make_it_faster(monkeypatch):
    def taken(channels, *, units, seconds):
        conv = torch.nn.Conv1d(channels, channels, 16, padding=8, groups=4)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
        monkeypatch.setattr(fast_front_end, "_seconds", lambda convolve, x: seconds[type(convolve)])
        return type(DirectConvolution.where_it_pays(conv, SpectralConvolution(conv, torch.bfloat16)))

    faster, slower = (
        {DirectConvolution: 1.0, SpectralConvolution: 1.5},
        {DirectConvolution: 9.0, SpectralConvolution: 3},
    )
    assert taken(64, units=True, seconds=faster) is DirectConvolution
    assert taken(64, units=True, seconds=slower) is SpectralConvolution
    assert taken(64, units=False, seconds=faster) is SpectralConvolution
    assert taken(32, units=True, seconds=faster) is SpectralConvolution  # eight channels a group


@torch.no_grad()
def test_stock_comes_back_bit_for_bit_and_keys_never_change():
    model, wavs = stock_model("wav2vec2-base"), noise(2, 16000)
    keys, stock = list(model.state_dict()), model(wavs).last_hidden_state
    assert faster_front_end(model) is model and list(model.state_dict()) == keys
    assert stock_front_end(model) is model and swapped(model) == []
    assert torch.equal(model(wavs).last_hidden_state, stock)


@torch.no_grad()
def test_models_with_heads_and_ours_are_swapped_as_well():
    ctc, wavs = stock_model("hubert-base", ctc=True), noise(1, 16000)
    stock = ctc(wavs).logits
    assert (faster_front_end(ctc)(wavs).logits - stock).abs().max() < 5e-5
    assert len(swapped(ctc)) == 2


@torch.no_grad()
def test_in_the_walk_an_utterance_gets_the_same_alone_and_in_a_batch():
    torch.manual_seed(0)
    config = {"model_type": "wav2vec2", **TINY, **BASE}
    encoder = build_encoder({"encoder": "huggingface", "hf_config": config}).eval()
    n_samples = torch.tensor([9000, 16000, 4321])
    wavs = noise(3, 16000) * (torch.arange(16000) < n_samples[:, None])
    stock = Walk(encoder, wavs, n_samples).advance(2)
    batch = Walk(faster_front_end(encoder), wavs, n_samples)
    ours = batch.advance(2)
    for i, (n, frames) in enumerate(zip(n_samples.tolist(), batch.n_frames.tolist())):
        alone = Walk(encoder, wavs[i : i + 1, :n], n_samples[i : i + 1]).advance(2)
        assert (alone[0] - ours[i, :frames]).abs().max() < 1e-5
        assert (stock[i, :frames] - ours[i, :frames]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["wav2vec2-base", "wav2vec2-large", "data2vec-audio"])
def test_bfloat16_products_are_near_stock_in_float32(name):
    model, wavs = stock_model(name), noise(2, 16000)
    stock = model(wavs).last_hidden_state
    ours = faster_front_end(model, precision="bfloat16")(wavs).last_hidden_state
    assert ours.dtype == torch.float32
    assert 1e-5 < (ours - stock).abs().max() < 0.2
    with torch.autocast("cpu", torch.bfloat16):
        assert faster_front_end(model).feature_extractor(wavs).dtype == torch.bfloat16
    exact = stock_front_end(model).feature_extractor(wavs)
    ours = faster_front_end(model.to(torch.bfloat16)).feature_extractor(wavs.bfloat16())
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).abs().max() < 0.1 * max(1.0, exact.std().item())


@torch.no_grad()
def test_under_autocast_the_position_convolution_takes_what_the_projection_rounded():
    model = faster_front_end(stock_model("wav2vec2-base"))
    conv, x = model.encoder.pos_conv_embed.conv, noise(1, 24, 40).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv.forward.dtype_for(x) == torch.bfloat16
        ours = conv(x)
    assert ours.dtype == torch.bfloat16
    assert 0 < (ours - stock_front_end(model).encoder.pos_conv_embed.conv(x.float())).abs().max() < 0.1


@torch.no_grad()
@pytest.mark.parametrize("n_frames", [1, 2, 7, 12])
def test_five_products_for_a_pair_of_frames_give_what_six_give(n_frames):
    layer = convolutions.pack(stock_model("wav2vec2-base").feature_extractor, torch.float32)[1]
    x, spare = noise(2 * n_frames + 1, 16), torch.empty(n_frames, 16)
    one_by_one = layer.apply(layer.windows(x, n_frames), spare, torch.empty(n_frames * len(layer.weights)))
    pairs = convolutions.interleaved(*layer.pairs(x[::2], x[1::2], spare))
    assert pairs.shape == one_by_one.shape
    assert (pairs - one_by_one).abs().max() < 1e-5


def test_gradients_are_those_of_stock_and_new_weights_are_used():
    model, wavs = stock_model("wav2vec2-base"), noise(1, 16000)
    twin = copy.deepcopy(model)
    faster_front_end(model)
    for one in (model, twin):
        one(wavs).last_hidden_state.square().mean().backward()
    weight, its = model.feature_extractor.conv_layers[0].conv.weight, twin.feature_extractor.conv_layers[0].conv.weight
    assert torch.equal(weight.grad, its.grad)
    for one in (model, twin):
        torch.optim.SGD(one.parameters(), lr=0.1).step()
    with torch.no_grad():
        assert (model(wavs).last_hidden_state - twin(wavs).last_hidden_state).abs().max() < 5e-5


@torch.no_grad()
def test_a_copy_reads_its_own_weights():
    model, wavs = faster_front_end(stock_model("wav2vec2-large")), noise(1, 16000)
    before = model(wavs).last_hidden_state
    other = copy.deepcopy(model)
    other.feature_extractor.conv_layers[1].conv.weight.mul_(2.0)
    assert len(swapped(other)) == 2
    assert torch.equal(model(wavs).last_hidden_state, before)
    stock = stock_front_end(copy.deepcopy(other))(wavs).last_hidden_state
    assert (other(wavs).last_hidden_state - stock).abs().max() < 5e-5


@torch.no_grad()
def test_what_is_not_foreseen_runs_as_stock():
    model, wavs = stock_model("wav2vec2-base").double(), noise(1, 16000).double()
    stock = model(wavs).last_hidden_state
    assert torch.equal(faster_front_end(model)(wavs).last_hidden_state, stock)
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
        faster_front_end(stock_model("wav2vec2-base")).feature_extractor(noise(1, 300))


def test_models_without_such_a_front_end_are_refused_in_one_sentence():
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(ValueError, match="got a BertModel"):
        faster_front_end(bert)
    with pytest.raises(ValueError, match="bfloat16"):
        faster_front_end(stock_model("wav2vec2-base"), precision="int8")
    model = stock_model("wav2vec2-base")
    model.feature_extractor.conv_layers[0].layer_norm = torch.nn.GroupNorm(4, 16)
    with pytest.raises(ValueError, match="layer 0 has a GroupNorm"):
        faster_front_end(model)
    assert swapped(model) == []


def test_a_difference_found_at_the_swap_leaves_stock_in_place(monkeypatch):
    model = stock_model("wav2vec2-base")
    monkeypatch.setitem(fast_module.TOLERANCE, torch.float32, -1.0)
    with pytest.raises(RuntimeError, match="use the stock one"):
        faster_front_end(model)
    assert swapped(model) == []
