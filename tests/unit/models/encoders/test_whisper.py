"""Whisper's and Moonshine's encoders behind the walk: stock's own numbers at true length, alone and in a batch."""

import numpy as np
import pytest
import torch
from small_checkpoints import encoder_from, strong, walked
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from eeasr_modules.models.encoders.huggingface_checkpoint import shape_of
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.walk import Walk

KINDS = ("whisper", "moonshine")
SMALL = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
WHISPER = {"d_model": 24, "encoder_layers": 4, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_layers": 1}
WHISPER |= {"decoder_attention_heads": 2, "decoder_ffn_dim": 48, "max_source_positions": 60, "num_mel_bins": 80}
MOONSHINE = {"hidden_size": 24, "intermediate_size": 48, "encoder_num_hidden_layers": 4, "decoder_num_hidden_layers": 1}
MOONSHINE |= {"encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2}


def stock_model(kind):
    torch.manual_seed(1)
    if kind == "whisper":
        return strong(WhisperForConditionalGeneration(WhisperConfig(**WHISPER, **SMALL))).eval()
    return strong(MoonshineForConditionalGeneration(MoonshineConfig(**MOONSHINE, **SMALL))).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints with their decoders, and encoders saved alone, as transformers saves them."""
    made = {}
    for kind in KINDS:
        made[kind], made[f"{kind} alone"] = (str(tmp_path_factory.mktemp(kind)) for _ in range(2))
        model = stock_model(kind)
        model.save_pretrained(made[kind])
        model.model.encoder.save_pretrained(made[f"{kind} alone"])
    return made


class TestTransformersOwnNumbers:
    @pytest.mark.parametrize("name", ["moonshine", "moonshine alone"])
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_moonshine_alone_gives_them_bit_for_bit(self, folders, batch, name, attention):
        stock = MoonshineForConditionalGeneration.from_pretrained(folders["moonshine"], attn_implementation=attention)
        ours = encoder_from(folders[name], attention=attention)
        for wav, n in zip(*batch, strict=True):
            with torch.no_grad():
                theirs = stock.eval().model.encoder(wav[None, :n]).last_hidden_state
                views, n_frames = walked(ours, wav[None, :n], n[None])
            assert torch.equal(views[-1], theirs) and n_frames.tolist() == [theirs.shape[1]]

    @pytest.mark.parametrize("name", ["whisper", "whisper alone"])
    def test_whisper_gives_those_of_a_recording_that_fills_all_positions(self, folders, name):
        wav = 0.3 * torch.randn(60 * 320, generator=torch.Generator().manual_seed(3))
        features = WhisperFeatureExtractor(chunk_length=1.2)(wav.numpy(), sampling_rate=16000, return_tensors="pt")
        stock = WhisperModel.from_pretrained(folders["whisper"]).eval().encoder
        with torch.no_grad():
            theirs = stock(features.input_features).last_hidden_state
            views, _ = walked(encoder_from(folders[name]), wav[None], torch.tensor([len(wav)]))
        torch.testing.assert_close(views[-1], theirs, atol=1e-5, rtol=1e-5)

    def test_whisper_features_are_those_of_its_extractor(self, folders):
        wav = 0.3 * torch.randn(9600, generator=torch.Generator().manual_seed(3))
        theirs = WhisperFeatureExtractor()._np_extract_fbank_features(wav.numpy()[None], "cpu")[0]
        ours = encoder_from(folders["whisper"]).log_mels(wav[None], torch.tensor([9600]), [30])[0]
        assert np.abs(ours.numpy() - theirs).max() < 1e-4

    @pytest.mark.parametrize("kind", KINDS)
    def test_shorter_ones_are_stock_layers_over_the_positions_they_fill(self, folders, batch, kind):
        encoder = encoder_from(folders[kind])
        with torch.no_grad():
            assert encoder.difference_from_stock(batch[0][1:2], batch[1][1:2]) == 0.0
            assert encoder.difference_from_stock(*batch) < 1e-5

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_walk_that_differs_is_refused(self, folders, kind, monkeypatch):
        encoder = encoder_from(folders[kind])
        monkeypatch.setattr(encoder, "exit_view", lambda layer, hidden: hidden)  # as if the last norm had moved
        with pytest.raises(RuntimeError, match=rf"the {kind} of transformers \d+\.\d+.* is not the one that the walk"):
            encoder.self_test()


class TestBatchAndAlone:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("training", [False, True])
    def test_an_utterance_gets_the_same_at_every_layer(self, folders, batch, kind, training):
        encoder = encoder_from(folders[kind], dropout=0.0).train(training)
        wavs, n_samples = batch
        with torch.no_grad():
            together, n_frames = walked(encoder, wavs, n_samples)
            assert torch.equal(n_frames, encoder.frames_for(n_samples))
            for i, samples in enumerate(n_samples.tolist()):
                alone, _ = walked(encoder, wavs[i : i + 1, :samples], n_samples[i : i + 1])
                for many, one in zip(together, alone, strict=True):
                    assert one.shape[1] == n_frames[i]
                    torch.testing.assert_close(many[i, : n_frames[i]], one[0], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_who_stays_gets_the_same_when_others_leave(self, folders, batch, kind):
        encoder = encoder_from(folders[kind])
        with torch.no_grad():
            everybody, n_frames = walked(encoder, *batch)
            walk = Walk(encoder, *batch)
            for layer, going_on in ((1, [0, 2, 3]), (2, [0, 2, 3]), (3, [2])):  # the longest leaves first
                walk.advance(layer)
                walk.keep(torch.tensor([row in going_on for row in walk.rows.tolist()]))
                view = walk.advance(layer + 1)
                for position, row in enumerate(going_on):
                    expected = everybody[layer][row, : n_frames[row]]
                    torch.testing.assert_close(view[position, : n_frames[row]], expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_utterance_shorter_than_a_frame_is_one_frame(self, folders, batch, kind):
        encoder = encoder_from(folders[kind])
        lengths = torch.tensor([16000, 150, 1])
        wavs = batch[0][1] * (torch.arange(16000) < lengths.unsqueeze(1))
        with torch.no_grad():
            together, n_frames = walked(encoder, wavs, lengths)
            alone, _ = walked(encoder, wavs[1:2, :150], lengths[1:2])
        assert n_frames.tolist()[1:] == [1, 1] and torch.isfinite(together[-1]).all()
        torch.testing.assert_close(together[-1][1, :1], alone[-1][0], atol=1e-5, rtol=1e-5)


class TestTraining:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("settings", [{}, {"freeze_feature_extractor": False, "mask_time_prob": 0.01}])
    def test_every_weight_that_trains_gets_a_gradient_as_ddp_demands(self, folders, batch, kind, settings):
        encoder = {"encoder": "huggingface", "source": folders[kind], **settings}
        model = MultiExit({"encoder": encoder, "exit_layers": [2, 4], "n_tokens": 7, "blank_index": 0}).train()
        sum(one.square().sum() for one in model(*batch)[0]).backward()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert model.encoder.model.encoder.conv2.weight.requires_grad == bool(settings)

    @pytest.mark.parametrize("kind", KINDS)
    def test_spec_augment_is_on_in_training_only(self, folders, batch, kind):
        encoder = encoder_from(folders[kind], dropout=0.0, mask_time_prob=0.4, mask_time_length=3)
        plain = encoder_from(folders[kind], dropout=0.0)
        with torch.no_grad():
            assert torch.equal(walked(encoder, *batch)[0][-1], walked(plain, *batch)[0][-1])
            assert not torch.equal(walked(encoder.train(), *batch)[0][-1], walked(plain, *batch)[0][-1])

    @pytest.mark.parametrize("kind", KINDS)
    def test_inner_heads_start_from_the_encoders_last_norm(self, folders, kind):
        encoder = {"encoder": "huggingface", "source": folders[kind]}
        model = MultiExit({"encoder": encoder, "exit_layers": [2, 4], "n_tokens": 7, "blank_index": 0})
        assert torch.equal(model.heads[0].norm.weight, model.encoder.model.encoder.layer_norm.weight)
        assert isinstance(model.heads[1].norm, torch.nn.Identity)


class TestModelFolder:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("keep_layers", [None, 3])
    def test_it_is_enough_without_the_checkpoint(self, folders, batch, tmp_path, kind, keep_layers):
        encoder = {"encoder": "huggingface", "source": folders[f"{kind} alone"], "keep_layers": keep_layers}
        depth = keep_layers or 4
        config = {"encoder": encoder, "exit_layers": [1, depth], "n_tokens": 7, "blank_index": 0, "head": "mlp"}
        model = MultiExit(config).eval()
        model.save(tmp_path)
        loaded = MultiExit.load(tmp_path)
        assert loaded.encoder.n_layers == depth == shape_of(loaded.config["encoder"]["hf_config"])["n_layers"]
        with torch.no_grad():
            for ours, theirs in zip(model(*batch)[0], loaded(*batch)[0], strict=True):
                assert torch.equal(ours, theirs)


class TestBadInput:
    def test_more_than_a_whisper_has_positions_for(self, folders):
        with pytest.raises(ValueError, match=r"a Whisper encoder hears 1 s at most, got 1\.2 s: cut long recordings"):
            encoder_from(folders["whisper"]).front_end(torch.zeros(1, 19201), torch.tensor([19201]))

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_padded_front_end(self, folders, kind):
        with pytest.raises(ValueError, match="padded_front_end: true is for wav2vec 2"):
            encoder_from(folders[kind], padded_front_end=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_samples", [100, 12000, 16000])
def test_formulas_of_macs_agree_with_what_torch_counts(folders, kind, n_samples):
    encoder = encoder_from(folders[kind], attention="eager")
    wav, length = 0.1 * torch.randn(1, n_samples), torch.tensor([n_samples])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        state = encoder.front_end(wav, length)
    assert encoder.front_end_macs(n_samples) == counter.get_total_flops() / 2
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.run_layer(1, state)
    assert encoder.layer_macs(int(state.n_frames)) == pytest.approx(counter.get_total_flops() / 2, rel=1e-3)
