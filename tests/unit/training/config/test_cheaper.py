"""Fewer layers and shorter input in a run: what is asked for together, what is taken over, what is said."""

import json
import logging

import pytest
import torch
from tiny_checkpoint import save_checkpoint

from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config.config import check, load_yaml, with_depth
from eeasr_modules.training.fit import build_model, check_run_folder, without_short
from eeasr_modules.training.pretrained import take_over
from recipes.Pretrain.masked_prediction import MaskedPredictor

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

DEEP = {"n_layers": 3, "exit_layers": [1, 2, 3]}


@pytest.fixture
def make(make_config, vocabulary):
    """A model of a tiny run's configuration with some keys changed, in eval mode."""

    def make(**changes):
        config = make_config(**changes)
        return build_model(config, n_tokens=len(vocabulary), blank_index=vocabulary.blank_index).eval()

    return make


def strong(model: MultiExit) -> MultiExit:
    """The model with weights, norms included, that no other has."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def start(make, tmp_path):
    """Folder of a model with three layers and an exit after each."""
    strong(make(**DEEP)).save(tmp_path / "start")
    return str(tmp_path / "start")


class TestKeepLayers:
    def test_the_model_begins_as_the_exit_that_it_ends_with(self, make, start):
        wavs, n_samples = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 16000])
        model = make(**{**DEEP, "exit_layers": [1, 2], "init_from": start, "keep_layers": 2})
        with torch.no_grad():
            expected, found = MultiExit.load(start)(wavs, n_samples)[0][:2], model(wavs, n_samples)[0]
        assert model.encoder.n_layers == 2 and len(model.encoder.conformer.layers) == 2
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one, other)

    def test_the_folder_of_what_is_left_loads_again(self, make, start, tmp_path):
        make(**{**DEEP, "exit_layers": [2], "init_from": start, "keep_layers": 2}).save(tmp_path)
        assert MultiExit.load(tmp_path).encoder.n_layers == 2

    @pytest.mark.parametrize("stable", [True, False])
    def test_layers_of_a_hugging_face_model_are_taken_off_too(self, tmp_path, stable):
        large = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"} if stable else {}
        save_checkpoint(tmp_path, kind="wav2vec2", **large)
        encoder = {"encoder": "huggingface", "source": str(tmp_path)}
        whole = MultiExit({"encoder": encoder, "exit_layers": [1, 2, 4], "n_tokens": 7, "blank_index": 0}).eval()
        encoder = {**whole.config["encoder"], "keep_layers": 2}
        model = MultiExit({"encoder": encoder, "exit_layers": [1, 2], "n_tokens": 7, "blank_index": 0}).eval()
        take_over(strong(whole), model, folder="start")
        with torch.no_grad():
            wav = 0.1 * torch.randn(1, 16000), torch.tensor([16000])
            expected, found = whole(*wav)[0], model(*wav)[0]
        torch.testing.assert_close(found[0], expected[0])
        assert torch.equal(model.heads[1].projection.weight, whole.heads[1].projection.weight)
        if stable:  # layers that normalise by themselves leave no place for the exit's norm
            torch.testing.assert_close(found[1], expected[1])

    def test_a_checkpoints_own_head_still_learns_on_the_layer_that_is_left(self, root, tmp_path):
        save_checkpoint(tmp_path, kind="wavlm", ctc=True)
        values = load_yaml(root / "hparams" / "librispeech.yaml", {"source": str(tmp_path), "freeze_encoder": True})
        values |= {"keep_layers": 3, "exit_layers": [3]}
        config = with_depth(check(values, recipes=root / "recipes"), n_layers=4, dim=24)
        model = build_model(config, n_tokens=32, blank_index=0, checkpoint_head=True)
        assert model.encoder.n_layers == 3 and model.heads[-1].projection.weight.requires_grad
        assert not any(parameter.requires_grad for parameter in model.encoder.parameters())

    def test_an_encoder_without_exits_gives_its_first_layers(self, make, make_config, tmp_path):
        settings = make_config(**DEEP).encoder_settings
        pretrained = MaskedPredictor(settings, targets="random", n_codebooks=1, codebook_size=8)
        pretrained.save(tmp_path, about={})
        model = make(**{**DEEP, "exit_layers": [2], "init_from": str(tmp_path), "keep_layers": 2})
        theirs, ours = pretrained.encoder.state_dict(), model.encoder.state_dict()
        assert len(ours) < len(theirs) and all(torch.equal(value, theirs[name]) for name, value in ours.items())

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"exit_layers": [1, 3], "keep_layers": 2}, r"end at 2 \(keep_layers, .*\), got \[1, 3\]"),
            ({"keep_layers": 4}, r"keep_layers must be at most 3 \(the encoder's layers\), got 4"),
            ({"exit_layers": [2], "keep_layers": 2, "n_epochs": 0}, "n_epochs: 0 only evaluates, but keep_layers, "),
        ],
    )
    def test_what_does_not_fit_is_refused(self, make_config, start, changes, sentence):
        with pytest.raises(ValueError, match=sentence):
            make_config(**{**DEEP, "init_from": start, **changes})

    def test_a_conformer_from_scratch_has_no_layers_to_leave_out(self, make_config):
        with pytest.raises(ValueError, match=r"needs init_from, .* from scratch give n_layers: 1"):
            make_config(keep_layers=1, exit_layers=[1])

    def test_exits_at_even_distances_end_with_the_last_that_is_left(self, make_config, start):
        config = make_config(**{**DEEP, "exit_layers": "every 1", "init_from": start, "keep_layers": 2})
        assert config.exit_layers == [1, 2] and config.n_layers == 2


class TestDownsampledRun:
    @pytest.mark.parametrize("kind", ["average", "convolution", "signal"])
    def test_it_starts_from_a_model_that_hears_everything(self, make, start, kind):
        model = make(**DEEP, init_from=start, downsample=kind, downsample_factor=3)
        theirs = MultiExit.load(start).encoder.state_dict()
        assert all(torch.equal(model.encoder.state_dict()[name], value) for name, value in theirs.items())
        if kind == "convolution":
            weight = model.encoder.downsampler.sampler.downsampler.conv.weight
            assert float(weight.detach().sum()) == pytest.approx(1.0)

    def test_a_start_that_hears_less_must_go_on_so(self, make, make_config, tmp_path):
        make(downsample="average", downsample_factor=3).save(tmp_path)
        start = {"init_from": str(tmp_path)}
        assert make(**start, downsample="average", downsample_factor=3).config["encoder"]["downsample_factor"] == 3
        with pytest.raises(ValueError, match="with downsample average, but the YAML has downsample None"):
            make_config(**start)
        with pytest.raises(ValueError, match="with downsample_factor 3, but the YAML has downsample_factor 2"):
            make_config(**start, downsample="average")
        assert make_config(**start, downsample="average", downsample_factor=3, n_epochs=0).n_epochs == 0

    def test_a_teacher_must_hear_the_same(self, make, make_config, start, tmp_path):
        with pytest.raises(ValueError, match=r"a teacher with downsample None, .*, this run has signal, 2 and False"):
            make_config(distill=start, downsample="signal")
        make(downsample="signal").save(tmp_path)
        assert make_config(distill=str(tmp_path), downsample="signal").distill == str(tmp_path)
        with pytest.raises(ValueError, match="with downsample signal, downsample_factor 2 and upsample False"):
            make_config(distill=str(tmp_path))
        with pytest.raises(ValueError, match="this run has signal, 2 and True: frames are compared"):
            make_config(distill=str(tmp_path), downsample="signal", upsample=True)

    def test_evaluation_alone_cannot_change_what_is_heard(self, make_config, start):
        with pytest.raises(ValueError, match="n_epochs: 0 only evaluates, but keep_layers, downsample or upsample"):
            make_config(**DEEP, init_from=start, n_epochs=0, downsample="signal")

    def test_a_run_folder_goes_on_with_the_same_input_only(self, make_config, tmp_path):
        check_run_folder(make_config(), tmp_path)
        with pytest.raises(ValueError, match="holds a run with downsample None, this one has signal"):
            check_run_folder(make_config(downsample="signal"), tmp_path)

    def test_a_run_folder_from_before_these_keys_goes_on(self, make_config, tmp_path):
        check_run_folder(make_config(), tmp_path)
        before = json.loads((tmp_path / "run.json").read_text())
        for name in ("keep_layers", "downsample", "downsample_factor", "upsample"):
            before.pop(name)
        (tmp_path / "run.json").write_text(json.dumps(before))
        check_run_folder(make_config(), tmp_path)

    @pytest.mark.parametrize("factor", [2, 3])
    def test_upsampled_heads_begin_with_what_they_said_before(self, make, start, factor):
        less = {**DEEP, "init_from": start, "downsample": "average", "downsample_factor": factor}
        plain, upsampled = make(**less), make(**less, upsample=True)
        wavs, n_samples = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000])
        with torch.no_grad():
            expected, found = plain(wavs, n_samples), upsampled(wavs, n_samples)
        assert found[1].tolist() == (factor * expected[1]).tolist() == upsampled.frames_for(n_samples).tolist()
        for one, other in zip(expected[0], found[0], strict=True):
            torch.testing.assert_close(other, one.repeat_interleave(factor, dim=1))
        assert upsampled.frame_s == pytest.approx(plain.frame_s / factor)

    def test_upsampled_heads_go_on_upsampled(self, make, make_config, tmp_path):
        less = {"downsample": "average", "upsample": True}
        strong(make(**less)).save(tmp_path)
        again = make(**less, init_from=str(tmp_path))
        weights = MultiExit.load(tmp_path).heads.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in again.heads.state_dict().items())
        with pytest.raises(ValueError, match="a model with upsample True, but the YAML has upsample False"):
            make_config(init_from=str(tmp_path), downsample="average")

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({}, "but downsample is null: leave one out"),
            ({"downsample": "signal", "attention_decoder": True}, "an attention decoder needs none"),
        ],
    )
    def test_upsampling_is_for_ctc_after_downsampling(self, make_config, changes, sentence):
        with pytest.raises(ValueError, match=sentence):
            make_config(upsample=True, **changes)

    def test_a_checkpoints_own_head_cannot_upsample(self, tmp_path):
        save_checkpoint(tmp_path, kind="wavlm", ctc=True)
        encoder = {"encoder": "huggingface", "source": str(tmp_path), "downsample": "signal"}
        config = {"encoder": encoder, "exit_layers": [4], "n_tokens": 32, "blank_index": 0, "checkpoint_head": True}
        with pytest.raises(ValueError, match="upsample: true needs a head of its own at every exit"):
            MultiExit({**config, "upsample": True})

    def test_a_model_with_an_attention_decoder_cannot_upsample(self, make):
        config = make(downsample="average").config
        shape = {"n_layers": 1, "dim": 16, "n_heads": 2, "ffn_dim": 16, "dropout": 0.0}
        with pytest.raises(ValueError, match="a decoder reads the encoder's own frames: leave one out"):
            MultiExit({**config, "upsample": True, "decoder": shape})

    def test_utterances_with_fewer_frames_than_tokens_are_counted_and_left_out(self, make, vocabulary, caplog):
        items = {
            "enough": {"duration": 1.0, "words": "YES"},
            "repeats": {"duration": 0.45, "words": "EEE"},  # five frames with the blanks between, there are four
            "long": {"duration": 1.0, "words": "NO NO NO NO NO NO NO"},
        }
        with caplog.at_level(logging.WARNING):
            for factor, expected in ((None, ["enough", "repeats", "long"]), (3, ["enough"])):
                changes = {} if factor is None else {"downsample": "signal", "downsample_factor": factor}
                frames_for = make(**changes).encoder.frames_for
                kept = without_short(items, encode=vocabulary.encode, frames_for=frames_for, sample_rate=16000)
                assert list(kept) == expected
        assert caplog.messages == [
            "2 of 3 training utterances (66.7 %) have fewer frames than CTC needs for their tokens "
            "(the first is repeats), left out: give tokens: bpe, a smaller downsample_factor, or downsample: null"
        ]
