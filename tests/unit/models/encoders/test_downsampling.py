"""Shorter input, and fewer layers: the right number of frames, whatever else is in the batch."""

import pytest
import torch
from speechbrain.lobes.downsampling import SignalDownsampler
from torch.utils.flop_counter import FlopCounterMode

from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.encoders.front_end import FACTORS, KINDS, Downsampler
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.walk import Walk

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

TINY = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
TINY |= {"conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 16}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
ENCODERS = {
    "conformer": {},
    "wav2vec2": {"encoder": "huggingface", "hf_config": {"model_type": "wav2vec2", **TINY}},
    "wavlm-large": {"encoder": "huggingface", "hf_config": {"model_type": "wavlm", **TINY, **LARGE}},
}
ALL = [(kind, factor) for kind in KINDS for factor in FACTORS]


@pytest.fixture
def make(make_model):
    """A small model with a kind of encoder, in eval mode."""

    def make(name, **encoder):
        if name == "conformer":
            return make_model(encoder=encoder, exit_layers=[2, 4])
        torch.manual_seed(0)
        settings = {**ENCODERS[name], **encoder}
        return MultiExit({"encoder": settings, "exit_layers": [2, 4], "n_tokens": 7, "blank_index": 0}).eval()

    return make


class TestDownsampler:
    @pytest.mark.parametrize(("kind", "factor"), ALL)
    def test_a_tone_that_the_lower_rate_can_hold_comes_through_shorter(self, kind, factor):
        time_s = torch.arange(16000) / 16000
        shorter, n_steps = Downsampler(kind, factor)(
            torch.sin(2 * torch.pi * 200 * time_s)[None], torch.tensor([16000])
        )
        assert abs(int(n_steps) - 16000 / factor) <= 81 / factor
        spectrum = torch.fft.rfft(shorter[0].detach()).abs()
        frequency = float(spectrum.argmax()) * 16000 / factor / len(shorter[0])
        assert frequency == pytest.approx(200, abs=2) and shorter.abs().max() > 0.6

    @pytest.mark.parametrize("kind", ["convolution", "signal"])
    def test_a_tone_that_the_lower_rate_cannot_hold_does_not(self, kind):
        time_s = torch.arange(16000) / 16000
        shorter, _ = Downsampler(kind, 3)(torch.sin(2 * torch.pi * 5000 * time_s)[None], torch.tensor([16000]))
        assert shorter[0, 100:-100].abs().max() < 0.05

    @pytest.mark.parametrize(("kind", "factor"), ALL)
    @pytest.mark.parametrize("shape", [(4, 500), (4, 500, 3)])
    def test_padding_never_matters_and_stays_zero(self, kind, factor, shape):
        n_steps = torch.tensor([500, 101, 5, 1])
        valid = torch.arange(500) < n_steps.unsqueeze(1)
        x = torch.randn(shape) * (valid if len(shape) == 2 else valid.unsqueeze(-1))
        downsampler = Downsampler(kind, factor)
        shorter, lengths = downsampler(x, n_steps)
        assert lengths.tolist() == [downsampler.length_of(n) for n in n_steps.tolist()] and lengths.min() == 1
        assert shorter.shape == (4, lengths.max(), *shape[2:])
        for row, n, length in zip(range(4), n_steps, lengths):
            alone, _ = downsampler(x[row : row + 1, :n], n[None])
            torch.testing.assert_close(shorter[row, :length], alone[0])
            assert not shorter[row, length:].any()

    def test_channels_are_treated_alike(self):
        x, n_steps = torch.randn(1, 60, 2), torch.tensor([60])
        downsampler = Downsampler("convolution", 2, window=5)
        both, _ = downsampler(x, n_steps)
        torch.testing.assert_close(both[..., 1], downsampler(x[..., 1], n_steps)[0])

    def test_resampling_is_speechbrains(self):
        wav = torch.randn(1, 8000)
        shorter, _ = Downsampler("signal", 2)(wav, torch.tensor([8000]))
        torch.testing.assert_close(shorter, SignalDownsampler(2, 16000)(wav))

    def test_unknown_kinds_and_factors_are_refused(self):
        with pytest.raises(ValueError, match="must be null or one of convolution, average, signal, got 'max'"):
            Downsampler("max", 2)
        with pytest.raises(ValueError, match="downsample_factor must be one of 2, 3, got 4"):
            Downsampler("average", 4)


class TestEncoders:
    @pytest.mark.parametrize("name", ENCODERS)
    @pytest.mark.parametrize(("kind", "factor"), ALL)
    def test_an_utterance_gets_the_same_alone_and_in_a_batch_in_fewer_frames(self, make, batch, name, kind, factor):
        model, (wavs, n_samples) = make(name, downsample=kind, downsample_factor=factor), batch
        with torch.no_grad():
            log_probs, n_frames = model(wavs, n_samples)
            full = make(name).encoder.frames_for(n_samples)
            assert n_frames.tolist() == model.encoder.frames_for(n_samples).tolist()
            assert ((n_frames - full / factor).abs() <= 2).all()
            for row, (n, length) in enumerate(zip(n_samples, n_frames, strict=True)):
                alone, one = model(wavs[row : row + 1, :n], n[None])
                assert int(one) == length == model.encoder.frames_for(int(n))
                torch.testing.assert_close(log_probs[-1][row, :length], alone[-1][0], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("name", ENCODERS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_recording_of_a_few_samples_has_a_frame(self, make, name, kind):
        model = make(name, downsample=kind, downsample_factor=3)
        with torch.no_grad():
            log_probs, n_frames = model(0.1 * torch.randn(1, 50), torch.tensor([50]))
        assert n_frames.tolist() == [1] and torch.isfinite(log_probs[-1]).all()

    @pytest.mark.parametrize("name", ENCODERS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_model_folder_loads_again(self, make, batch, tmp_path, name, kind):
        model = make(name, downsample=kind, downsample_factor=3)
        if kind == "convolution":
            torch.nn.init.normal_(model.encoder.downsampler.sampler.downsampler.conv.weight, std=0.1)
        model.save(tmp_path)
        with torch.no_grad():
            expected, found = model(*batch)[0], MultiExit.load(tmp_path)(*batch)[0]
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))

    @pytest.mark.parametrize("name", ENCODERS)
    def test_a_learned_convolution_gets_gradients_through_a_frozen_front_end(self, make, batch, name):
        model = make(name, downsample="convolution").train()
        sum(one.square().mean() for one in model(*batch)[0]).backward()
        convolution = model.encoder.downsampler.sampler.downsampler.conv
        assert convolution.weight.grad.abs().max() > 0
        assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]  # as DDP demands

    @pytest.mark.parametrize("name", ENCODERS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_bf16_trains_and_says_nearly_the_same(self, make, batch, name, kind):
        model = make(name, downsample=kind)
        with torch.no_grad():
            full = model(*batch)[0]
            with torch.autocast("cpu", torch.bfloat16):
                half = model(*batch)[0]
        assert 0 < (half[-1] - full[-1]).abs().mean() < 0.1
        with torch.autocast("cpu", torch.bfloat16):
            outputs, _ = model.train()(*batch)
        sum(one.square().mean() for one in outputs).backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())

    @pytest.mark.parametrize("name", ["conformer", "wav2vec2"])
    @pytest.mark.parametrize("kind", [None, *KINDS])
    def test_macs_of_the_front_end_count_the_shorter_input(self, make, name, kind):
        encoder = make(name, downsample=kind, downsample_factor=3).encoder
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            state = encoder.front_end(0.1 * torch.randn(1, 40000), torch.tensor([40000]))
        counted = counter.get_total_flops() / 2
        if kind == "average":  # torch counts no additions of a pooling
            of_filterbanks, of_waveform = (251, 20), (40000, 1)
            n_steps, n_channels = of_filterbanks if name == "conformer" else of_waveform
            counted += encoder.downsampler.macs(n_steps, n_channels=n_channels)
        assert encoder.front_end_macs(40000) == pytest.approx(counted, rel=1e-6)
        assert int(state.n_frames) == encoder.frames_for(40000)

    def test_layers_of_a_model_with_shorter_input_cost_less(self, make):
        kinds = [{}, {"downsample": "average"}, {"downsample": "average", "downsample_factor": 3}]
        costs = [make("wav2vec2", **kind).macs(160000)[0][-1] for kind in kinds]
        assert costs[1] < 0.5 * costs[0] and costs[2] < 0.33 * costs[0]


class TestFewerLayers:
    @pytest.mark.parametrize("name", ["wav2vec2", "wavlm-large"])
    def test_the_first_layers_of_a_checkpoint_are_those_of_the_whole(self, batch, tmp_path, name):
        from transformers import AutoConfig, AutoModel

        settings = dict(ENCODERS[name]["hf_config"])
        torch.manual_seed(2)
        AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings)).save_pretrained(tmp_path)
        whole, first = (
            build_encoder({"encoder": "huggingface", "source": str(tmp_path), "keep_layers": kept}).eval()
            for kept in (None, 2)
        )
        assert first.n_layers == 2 == len(first.model.encoder.layers)
        with torch.no_grad():
            walks = [Walk(encoder, *batch) for encoder in (whole, first)]
            views = [walk.advance(2) for walk in walks]
        expected = whole.model.encoder.layer_norm(views[0]) if whole.stable else views[0]
        assert torch.equal(views[1], expected)

    def test_the_folder_of_a_cut_model_holds_the_layers_that_are_left(self, make, batch, tmp_path):
        encoder = {**ENCODERS["wav2vec2"], "keep_layers": 3}
        model = MultiExit({"encoder": encoder, "exit_layers": [1, 3], "n_tokens": 7, "blank_index": 0}).eval()
        model.save(tmp_path)
        again = MultiExit.load(tmp_path)
        assert again.encoder.n_layers == 3 and "keep_layers" not in again.config["encoder"]
        with torch.no_grad():
            assert torch.equal(model(*batch)[0][-1], again(*batch)[0][-1])

    def test_more_layers_than_there_are_are_refused(self):
        with pytest.raises(ValueError, match=r"keep_layers must lie between 1 and 4 \(the encoder's layers\), got 5"):
            build_encoder({**ENCODERS["wav2vec2"], "keep_layers": 5})
