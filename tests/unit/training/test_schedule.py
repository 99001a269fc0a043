"""What each regime trains, with which weights and learning rates; the rate as a function of progress."""

import itertools
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from speechbrain.utils.run_opts import RunOptions
from tiny_checkpoint import write_start_of

from eeasr_modules.data.pipeline import AudioCache, build_dataset, manifest_items
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.training.brain import ExitBrain
from eeasr_modules.training.config.checks import regime_of
from eeasr_modules.training.config.config import check, load_yaml
from eeasr_modules.training.fit import build_model, fit
from eeasr_modules.training.schedule import (
    REGIMES,
    SCHEDULES,
    Regime,
    decayed_groups,
    depth_of,
    lr_share,
    warmup_cosine,
)


def shares(warmup, final, n=1000):
    return [warmup_cosine(i / n, warmup_share=warmup, final_share=final) for i in range(n + 1)]


@pytest.mark.parametrize(("warmup", "final"), [(0.08, 0.01), (0.0, 0.0), (0.5, 1.0), (1.0, 0.1)])
def test_it_rises_to_the_peak_and_falls_from_there(warmup, final):
    found = shares(warmup, final)
    top = round(warmup * 1000)
    assert found[top] == pytest.approx(1.0)
    assert all(a < b for a, b in pairwise(found[: top + 1]))
    assert all(a >= b for a, b in pairwise(found[top:]))
    assert all(0.0 <= share <= 1.0 for share in found)


def test_warm_up_is_linear_and_the_end_is_what_was_asked_for():
    found = shares(0.2, 0.05)
    assert found[0] == 0.0 and found[50] == pytest.approx(0.25) and found[100] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.05)
    assert found[600] == pytest.approx((1 + 0.05) / 2)  # half way down the cosine


def test_beyond_the_end_nothing_rises_again():
    # batches are drawn anew every epoch, so the count of updates may be off by a few
    assert warmup_cosine(1.07, warmup_share=0.1, final_share=0.02) == pytest.approx(0.02)


ROOT = Path(__file__).resolve().parents[3]
READY = sorted((ROOT / "hparams" / "regimes").glob("*.yaml"))


class TestRegime:
    def test_joint_and_heads_only_use_the_weights_in_every_update(self):
        for name in ("joint", "heads_only"):
            regime = Regime(name, (0.2, 0.8), n_epochs=4)
            assert {regime.weights_of(epoch, update=u) for epoch in range(1, 5) for u in range(9)} == {(0.2, 0.8)}

    def test_alternating_trains_the_last_exit_alone_and_then_all(self):
        regime = Regime("alternating", (0.5, 0.5), n_epochs=4)
        assert [regime.weights_of(1, update=u) for u in range(3)] == [(0.0, 1.0), (0.5, 0.5), (0.0, 1.0)]

    @pytest.mark.parametrize(("n_epochs", "share", "first"), [(10, 0.5, 5), (10, 0.01, 1), (10, 1.0, 9), (2, 0.9, 1)])
    def test_each_of_two_steps_has_an_epoch(self, n_epochs, share, first):
        regime = Regime("two_step", (0.5, 0.5), n_epochs=n_epochs, first_share=share)
        assert [regime.frozen(epoch) for epoch in range(1, n_epochs + 1)].count(False) == first

    def test_the_second_step_warms_up_again_and_ends_at_one(self):
        regime = Regime("two_step", (0.5, 0.5), n_epochs=10, first_share=0.6)
        ends = [regime.progress(epoch, n_done=7, n_batches=7) for epoch in (6, 7, 10)]
        assert ends == [1.0, 0.25, 1.0]

    @pytest.mark.parametrize("name", REGIMES)
    def test_weights_sum_to_one_in_every_update(self, name):
        regime = Regime(name, (0.1, 0.2, 0.7), n_epochs=3)
        sums = [sum(regime.weights_of(epoch, update=u)) for epoch in (1, 2, 3) for u in (0, 1)]
        assert sums == pytest.approx([1.0] * 6)

    @pytest.mark.parametrize("weights", [(1.0,), (0.0, 1.0)])
    def test_two_steps_need_an_inner_exit(self, weights):
        with pytest.raises(ValueError, match="two_step needs an exit with a weight before the last"):
            Regime("two_step", weights, n_epochs=4)


class TestConfiguration:
    def test_heads_only_freezes_the_encoder_and_needs_a_start(self, make_config, model, tmp_path):
        with pytest.raises(ValueError, match="trains heads only and needs init_from"):
            make_config(regime="heads_only")
        model.save(tmp_path)
        assert make_config(regime="heads_only", init_from=str(tmp_path)).freeze_encoder is True

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"regime": "both"}, "regime must be one of joint, two_step"),
            ({"regime": "two_step", "share_projection": True}, "cannot share its projection"),
            ({"regime": "two_step", "select_on": "last"}, "give select_on: mean"),
            ({"regime": "two_step", "n_epochs": 1}, "needs n_epochs of at least 2"),
            ({"exit_weights": [1.0]}, r"exit_weights must be 2 numbers from 0 up, .* got \[1.0\]"),
            ({"exit_weights": [1.0, -1.0]}, "exit_weights must be at least 0"),
            ({"distill_alpha": [0.5]}, r"distill_alpha must be 2 numbers from 0 to 1, one for each exit, got \[0.5\]"),
            ({"self_condition": True, "regime": "two_step"}, "a frozen encoder cannot learn from it"),
            ({"exit_weights": ["a", "b"]}, "exit_weights must be a list of float"),
            ({"lr_schedule": "step"}, "lr_schedule must be one of cosine"),
            ({"layer_lr_decay": 0.0}, "layer_lr_decay must be above 0"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, make_config, changes, sentence):
        with pytest.raises(ValueError, match=sentence):
            make_config(**changes)


class TestSchedules:
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_every_schedule_warms_up_to_the_peak_and_never_rises_again(self, schedule):
        shares = [lr_share(schedule, n / 100, warmup_share=0.2, final_share=0.1) for n in range(1, 101)]
        assert shares[9] == pytest.approx(0.5) and max(shares) == pytest.approx(1.0) == shares[19]
        assert all(later <= earlier for earlier, later in itertools.pairwise(shares[19:]))
        assert min(shares[19:]) >= 0.1 - 1e-9

    def test_linear_ends_at_the_final_share(self):
        assert lr_share("linear", 1.0, warmup_share=0.2, final_share=0.1) == pytest.approx(0.1)


class TestLayerDecay:
    def test_every_weight_is_in_one_group_and_lower_layers_learn_slower(self, model):
        groups = decayed_groups(model.encoder, decay=0.5)
        held = [id(p) for group in groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.encoder.parameters())
        assert [group["lr_scale"] for group in groups] == [0.25, 0.5, 1.0]

    def test_layers_of_a_hugging_face_encoder_are_told_from_its_front_end(self):
        from eeasr_modules.models.encoders.huggingface import HuggingFaceEncoder

        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        shape |= {"conv_dim": [8] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "num_conv_pos_embeddings": 4}
        shape |= {"num_conv_pos_embedding_groups": 2, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
        encoder = HuggingFaceEncoder(hf_config={"model_type": "wav2vec2", **shape})
        depths = {name: depth_of(encoder, name) for name, _ in encoder.named_parameters()}
        assert (
            depths["model.encoder.layers.1.attention.k_proj.weight"] == 2 == depths["model.encoder.layer_norm.weight"]
        )
        assert depths["model.feature_projection.projection.weight"] == 0
        assert depths["model.encoder.pos_conv_embed.conv.bias"] == 0


@pytest.fixture
def make_brain(make_config, vocabulary, tmp_path):
    """A brain on a fresh tiny model, with its optimizers."""

    def make(*, n_batches=10, precision="fp32", **changes):
        config = make_config(**changes)
        model = build_model(config, n_tokens=len(vocabulary), blank_index=vocabulary.blank_index)
        brain = ExitBrain(
            model,
            config,
            vocabulary=vocabulary,
            n_batches=n_batches,
            run_opts=RunOptions.from_dictionary({"device": "cpu", "precision": precision}),
            checkpointer=None,
            train_log=str(tmp_path / "log.txt"),
        )
        brain.init_optimizers()
        brain.modules.train()
        return brain

    return make


@pytest.fixture(scope="module")
def batch(corpora, vocabulary):
    """Four utterances of the tone corpus."""
    from speechbrain.dataio.batch import PaddedBatch

    dataset = build_dataset(
        manifest_items(corpora.train, limit=4), read=AudioCache(50, sample_rate=16000), encode=vocabulary.encode
    )
    return PaddedBatch([dataset[i] for i in range(4)])


def update(brain, batch, *, epoch=1, step=1):
    """Make one batch's step of training; names of the parts that it changed."""
    model = brain.modules.model
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    brain.step = step
    if step == 1:
        import speechbrain as sb

        brain.on_stage_start(sb.Stage.TRAIN, epoch)
    brain.fit_batch(batch)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    return {".".join(name.split(".")[: 2 if name.startswith("heads") else 1]) for name in changed}


class TestUpdates:
    def test_joint_changes_everything(self, make_brain, batch):
        assert update(make_brain(), batch) == {"encoder", "heads.0", "heads.1"}

    def test_last_only_leaves_the_other_heads_as_they_are(self, make_brain, batch):
        brain = make_brain(regime="last_only")
        assert [update(brain, batch, step=step) for step in (1, 2, 3)] == [{"encoder", "heads.1"}] * 3

    def test_alternating_changes_inner_heads_in_every_second_update(self, make_brain, batch):
        brain = make_brain(regime="alternating")
        last, everything = {"encoder", "heads.1"}, {"encoder", "heads.0", "heads.1"}
        assert [update(brain, batch, step=step) for step in (1, 2, 3, 4)] == [last, everything] * 2

    def test_a_shared_projection_still_learns_where_only_the_last_exit_is_trained(self, make_brain, batch):
        brain = make_brain(regime="last_only", share_projection=True)
        model = brain.modules.model
        before = model.heads[1].projection.weight.detach().clone()
        update(brain, batch)
        assert not torch.equal(before, model.heads[1].projection.weight)

    def test_two_steps_train_the_last_exit_and_then_the_others_on_a_frozen_encoder(self, make_brain, batch):
        brain = make_brain(regime="two_step", n_epochs=2)
        assert update(brain, batch, epoch=1) == {"encoder", "heads.1"}
        assert update(brain, batch, epoch=2) == {"heads.0"}
        brain.modules.train()
        assert not brain.modules.model.encoder.training

    @pytest.mark.parametrize(
        "changes",
        [{"distill": "self"}, {"distill": "best", "distill_transcript_share": 0.5}, {"confidence_weighted": True}],
        ids=lambda changes: str(*changes.values()) if len(changes) == 1 else "best",
    )
    def test_own_teachers_and_confidence_train_every_part(self, make_brain, batch, changes):
        assert update(make_brain(**changes), batch) == {"encoder", "heads.0", "heads.1"}

    @pytest.mark.parametrize(
        "changes",
        [
            {"regime": "alternating"},
            {"self_condition": True},
            {"distill": "self"},
            {"distill": "best", "distill_transcript_share": 0.5, "confidence_weighted": True},
            {"downsample": "convolution"},
            {"downsample": "signal", "self_condition": True, "distill": "self", "regime": "alternating"},
            {"downsample": "average", "upsample": True, "self_condition": True, "distill": "self"},
        ],
        ids=["alternating", "self-conditioned", "distilled", "best", "downsampled", "together", "upsampled"],
    )
    def test_in_bf16_an_update_is_nearly_that_of_fp32(self, make_brain, batch, changes):
        after, losses = {}, {}
        for precision in ("fp32", "bf16"):
            brain = make_brain(
                precision=precision, dropout=0.0, head_dropout=0.0, time_masks=0, freq_masks=0, **changes
            )
            changed = [update(brain, batch, step=step) for step in (1, 2)]
            assert "encoder" in changed[0] and {"heads.0", "heads.1"} <= changed[1]
            after[precision], losses[precision] = brain.modules.model.state_dict(), brain.loss_sums
        assert all(torch.isfinite(value).all() for value in after["bf16"].values())
        torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.05, atol=0.0)
        assert not torch.equal(losses["bf16"], losses["fp32"])  # it was bf16

    def test_a_frozen_teacher_teaches_and_stays_as_it_is(self, make_brain, batch, vocabulary, tmp_path):
        teacher = make_brain(seed=9, n_layers=3, exit_layers=[3]).modules.model
        teacher.save(tmp_path / "teacher")
        vocabulary.save(tmp_path / "teacher")
        brain = make_brain(distill=str(tmp_path / "teacher"), distill_alpha=1.0, dropout=0.0, head_dropout=0.0)
        assert update(brain, batch) == {"encoder", "heads.0", "heads.1"}
        kept = brain.teacher.state_dict()
        assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
        assert not any(p.requires_grad for p in brain.teacher.parameters()) and not brain.teacher.training

    def test_a_teacher_with_other_tokens_is_refused(self, make_brain, tmp_path):
        make_brain().modules.model.save(tmp_path / "teacher")
        CharVocabulary(["<blank>", " ", *"ABC"]).save(tmp_path / "teacher")
        with pytest.raises(ValueError, match="has 5 tokens and not the 29 of this run"):
            make_brain(distill=str(tmp_path / "teacher"))

    def test_gradients_of_several_batches_make_one_update(self, make_brain, batch):
        brain = make_brain(accumulate_batches=2, regime="alternating")
        changes = [update(brain, batch, step=step) for step in (1, 2, 3, 4)]
        assert changes == [set(), {"encoder", "heads.1"}, set(), {"encoder", "heads.0", "heads.1"}]

    def test_more_batches_than_an_epoch_has_cannot_make_an_update(self, make_brain):
        with pytest.raises(ValueError, match="accumulate_batches must be at most the 3 batches of an epoch, got 4"):
            make_brain(accumulate_batches=4, n_batches=3)

    def test_layer_decay_sets_the_rate_of_each_group_and_all_are_clipped_together(self, make_brain):
        brain = make_brain(layer_lr_decay=0.5, encoder_lr=1.0, warmup_share=0.0)
        brain.step = 1
        brain.on_fit_batch_start(None, should_step=True)
        encoder = brain.optimizers_dict["encoder_optimizer"]
        rates = [group["lr"] for group in encoder.param_groups]
        assert rates == pytest.approx([0.25 * rates[-1], 0.5 * rates[-1], rates[-1]])
        for parameter in brain.modules.parameters():
            parameter.grad = torch.full_like(parameter, 100.0)
        norms = []

        def note(optimizer, *_):
            norms.append(torch.nn.utils.get_total_norm([p.grad for g in optimizer.param_groups for p in g["params"]]))

        for optimizer in brain.optimizers_dict.values():
            optimizer.register_step_pre_hook(note)
        brain.optimizers_step()
        assert [norm.item() for norm in norms] == pytest.approx([brain.max_grad_norm] * 2, rel=1e-3)

    def test_a_teacher_that_is_no_model_folder_is_refused(self, make_config, tmp_path):
        with pytest.raises(FileNotFoundError, match="distill must be null, self, best or a model folder"):
            make_config(distill=str(tmp_path))

    def test_newbob_halves_the_rate_when_validation_stops_improving(self, make_brain):
        brain = make_brain(lr_schedule="newbob", encoder_lr=1.0, warmup_share=0.0, n_epochs=4)
        rates = []
        for wer in (50.0, 40.0, 40.0):
            brain.newbob(wer)
            brain.step = 1
            brain.on_fit_batch_start(None, should_step=True)
            rates.append(brain.optimizers_dict["encoder_optimizer"].param_groups[0]["lr"])
        assert rates == [1.0, 1.0, 0.5]


LEARNS = {
    "n_epochs": 30,
    "encoder_lr": 4e-3,
    "heads_lr": 1e-2,
    "batch_seconds": 4.0,
    "dim": 32,
    "ffn_dim": 64,
    "n_mels": 40,
    "speeds": [100],
    "time_masks": 0,
    "freq_masks": 0,
    "dropout": 0.0,
    "head_dropout": 0.0,
}


def losses(log: str) -> dict[int, float]:
    """Validation loss per exit layer in the last line of a `train_log.txt`, nats per token."""
    found = re.findall(r"valid loss_(\d+): ([\d.e+-]+)", log.strip().splitlines()[-1])
    return {int(layer): float(loss) for layer, loss in found}


class Dies(ExitBrain):
    """Dies at the start of the third epoch, once."""

    alive = True

    def on_stage_start(self, stage, epoch=None):
        if Dies.alive and epoch == 3 and stage.name == "TRAIN":
            Dies.alive = False
            raise KeyboardInterrupt
        super().on_stage_start(stage, epoch)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"regime": "two_step", "first_step_share": 0.75}, marks=pytest.mark.slow),
        {"regime": "alternating", "accumulate_batches": 2, "layer_lr_decay": 0.9, "batch_seconds": 4.0},
        {"self_condition": True, "lr_schedule": "newbob", "layerdrop": 0.5, "distill": "self"},
    ],
    ids=["two_step", "alternating", "newbob"],
)
def test_a_run_that_died_goes_on_as_if_it_had_not(make_config, corpora, tmp_path, changes):
    options = RunOptions(device="cpu", noprogressbar=True)
    config = make_config(n_epochs=4, average_checkpoints=1, **changes)
    whole = fit(config, corpora, folder=tmp_path / "whole", run_opts=options).state_dict()
    Dies.alive = True
    config = make_config(n_epochs=4, average_checkpoints=1, brain=f"{__name__}.Dies", **changes)
    with pytest.raises(KeyboardInterrupt):
        fit(config, corpora, folder=tmp_path / "died", run_opts=options)
    resumed = fit(config, corpora, folder=tmp_path / "died", run_opts=options).state_dict()
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "learned"),
    [
        ({"regime": "two_step", "n_epochs": 80}, (1, 2)),
        ({"regime": "alternating"}, (1, 2)),
        ({"regime": "last_only"}, (2,)),
        ({"exit_weights": "increasing"}, (1, 2)),
        ({"exit_weights": [0.3, 0.7], "layerdrop": 0.1, "gradient_checkpointing": True}, (1, 2)),
        ({"lr_schedule": "noam", "layer_lr_decay": 0.8}, (1, 2)),
        ({"lr_schedule": "newbob", "accumulate_batches": 2, "n_epochs": 50}, (1, 2)),
        ({"self_condition": True}, (1, 2)),
        ({"distill": "self", "distill_alpha": [0.3, 0.0]}, (1, 2)),
        ({"distill": "best", "confidence_weighted": True, "distill_alpha": 0.2}, (1, 2)),
        ({"downsample": "average", "encoder_lr": 1e-2, "n_epochs": 60}, (1, 2)),
        ({"downsample": "convolution", "encoder_lr": 1e-2, "n_epochs": 60}, (1, 2)),
        ({"downsample": "signal", "encoder_lr": 1e-2, "n_epochs": 60}, (1, 2)),
        ({"downsample": "average", "upsample": True, "encoder_lr": 1e-2, "n_epochs": 60}, (1, 2)),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_a_regime_trains_it_trains_to_learn_the_tones(make_config, corpora, tmp_path, changes, learned):
    config = make_config(**{**LEARNS, **changes})
    fit(config, corpora, folder=tmp_path, run_opts=RunOptions(device="cpu", noprogressbar=True))
    loss = losses((tmp_path / "train_log.txt").read_text())
    assert all((loss[layer] < 2.0) == (layer in learned) for layer in (1, 2)), loss  # saying blank only: 2.8


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_every_ready_yaml_is_a_whole_configuration_that_names_its_regime(path, model, tmp_path):
    values = load_yaml(path)
    if values["distill"] not in (None, "self", "best"):  # a model that is trained first
        model.save(tmp_path)
        values["distill"] = str(tmp_path)
    if values["init_from"] is not None:
        values["init_from"] = str(write_start_of(tmp_path, values))
    config = check(values, recipes=ROOT / "recipes")
    assert config.output_folder == f"runs/an4_{path.stem}"
    assert regime_of(config).n_epochs == config.n_epochs
