"""From a configuration to a model: run folders, brains, starting points, what is optimised."""

import json
import shutil
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
from speechbrain.utils.run_opts import RunOptions

from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary
from eeasr_modules.models.encoders import ENCODERS
from eeasr_modules.models.folder import model_digest as digest_of
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.brain import ExitBrain
from eeasr_modules.training.config.keys import all_keys, keys_of
from eeasr_modules.training.fit import FIXED, build_model, check_run_folder, fit, load_brain_class, make_vocabulary
from recipes.Pretrain.masked_prediction import MaskedPredictor


class OwnBrain(ExitBrain):
    """A subclass that a YAML may name."""


class TestRunFolder:
    def test_a_run_of_the_same_shape_goes_on(self, make_config, tmp_path):
        check_run_folder(make_config(), tmp_path / "run")
        check_run_folder(make_config(n_epochs=50, seed=3, exit_policy="random", encoder_lr=0.1), tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"exit_layers": [2]}, r"exit_layers \[1, 2\], this one has \[2\]"),
            ({"dim": 32}, "dim 16, this one has 32"),
            ({"share_projection": True}, "share_projection False, this one has True"),
            ({"exit_weights": "last"}, "exit_weights uniform, this one has last"),
            ({"corpus": "Digits"}, "corpus AN4, this one has Digits"),
        ],
    )
    def test_a_run_of_another_shape_is_refused(self, make_config, tmp_path, changes, named):
        check_run_folder(make_config(), tmp_path)
        with pytest.raises(ValueError, match=f"holds a run with {named}: give it a folder of its own .--output"):
            check_run_folder(make_config(**changes), tmp_path)
        assert json.loads((tmp_path / "run.json").read_text())["exit_layers"] == [1, 2]  # the first one's still

    def test_every_key_that_is_fixed_is_a_key(self):
        assert set(FIXED) <= set(all_keys())
        assert all({*kind.fixed} <= set(keys_of(name)) for name, kind in ENCODERS.items())


class TestBrainClass:
    def test_the_brain_or_a_subclass_of_it_is_found_by_its_dotted_name(self):
        assert load_brain_class("eeasr_modules.training.brain.ExitBrain") is ExitBrain
        assert issubclass(load_brain_class(f"{__name__}.OwnBrain"), ExitBrain)

    @pytest.mark.parametrize(
        "dotted", ["ExitBrain", "no.such.Brain", "eeasr_modules.training.brain.Nothing", "", "speechbrain.core.Brain"]
    )
    def test_anything_else_is_refused(self, dotted):
        with pytest.raises(ValueError, match="brain must be"):
            load_brain_class(dotted)


class TestVocabulary:
    def test_characters_are_saved_and_found_again(self, config, corpora, tmp_path):
        made = make_vocabulary(config, corpora, tmp_path)
        assert isinstance(made, CharVocabulary) and (tmp_path / "vocab.json").is_file()
        assert make_vocabulary(config, corpora, tmp_path).tokens == made.tokens

    def test_subwords_are_trained_on_the_training_texts(self, make_config, corpora, tmp_path):
        made = make_vocabulary(make_config(tokens="bpe", n_tokens=30), corpora, tmp_path)
        assert isinstance(made, SentencePieceVocabulary) and len(made) == 30
        assert made.decode(made.encode("YES STOP")) == "YES STOP"

    def test_a_model_that_starts_from_another_takes_its_vocabulary(self, make_config, corpora, model, tmp_path):
        model.save(tmp_path / "start")
        CharVocabulary(["<blank>", " ", *"ABCEGHIKLNOPSTWXY"]).save(tmp_path / "start")
        config = make_config(init_from=str(tmp_path / "start"))
        assert len(make_vocabulary(config, corpora, tmp_path / "new")) == 19


class TestStartingPoint:
    @pytest.fixture
    def start(self, model, tmp_path):
        model.save(tmp_path / "start")
        return model, str(tmp_path / "start")

    def test_a_fresh_model_depends_on_the_seed_alone(self, make_config):
        same = [build_model(make_config(), n_tokens=29, blank_index=0) for _ in range(2)]
        other = build_model(make_config(seed=1), n_tokens=29, blank_index=0)
        states = [{k: v for k, v in m.state_dict().items() if "projection.weight" in k} for m in (*same, other)]
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
        assert not any(torch.equal(states[0][k], states[2][k]) for k in states[0])

    def test_encoder_and_common_exits_are_taken_over_and_new_exits_start_afresh(self, make_config, start):
        before, folder = start
        config = make_config(init_from=folder, exit_layers=[2], seed=9)
        fewer = build_model(config, n_tokens=29, blank_index=0)
        assert torch.equal(fewer.heads[0].projection.weight, before.heads[1].projection.weight)
        fewer.save(folder + "_fewer")
        more = build_model(make_config(init_from=folder + "_fewer", seed=9), n_tokens=29, blank_index=0)
        assert torch.equal(more.heads[1].projection.weight, before.heads[1].projection.weight)
        assert not torch.equal(more.heads[0].projection.weight, before.heads[0].projection.weight)
        for name, value in before.encoder.state_dict().items():
            assert torch.equal(more.encoder.state_dict()[name], value), name

    @pytest.mark.parametrize("frozen", [True, False])
    @pytest.mark.parametrize("has_norm", [True, False])
    def test_the_last_head_stays_with_or_without_a_norm(self, make_config, start, has_norm, frozen, tmp_path):
        before = MultiExit({**start[0].config, **({"last_norm": True} if has_norm else {})})
        if has_norm:
            torch.nn.init.normal_(before.heads[-1].norm.weight)
        before.save(tmp_path)
        config = make_config(init_from=str(tmp_path), freeze_encoder=frozen)
        after = build_model(config, n_tokens=29, blank_index=0)
        theirs, ours = (model.heads[-1].state_dict() for model in (before, after))
        assert ours.keys() == theirs.keys() and len(ours) == (4 if has_norm else 2)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    @pytest.mark.parametrize("is_older", [True, False])
    def test_on_a_frozen_encoder_the_last_head_learns_a_norm_but_in_older_runs(
        self, make_config, corpora, tmp_path, is_older
    ):
        settings = make_config().encoder_settings
        MaskedPredictor(settings, targets="random", n_codebooks=1, codebook_size=8).save(tmp_path / "start", about={})
        config = make_config(init_from=str(tmp_path / "start"), freeze_encoder=True, n_epochs=1)
        model = build_model(config, n_tokens=29, blank_index=0, last_norm=not is_older)
        bound = (0.1 if not is_older else 1.0) / model.encoder.dim**0.5
        assert all(0.8 * bound < head.projection.weight.abs().max() <= bound for head in model.heads)
        check_run_folder(config, tmp_path / "run")
        if is_older:
            note = tmp_path / "run" / "run.json"
            shape = json.loads(note.read_text())
            note.write_text(json.dumps({name: value for name, value in shape.items() if name != "last_norm"}))
        fit(config, corpora, folder=tmp_path / "run", run_opts=RunOptions(device="cpu", noprogressbar=True))
        model = MultiExit.load(tmp_path / "run" / "model")
        names = model.heads[-1].state_dict().keys()
        assert ("norm.weight" in names) == model.config.get("last_norm", False) == (not is_older)
        if not is_older:
            assert (model.heads[-1].norm.weight - 1).abs().min() > 0 and model.heads[-1].norm.bias.abs().min() > 0
        check_run_folder(config, tmp_path / "run")

    def test_an_encoder_of_another_shape_is_refused(self, make_config, start):
        with pytest.raises(ValueError, match=r"init_from '.*' is a model with ffn_dim 32, but the YAML has ffn_dim 64"):
            make_config(init_from=start[1], ffn_dim=64)

    def test_heads_of_another_size_are_refused(self, make_config, start):
        with pytest.raises(ValueError, match=r"the heads of init_from '.*' have 29 tokens, this model has 19"):
            build_model(make_config(init_from=start[1]), n_tokens=19, blank_index=0)


def test_sixteen_bit_weights_are_those_that_are_tested(make_config, corpora, model, tmp_path):
    model.save(tmp_path / "start")
    CharVocabulary().save(tmp_path / "start")
    config = make_config(init_from=str(tmp_path / "start"), n_epochs=0, half_weights=True)
    fitted = fit(config, corpora, folder=tmp_path / "run", run_opts=RunOptions(device="cpu"))
    path = tmp_path / "run" / "model" / "model.safetensors"
    assert path.stat().st_size < 0.6 * (tmp_path / "start" / "model.safetensors").stat().st_size
    stored = MultiExit.load(tmp_path / "run" / "model").state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in fitted.state_dict().items())
    assert any(not torch.equal(value, stored[name]) for name, value in model.state_dict().items())


def test_the_digest_follows_the_weights(model, tmp_path):
    model.save(tmp_path / "a")
    model.save(tmp_path / "b")
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")
    with torch.no_grad():
        model.heads[0].projection.bias[3] += 1e-3
    model.save(tmp_path / "b")
    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "b")
    shutil.copy(tmp_path / "a" / "model.safetensors", tmp_path / "b" / "model.safetensors")
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")


class TestBrain:
    @pytest.fixture
    def make_brain(self, model, config, vocabulary, tmp_path):
        def make():
            return ExitBrain(
                model,
                config,
                vocabulary=vocabulary,
                n_batches=10,
                run_opts=RunOptions(device="cpu"),
                checkpointer=None,
                train_log=str(tmp_path / "log.txt"),
            )

        return make

    def test_encoder_and_heads_have_an_optimizer_each_over_all_weights(self, make_brain, model):
        brain = make_brain()
        brain.init_optimizers()
        held = {
            name: [id(p) for group in optimizer.param_groups for p in group["params"]]
            for name, optimizer in brain.optimizers_dict.items()
        }
        assert held["encoder_optimizer"] == [id(p) for p in model.encoder.parameters()]
        assert held["heads_optimizer"] == [id(p) for p in model.heads.parameters()]
        assert all(len(optimizer.param_groups) == 1 for optimizer in brain.optimizers_dict.values())

    def test_a_loss_that_is_not_finite_skips_its_update_and_says_whose_it_was(self, make_brain, model, caplog):
        brain = make_brain()
        brain.init_optimizers()
        brain.on_stage_start(sb.Stage.TRAIN, 1)
        brain.weights = [1.0] * len(model.exit_layers)
        for optimizer in brain.optimizers_dict.values():
            optimizer.param_groups[0]["lr"] = 0.01
        tokens = torch.tensor([[3, 4], [5, 6]])
        batch = SimpleNamespace(id=["good", "bad"], tokens=(tokens, torch.ones(2)), words=["", ""])
        moved = []
        for fault in (float("nan"), 0.0):
            before = [p.clone() for p in model.parameters()]
            log_probs, n_frames = model(torch.randn(2, 16000), torch.tensor([16000, 16000]))
            spoilt = [one + torch.tensor([0.0, fault])[:, None, None] for one in log_probs]
            brain.compute_objectives((spoilt, n_frames), batch, sb.Stage.TRAIN).backward()
            brain.optimizers_step()
            assert all(p.isfinite().all() for p in model.parameters())
            moved.append(any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)))
        assert moved == [False, True] and brain.n_summed == 1 and brain.optimizer_step == 2
        said = [message for message in caplog.messages if "not finite" in message]
        assert said == ["the loss of bad is not finite: this update is skipped"]

    def test_a_frozen_encoder_has_none(self, make_brain, model):
        model.freeze_encoder()
        brain = make_brain()
        brain.init_optimizers()
        assert list(brain.optimizers_dict) == ["heads_optimizer"]

    def test_every_group_is_clipped(self, make_brain, model):
        brain = make_brain()
        brain.init_optimizers()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 100.0)
        norms = {}

        def note(optimizer, *_):
            grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
            norms[len(norms)] = torch.nn.utils.get_total_norm(grads).item()

        for optimizer in brain.optimizers_dict.values():
            optimizer.register_step_pre_hook(note)
        brain.optimizers_step()
        assert list(norms.values()) == pytest.approx([brain.max_grad_norm] * 2, rel=1e-3)

    def test_the_learning_rate_of_both_follows_the_share_of_updates_done(self, make_brain, config):
        brain = make_brain()
        brain.init_optimizers()
        brain.peak_lr = {"encoder_optimizer": 1.0, "heads_optimizer": 2.0}
        rates = []
        for brain.epoch in (1, 2):
            for brain.step in range(1, 11):
                brain.on_fit_batch_start(None, should_step=True)
                rates.append({k: o.param_groups[0]["lr"] for k, o in brain.optimizers_dict.items()})
        encoder = [rate["encoder_optimizer"] for rate in rates]
        assert [rate["heads_optimizer"] for rate in rates] == pytest.approx([2 * rate for rate in encoder])
        assert 0 < encoder[0] < encoder[1] == max(encoder)
        assert encoder[-1] == pytest.approx(config.final_lr_share) == min(encoder)
