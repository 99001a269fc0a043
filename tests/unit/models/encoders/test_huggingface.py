"""Encoders of transformers behind the walk: their own numbers, and the same for an utterance alone and in a batch."""

import json
import shutil

import pytest
import torch
from small_checkpoints import BASE, CHECKPOINTS, config_of, encoder_from, folders, walked
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    Wav2Vec2FeatureExtractor,
)

from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.encoders.front_end import normalised, shortest, span_mask
from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_config
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.walk import Walk

__all__ = ["folders"]
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

WITH_ATTENTION = [
    (name, attention)
    for name in CHECKPOINTS
    for attention in (("eager",) if name.startswith("wavlm") else ("eager", "sdpa"))
]
STILL = {"dropout": 0.0, "freeze_feature_extractor": False}  # nothing random in training


def valid_of(wavs, n_samples):
    return torch.arange(wavs.shape[1]) < n_samples.unsqueeze(1)


class TestTransformersOwnNumbers:
    @pytest.mark.parametrize(("name", "attention"), WITH_ATTENTION)
    def test_the_walk_gives_them_bit_for_bit(self, folders, batch, name, attention):
        ours = encoder_from(folders[name], attention=attention, padded_front_end=True, normalise_wavs=False)
        stock = AutoModel.from_pretrained(folders[name], attn_implementation=attention).eval()
        wavs, n_samples = batch
        with torch.no_grad():
            theirs = stock(wavs, attention_mask=valid_of(wavs, n_samples).long()).last_hidden_state
            alone = stock(wavs[1:2]).last_hidden_state
            views, n_frames = walked(ours, wavs, n_samples)
            assert torch.equal(walked(ours, wavs[1:2], n_samples[1:2])[0][-1], alone)
        for i, frames in enumerate(n_frames.tolist()):
            assert torch.equal(views[-1][i, :frames], theirs[i, :frames])

    @pytest.mark.parametrize("name", CHECKPOINTS)
    def test_by_default_an_utterance_gets_them_too_when_it_is_alone(self, folders, batch, name):
        ours, stock = encoder_from(folders[name]), AutoModel.from_pretrained(folders[name]).eval()
        wav, length = batch[0][2:3, :4321], batch[1][2:3]
        with torch.no_grad():
            assert torch.equal(walked(ours, wav, length)[0][-1], stock(normalised(wav, length)).last_hidden_state)

    @pytest.mark.parametrize("name", ["wav2vec2-base", "hubert-large", "wavlm-base", "wavlm-large", "data2vec-audio"])
    @pytest.mark.parametrize("recompute", [False, True])
    def test_training_gives_their_gradients(self, folders, batch, name, recompute):
        ours = encoder_from(
            folders[name], **STILL, padded_front_end=True, normalise_wavs=False, gradient_checkpointing=recompute
        ).train()
        stock = AutoModel.from_pretrained(folders[name], **{"mask_time_prob": 0.0, "layerdrop": 0.0})
        for module in stock.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        stock.train()
        wavs, n_samples = batch
        valid = torch.arange(49) < ours.frames_for(n_samples).unsqueeze(1)
        theirs = stock(wavs, attention_mask=valid_of(wavs, n_samples).long()).last_hidden_state
        (theirs * valid.unsqueeze(-1)).square().sum().backward()
        views, _ = walked(ours, wavs, n_samples)
        (views[-1] * valid.unsqueeze(-1)).square().sum().backward()
        gradients = {name: p.grad for name, p in stock.named_parameters() if name != "masked_spec_embed"}
        assert gradients.keys() == {name for name, _ in ours.model.named_parameters()}
        for parameter, value in ours.model.named_parameters():
            torch.testing.assert_close(value.grad, gradients[parameter], rtol=1e-4, atol=1e-5, msg=parameter)

    def test_what_an_inner_exit_of_a_large_model_sees_is_the_raw_layer(self, folders, batch):
        encoder = encoder_from(folders["wav2vec2-large"])
        with torch.no_grad():
            views, _ = walked(encoder, *batch)
        assert encoder.final_norm is encoder.model.encoder.layer_norm
        assert views[2][0, 0].std() > 1.5  # un-normalised
        assert encoder_from(folders["wav2vec2-base"]).final_norm is None

    def test_frame_counts_are_theirs(self, folders):
        encoder = encoder_from(folders["hubert-base"])
        lengths = torch.arange(400, 3000, 37)
        assert torch.equal(encoder.frames_for(lengths), encoder.model._get_feat_extract_output_lengths(lengths))
        assert encoder.frames_for(16000) == 49 and shortest(encoder.model.config) == 400

    def test_waveforms_are_normalised_as_their_feature_extractor_does(self, batch):
        wavs, n_samples = 0.1 + 0.01 * batch[0], batch[1]
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
        ours = normalised(wavs * valid_of(wavs, n_samples), n_samples)
        for i, n in enumerate(n_samples.tolist()):
            theirs = extractor(wavs[i, :n].numpy(), sampling_rate=16000, return_tensors="pt").input_values[0]
            torch.testing.assert_close(ours[i, :n], theirs, atol=1e-4, rtol=0)
            assert not ours[i, n:].any()


class TestBatchAndAlone:
    @pytest.mark.parametrize("name", CHECKPOINTS)
    @pytest.mark.parametrize("training", [False, True])
    def test_an_utterance_gets_the_same_at_every_layer(self, folders, batch, name, training):
        encoder = encoder_from(folders[name], **STILL).train(training)
        wavs, n_samples = batch
        with torch.no_grad():
            together, n_frames = walked(encoder, wavs, n_samples)
            for i, samples in enumerate(n_samples.tolist()):
                alone, _ = walked(encoder, wavs[i : i + 1, :samples], n_samples[i : i + 1])
                for many, one in zip(together, alone, strict=True):
                    assert one.shape[1] == n_frames[i]
                    torch.testing.assert_close(many[i, : n_frames[i]], one[0], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("name", ["wav2vec2-base", "hubert-base", "wavlm-base", "data2vec-audio"])
    def test_the_padded_front_end_of_these_checkpoints_does_not_give_that(self, folders, batch, name):
        encoder = encoder_from(folders[name], padded_front_end=True)
        with torch.no_grad():
            together, n_frames = walked(encoder, *batch)
            alone, _ = walked(encoder, batch[0][:1, :9000], batch[1][:1])
        assert (together[-1][0, : n_frames[0]] - alone[-1][0]).abs().max() > 1e-2

    @pytest.mark.parametrize(("name", "attention"), WITH_ATTENTION)
    def test_who_stays_gets_the_same_when_others_leave(self, folders, batch, name, attention):
        encoder = encoder_from(folders[name], attention=attention)
        with torch.no_grad():
            everybody, n_frames = walked(encoder, *batch)
            walk = Walk(encoder, *batch)
            for layer, going_on in ((1, [0, 2, 3]), (2, [0, 2, 3]), (3, [2])):  # the longest leaves first
                walk.advance(layer)
                walk.keep(torch.tensor([row in going_on for row in walk.rows.tolist()]))
                assert walk.rows.tolist() == going_on and walk.state.hidden.shape[1] == walk.n_frames.max()
                view = walk.advance(layer + 1)
                for position, row in enumerate(going_on):
                    expected = everybody[layer][row, : n_frames[row]]
                    torch.testing.assert_close(view[position, : n_frames[row]], expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("name", ["wav2vec2-base", "hubert-large", "wavlm-base", "data2vec-audio"])
    def test_an_utterance_shorter_than_a_frame_is_one_frame(self, folders, batch, name):
        encoder = encoder_from(folders[name])
        lengths = torch.tensor([16000, 399, 1, 400])
        wavs = batch[0][1] * (torch.arange(16000) < lengths.unsqueeze(1))
        with torch.no_grad():
            together, n_frames = walked(encoder, wavs, lengths)
            alone, _ = walked(encoder, wavs[1:2, :399], lengths[1:2])
        assert n_frames.tolist() == [49, 1, 1, 1]
        assert all(torch.isfinite(view).all() for view in together)
        torch.testing.assert_close(together[-1][1, :1], alone[-1][0], atol=1e-5, rtol=1e-5)


class TestTraining:
    def test_the_checkpoints_layerdrop_and_spec_augment_are_off_unless_asked_for(self, folders, batch):
        encoder = encoder_from(folders["wav2vec2-base"], dropout=0.0).train()
        with torch.no_grad():
            once, again = walked(encoder, *batch)[0][-1], walked(encoder, *batch)[0][-1]
        assert torch.equal(once, again)

    def test_layerdrop_skips_layers_but_never_the_first(self, folders, batch):
        encoder = encoder_from(folders["wavlm-base"], dropout=0.0, layerdrop=1.0).train()
        with torch.no_grad():
            views, _ = walked(encoder, *batch)
            in_use, _ = walked(encoder.eval(), *batch)
        assert all(torch.equal(view, views[0]) for view in views[1:])
        assert not torch.equal(in_use[0], in_use[1])

    def test_spec_augment_depends_on_torchs_seed_and_is_off_in_use(self, folders, batch):
        settings = {"mask_time_prob": 0.4, "mask_time_length": 3, "mask_feature_prob": 0.3, "mask_feature_length": 2}
        encoder = encoder_from(folders["hubert-base"], dropout=0.0, **settings).train()
        plain = encoder_from(folders["hubert-base"], dropout=0.0)
        seen = []
        with torch.no_grad():
            for seed in (1, 1, 2):
                torch.manual_seed(seed)
                seen.append(walked(encoder, *batch)[0][-1])
            assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
            assert torch.equal(walked(encoder.eval(), *batch)[0][-1], walked(plain, *batch)[0][-1])

    def test_masked_spans_lie_inside_and_hide_the_share_asked_for(self):
        torch.manual_seed(0)
        masks = [span_mask([100, 40, 4], 100, share=0.3, span=5) for _ in range(200)]
        assert not any(mask[1, 40:].any() or mask[2].any() for mask in masks)
        hidden = torch.stack(masks).float().mean(dim=(0, 2)) * torch.tensor([1.0, 2.5, 1.0])
        assert 0.2 < hidden[0] <= 0.3 and 0.2 < hidden[1] <= 0.31

    @pytest.mark.parametrize("name", CHECKPOINTS)
    @pytest.mark.parametrize("settings", [{}, {"freeze_feature_extractor": False, "mask_time_prob": 0.01}])
    def test_every_weight_that_trains_gets_a_gradient_as_ddp_demands(self, folders, batch, name, settings):
        encoder = {"encoder": "huggingface", "source": folders[name], **settings}
        model = MultiExit({"encoder": encoder, "exit_layers": [2, 4], "n_tokens": 7, "blank_index": 0}).train()
        sum(one.square().sum() for one in model(*batch)[0]).backward()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        convolutions = model.encoder.model.feature_extractor.parameters()
        assert {p.requires_grad for p in convolutions} == {bool(settings)}

    @pytest.mark.parametrize("name", CHECKPOINTS)
    def test_bf16_trains_and_says_nearly_the_same(self, folders, batch, name):
        encoder = {"encoder": "huggingface", "source": folders[name], **STILL, "mask_time_prob": 0.2}
        model = MultiExit({"encoder": encoder, "exit_layers": [2, 4], "n_tokens": 7, "blank_index": 0}).eval()
        with torch.no_grad():
            full = model(*batch)[0]
            with torch.autocast("cpu", torch.bfloat16):
                half = model(*batch)[0]
        assert 0 < (half[0] - full[0]).abs().mean() < 0.1
        with torch.autocast("cpu", torch.bfloat16):
            outputs, _ = model.train()(*batch)
        sum(one.square().mean() for one in outputs).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())

    def test_a_frozen_encoder_stores_nothing_and_stays_in_eval_mode(self, folders, batch):
        encoder = {"encoder": "huggingface", "source": folders["hubert-large"], "layerdrop": 0.5, "mask_time_prob": 0.5}
        model = MultiExit({"encoder": encoder, "exit_layers": [2, 4], "n_tokens": 7, "blank_index": 0})
        model.freeze_encoder()
        model.train()
        outputs = list(model.exits(*batch))
        assert not any(module.training for module in model.encoder.modules())
        assert not any(one.hidden.requires_grad for one in outputs)
        sum(one.log_probs.square().sum() for one in outputs).backward()
        assert not any(p.requires_grad or p.grad is not None for p in model.encoder.parameters())
        assert all(p.grad is not None for p in model.heads.parameters())


class TestModelFolder:
    @pytest.mark.parametrize("name", ["wav2vec2-base", "hubert-large", "wavlm-large", "data2vec-audio"])
    @pytest.mark.parametrize("head", ["linear", "attention"])
    def test_it_is_enough_without_the_checkpoint(self, folders, batch, tmp_path, name, head):
        shutil.copytree(folders[name], tmp_path / "checkpoint")
        encoder = {"encoder": "huggingface", "source": str(tmp_path / "checkpoint"), "mask_time_prob": 0.1}
        config = {"encoder": encoder, "exit_layers": [1, 4], "n_tokens": 7, "blank_index": 0, "head": head}
        model = MultiExit({**config, "head_dropout": None}).eval()
        shutil.rmtree(tmp_path / "checkpoint")
        model.save(tmp_path / "model")
        loaded = MultiExit.load(tmp_path / "model")
        assert loaded.config == model.config and loaded.config["head_dropout"] == 0.1
        with torch.no_grad():
            for ours, theirs in zip(model(*batch)[0], loaded(*batch)[0], strict=True):
                assert torch.equal(ours, theirs)
        assert torch.equal(model.encoder.mask_embedding, loaded.encoder.mask_embedding)


class TestBadInput:
    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match=r"no checkpoint '.*nothing': expected a local folder with a config\.json"):
            encoder_from(str(tmp_path / "nothing"))

    def test_a_model_folder_in_place_of_a_checkpoint(self, root):
        with pytest.raises(ValueError, match=r"'.*base' is a model folder with exits, .* give it as init_from"):
            checkpoint_config(str(root / "eeasr_modules" / "shipped" / "base"))

    def test_a_model_that_is_no_speech_encoder(self, tmp_path):
        shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        BertModel(BertConfig(**shape, vocab_size=10)).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="is a 'bert' model; expected a speech encoder: wav2vec2, hubert, wavlm"):
            checkpoint_config(str(tmp_path))

    @pytest.mark.parametrize("kind", ["sew", "sew-d"])
    def test_a_model_whose_head_reads_more_frames_than_its_layers(self, tmp_path, kind):
        AutoConfig.for_model(kind).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"a '{kind}' model: its layers run at fewer frames than its head"):
            encoder_from(str(tmp_path))

    def test_an_adapter_that_shortens_the_output(self, tmp_path):
        config_of("wav2vec2", {**BASE, "add_adapter": True}).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="has an adapter that shortens its output"):
            encoder_from(str(tmp_path))

    def test_settings_without_weights(self, tmp_path):
        config_of("wav2vec2", BASE).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"the weights of checkpoint '.*' cannot be read"):
            encoder_from(str(tmp_path))

    def test_weights_of_a_shallower_model(self, folders, tmp_path):
        shutil.copytree(folders["hubert-base"], tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
        with pytest.raises(ValueError, match=r"lacks weights of the model it names, the first is encoder\.layers\.4"):
            encoder_from(str(tmp_path))

    def test_attention_that_the_model_has_not(self, folders):
        with pytest.raises(ValueError, match="a wavlm encoder has attention eager, got 'sdpa'"):
            encoder_from(folders["wavlm-base"], attention="sdpa")
        with pytest.raises(ValueError, match="a hubert encoder has attention eager or sdpa, got 'flash'"):
            encoder_from(folders["hubert-base"], attention="flash")

    def test_another_sample_rate(self, folders):
        with pytest.raises(ValueError, match="was trained at 16000 Hz, sample_rate is 8000"):
            encoder_from(folders["hubert-base"], sample_rate=8000)

    def test_no_source_and_an_unknown_setting(self):
        with pytest.raises(ValueError, match="needs source, a hub id or a local folder, got null"):
            encoder_from(None)
        with pytest.raises(ValueError, match="encoder 'huggingface' has no setting n_mels; it takes"):
            build_encoder({"encoder": "huggingface", "n_mels": 80})

    @pytest.mark.parametrize("name", ["wav2vec2-large", "wavlm-base"])
    def test_a_model_that_the_walk_does_not_follow_is_refused(self, folders, name):
        encoder = encoder_from(folders[name])
        encoder.stable = not encoder.stable  # as if transformers had moved the last norm
        if name == "wavlm-base":  # or something that the walk calls were gone
            del encoder.model.encoder.layers[0].attention.rel_attn_embed
        with pytest.raises(RuntimeError, match=r"of transformers \d+\.\d+.* is not the one that the walk was written"):
            encoder.self_test()
        assert not encoder.training and not encoder.padded_front_end and encoder.normalise_wavs


class TestMacs:
    @pytest.mark.parametrize("name", CHECKPOINTS)
    @pytest.mark.parametrize("n_samples", [100, 16000, 40000])
    def test_formulas_agree_with_what_torch_counts(self, folders, name, n_samples):
        encoder = encoder_from(folders[name], attention="eager")
        wav, length = 0.1 * torch.randn(1, n_samples), torch.tensor([n_samples])
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            state = encoder.front_end(wav, length)
        assert encoder.front_end_macs(n_samples) == counter.get_total_flops() / 2
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encoder.run_layer(1, state)
        counted, frames = counter.get_total_flops() / 2, int(state.n_frames)
        if counted < encoder.layer_macs(frames) - frames**2 * encoder.dim:
            counted += 2 * frames**2 * encoder.dim  # torch does not count its attention kernel on CPU
        assert encoder.layer_macs(frames) == pytest.approx(counted, rel=1e-3)
