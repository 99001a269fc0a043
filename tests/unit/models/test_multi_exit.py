"""Walk and heads in one module: freezing, its folder on disk, its cost."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from eeasr_modules.models.multi_exit import MultiExit, check_exit_layers


def log_probs(model, batch):
    with torch.no_grad():
        return model(*batch)[0]


@pytest.mark.parametrize(
    "layers", [[3, 9, 6], [1, 1, 4], [0, 4], [], [1, 2], [1, 5], [1, 4.0], [True, 4], "14", 4, None]
)
def test_exits_must_rise_and_end_at_the_last_layer(layers):
    with pytest.raises(ValueError, match=r"exit_layers must rise and end at 4 \(the encoder's last layer\), got"):
        check_exit_layers(layers, 4)


def test_forward_gives_what_the_exits_give_one_by_one(model, batch):
    together, n_frames = model(*batch)
    for whole, one in zip(together, model.exits(*batch), strict=True):
        assert torch.equal(whole, one.log_probs) and torch.equal(n_frames, one.n_frames)


def test_an_exit_is_computed_only_when_it_is_asked_for(model, batch):
    run = []
    hooks = [
        layer.register_forward_hook(lambda *_, number=number: run.append(number))
        for number, layer in enumerate(model.encoder.conformer.layers, start=1)
    ]
    with torch.no_grad():
        exits = model.exits(*batch)
        next(exits), next(exits)
    for hook in hooks:
        hook.remove()
    assert run == [1, 2]


class TestFrozenEncoder:
    @pytest.fixture
    def frozen(self, make_model):
        model = make_model(encoder={"dropout": 0.5, "time_masks": 2})
        model.freeze_encoder()
        return model

    def test_it_stays_in_eval_mode_and_heads_train(self, frozen):
        frozen.train()
        assert not any(module.training for module in frozen.encoder.modules())
        assert all(module.training for module in frozen.heads.modules())
        assert not any(module.training for module in frozen.eval().modules())

    def test_it_is_as_repeatable_in_training_as_in_use(self, frozen, batch):
        hidden = [one.hidden for one in frozen.eval().exits(*batch)]
        for before, after in zip(hidden, frozen.train().exits(*batch), strict=True):
            assert torch.equal(before, after.hidden)

    def test_no_graph_is_stored_for_it_and_heads_get_gradients(self, frozen, batch):
        frozen.train()
        outputs = list(frozen.exits(*batch))
        assert not any(one.hidden.requires_grad for one in outputs)
        sum(one.log_probs[..., 1].sum() for one in outputs).backward()
        assert all(p.grad is None and not p.requires_grad for p in frozen.encoder.parameters())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in frozen.heads.parameters())

    def test_an_encoder_that_is_not_frozen_trains(self, make_model, batch):
        model = make_model().train()
        assert model.encoder.training
        sum(one[..., 1].sum() for one in model(*batch)[0]).backward()
        assert all(p.grad is not None for p in model.parameters())


class TestModelFolder:
    @pytest.mark.parametrize("shared", [False, True])
    def test_what_is_loaded_says_exactly_what_was_saved(self, make_model, batch, tmp_path, shared):
        model = make_model(seed=1, share_projection=shared, corpus="AN4")
        model.save(tmp_path)
        loaded = MultiExit.load(tmp_path)
        assert loaded.config == model.config and not loaded.training
        for before, after in zip(log_probs(model, batch), log_probs(loaded, batch), strict=True):
            assert torch.equal(before, after)
        assert len({id(head.projection) for head in loaded.heads}) == (1 if shared else 3)

    def test_half_precision_halves_the_file_and_hardly_changes_what_is_said(self, make_model, batch, tmp_path):
        model = make_model()
        model.save(tmp_path / "full")
        model.save(tmp_path / "half", half=True)
        sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
        assert sizes[1] < 0.7 * sizes[0]
        loaded = MultiExit.load(tmp_path / "half")
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        assert {p.dtype for p in model.parameters()} == {torch.float32}  # saving changed nothing here
        for before, after in zip(log_probs(model, batch), log_probs(loaded, batch), strict=True):
            torch.testing.assert_close(before, after, atol=0.02, rtol=0)

    def test_nothing_is_left_beside_the_files(self, model, tmp_path):
        model.save(tmp_path / "new" / "folder")
        names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
        assert names == ["config.json", "model.safetensors"]

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_a_folder_that_lacks_a_file_is_named(self, model, tmp_path, name):
        model.save(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"a model folder with {name} in it, found none in '{tmp_path}'"):
            MultiExit.load(tmp_path)

    def test_another_version_is_refused(self, model, tmp_path):
        model.save(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "folder_version": 99}))
        with pytest.raises(ValueError, match="folder_version 99; this program reads 1"):
            MultiExit.load(tmp_path)

    @pytest.mark.parametrize("change", [{"n_tokens": 9}, {"exit_layers": [2, 4]}])
    def test_weights_that_do_not_fit_the_config_are_refused(self, model, tmp_path, change):
        model.save(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=r"the weights in '.*' do not fit its config\.json"):
            MultiExit.load(tmp_path)


class TestMacs:
    """The counter sees matrix products and convolutions; it misses the FFT, norms, activations and sums."""

    @pytest.mark.parametrize("n_samples", [16000, 48000])
    @pytest.mark.parametrize("encoder", [{}, {"dim": 32, "n_heads": 4, "ffn_dim": 64, "kernel_size": 15, "n_mels": 40}])
    def test_formulas_agree_with_what_torch_counts(self, make_model, encoder, n_samples):
        model = make_model(encoder=encoder, exit_layers=[1, 3, 4])
        layers, heads = model.macs(n_samples)
        wav, length = 0.1 * torch.randn(1, n_samples), torch.tensor([n_samples])
        counted = []
        for e, layer in enumerate(model.exit_layers):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                state = model.encoder.front_end(wav, length)
                for number in range(1, layer + 1):
                    state = model.encoder.run_layer(number, state)
            counted.append(counter.get_total_flops() / 2)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model.heads[e](state.hidden)
            assert heads[e] == counter.get_total_flops() / 2
        assert layers == pytest.approx(counted, rel=0.02)

    def test_each_layer_costs_the_same_and_the_front_end_comes_first(self, model):
        layers, _ = model.macs(16000)
        one = model.encoder.layer_macs(int(model.encoder.frames_for(16000)))
        assert layers[1] - layers[0] == pytest.approx(one)
        assert layers[2] - layers[1] == pytest.approx(2 * one)
        assert layers[0] - one == pytest.approx(model.encoder.front_end_macs(16000))
