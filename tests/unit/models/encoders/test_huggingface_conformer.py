"""Conformers of transformers behind the walk: their own numbers, and the same for an utterance alone and in a batch."""

import json
import shutil

import pytest
import torch
from small_checkpoints import config_of, encoder_from, strong, walked
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForCTC, SeamlessM4TFeatureExtractor

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.models.encoders.huggingface import stock_forward
from eeasr_modules.models.fast.front_end import faster_front_end
from eeasr_modules.models.fast.layers import faster_layers
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.walk import Walk
from eeasr_modules.runtime.onnx.export import export_model

KINDS = {
    "conformer-relative": (
        "wav2vec2-conformer",
        {"position_embeddings_type": "relative", "feat_extract_norm": "layer"},
    ),
    "conformer-rotary": ("wav2vec2-conformer", {"position_embeddings_type": "rotary", "feat_extract_norm": "group"}),
    "bert-key": ("wav2vec2-bert", {"position_embeddings_type": "relative_key"}),
    "bert-rotary": ("wav2vec2-bert", {"position_embeddings_type": "rotary"}),
}
SMALL = {"conv_depthwise_kernel_size": 5, "feature_projection_input_dim": 40, "vocab_size": 7, "pad_token_id": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny `...ForCTC` checkpoints on disk, by name."""
    made = {}
    for name, (kind, shape) in KINDS.items():
        torch.manual_seed(1)
        made[name] = str(tmp_path_factory.mktemp(name))
        model = strong(AutoModelForCTC.from_config(config_of(kind, {**SMALL, **shape})), 1.5)
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)):
            norm.running_mean.uniform_(-0.5, 0.5), norm.running_var.uniform_(0.5, 2.0)
        model.save_pretrained(made[name])
    return made


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_every_layer_is_transformers_own_alone(folders, batch, name, attention):
    encoder = encoder_from(folders[name], attention=attention, normalise_wavs=False)
    stock = AutoModel.from_pretrained(folders[name], attn_implementation=attention).eval()
    wav, n_samples = batch[0][1:2], batch[1][1:2]
    inputs = wav
    if name.startswith("bert"):
        inputs = encoder.features(wav, n_samples)
    theirs = stock(inputs, output_hidden_states=True)
    ours, _ = walked(encoder, wav, n_samples)
    for layer in range(1, encoder.n_layers):
        torch.testing.assert_close(ours[layer - 1], theirs.hidden_states[layer], atol=1e-5, rtol=1e-5)
        forward = stock_forward(encoder, layer)(wav, n_samples)[0]
        torch.testing.assert_close(ours[layer - 1], forward, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours[-1], theirs.last_hidden_state)


@pytest.mark.parametrize("name", ["bert-key"])
@torch.no_grad()
def test_log_mels_are_those_of_their_feature_extractor(folders, batch, name):
    encoder, extractor = encoder_from(folders[name]), SeamlessM4TFeatureExtractor(feature_size=20, num_mel_bins=20)
    for wav, n in zip(batch[0], batch[1].tolist(), strict=True):
        theirs = extractor(wav[:n].numpy(), sampling_rate=16000, return_tensors="pt")
        ours = encoder.features(wav[None], torch.tensor([n]))[0]
        assert len(ours) == encoder.frames_for(n) == int(theirs.attention_mask.sum())
        torch.testing.assert_close(ours, theirs.input_features[0, : len(ours)], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_alone_and_in_a_batch_from_which_others_leave(folders, batch, name, training):
    encoder = encoder_from(folders[name], dropout=0.0).train(training)
    wavs, n_samples = batch
    together, n_frames = walked(encoder, wavs, n_samples)
    alone = [walked(encoder, wavs[i : i + 1, :n], n_samples[i : i + 1])[0] for i, n in enumerate(n_samples.tolist())]
    for layer, view in enumerate(together):
        for i, n in enumerate(n_frames.tolist()):
            torch.testing.assert_close(view[i, :n], alone[i][layer][0], atol=1e-5, rtol=1e-5)
    walk = Walk(encoder, wavs, n_samples)
    walk.advance(1)
    walk.keep(torch.tensor([True, False, True, True]))  # the longest leaves
    for view, row in zip(walk.advance(4), (0, 2, 3), strict=True):
        torch.testing.assert_close(view[: n_frames[row]], alone[row][-1][0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_transformers_own_way_lets_padding_in(folders, batch):
    encoder = encoder_from(folders["conformer-relative"], padded_front_end=True)
    together, n_frames = walked(encoder, *batch)
    alone, _ = walked(encoder, batch[0][:1, :9000], batch[1][:1])
    assert (together[-1][0, : n_frames[0]] - alone[-1][0]).abs().max() > 1e-2
    with pytest.raises(
        ValueError, match=r"padded_front_end: true is for wav2vec 2\.0 and its kin, wav2vec2-bert has none"
    ):
        encoder_from(folders["bert-key"], padded_front_end=True)


@pytest.mark.parametrize("name", ["conformer-relative", "bert-key"])
@pytest.mark.parametrize("recompute", [False, True])
def test_it_trains_frozen_or_whole_and_is_saved(folders, batch, tmp_path, name, recompute):
    encoder = {"encoder": "huggingface", "source": folders[name], "gradient_checkpointing": recompute, "dropout": 0.0}
    config = {"exit_layers": [2, 4], "n_tokens": 7, "blank_index": 0, "checkpoint_head": True}
    model = MultiExit({"encoder": {**encoder, "freeze_feature_extractor": False}, **config}).train()
    sum(one.square().sum() for one in model(*batch)[0]).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    model.eval().save(tmp_path / "model")
    loaded = MultiExit.load(tmp_path / "model")
    with torch.no_grad():
        before = model(*batch)[0]
        assert all(torch.equal(*pair) for pair in zip(before, loaded(*batch)[0], strict=True))
    loaded.freeze_encoder()
    loaded.train()
    sum(one.square().sum() for one in loaded(*batch)[0]).backward()
    assert not any(p.grad is not None for p in loaded.encoder.parameters())
    assert all(p.grad is not None for p in loaded.heads.parameters())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("n_samples", [100, 16000])
@torch.no_grad()
def test_costs_are_what_torch_counts(folders, name, n_samples):
    encoder = encoder_from(folders[name], attention="eager")
    with FlopCounterMode(display=False) as counter:
        state = encoder.front_end(0.1 * torch.randn(1, n_samples), torch.tensor([n_samples]))
    assert encoder.front_end_macs(n_samples) == pytest.approx(counter.get_total_flops() / 2, rel=1e-3)
    with FlopCounterMode(display=False) as counter:
        encoder.run_layer(1, state)
    assert encoder.layer_macs(int(state.n_frames)) == pytest.approx(counter.get_total_flops() / 2, rel=1e-3)


def test_what_is_not_there_is_one_sentence(folders):
    model = encoder_from(folders["conformer-rotary"])
    with pytest.raises(ValueError, match="the faster layers are for"):
        faster_layers(model)
    with pytest.raises(ValueError, match="the faster front end is for"):
        faster_front_end(model)


@pytest.mark.parametrize("name", ["conformer-rotary", "bert-key"])
def test_export_is_refused_in_one_sentence(folders, tmp_path, name):
    pytest.importorskip("onnx")
    encoder = {"encoder": "huggingface", "source": folders[name]}
    MultiExit({"encoder": encoder, "exit_layers": [4], "n_tokens": 29, "blank_index": 0}).save(tmp_path / "model")
    CharVocabulary().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"stands on an encoder of kind wav2vec2-.*, which is not exported"):
        export_model(tmp_path / "model", tmp_path / "onnx")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stride": 1}, r"\(stride 1, not 2\)"),
        ({"num_mel_bins": 80}, r"\(num_mel_bins 80, not 20\)"),
        ({"sampling_rate": 8000}, r"\(sampling_rate 8000, not 16000\)"),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, r"\(a Wav2Vec2FeatureExtractor\)"),
    ],
)
def test_other_features_than_ours_are_one_sentence(folders, tmp_path, settings, said):
    folder = shutil.copytree(folders["bert-key"], tmp_path / "copy")
    SeamlessM4TFeatureExtractor(feature_size=20, num_mel_bins=20).save_pretrained(folder)
    encoder_from(str(folder))
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(ValueError, match=rf"the feature extractor of checkpoint '.*copy' makes features .* {said}"):
        encoder_from(str(folder))
