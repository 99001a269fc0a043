"""Pretraining without labels: what it reads, resumes, leaves, and that fine-tuning starts from it."""

import json
import re

import pytest
import torch
from tiny_run import TINY, tiny_argv

import train
from eeasr_modules.models.folder import is_pretrained_encoder, pretrained_weights
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config.config import load
from eeasr_modules.training.fit import build_model
from recipes.Pretrain.pretraining import KEYS, list_audio, load_settings, main, pretrain

SHAPE = {key: TINY[key] for key in ("n_layers", "dim", "n_heads", "ffn_dim", "kernel_size", "n_mels")}
QUICK = {**SHAPE, "n_epochs": 2, "batch_seconds": 8.0, "codebook_size": 16, "least_s": 0.1, "cache_audio_mb": 50}


@pytest.fixture()
def settings(root, tone_corpus, tmp_path):
    audio = [str(tone_corpus / "wav")]
    changes = {**QUICK, "audio": audio, "leave_out": ["*/an4test_clstk/*"], "output_folder": str(tmp_path / "pre")}
    return load_settings(root / "recipes" / "Pretrain" / "pretrain_small.yaml", changes)


def test_the_yaml_that_ships_is_complete(root):
    assert load_settings(root / "recipes" / "Pretrain" / "pretrain_small.yaml").keys() == KEYS.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mask_share": 0.95}, "mask_share"), ({"masks": 3}, "unknown keys masks"), ({"audio": []}, "audio")],
)
def test_a_wrong_key_is_named(root, change, message):
    with pytest.raises(ValueError, match=message):
        load_settings(root / "recipes" / "Pretrain" / "pretrain_small.yaml", change)


def test_audio_comes_from_folders_and_manifests_without_what_is_left_out(tone_corpus, tmp_path):
    everything = list_audio([str(tone_corpus / "wav")], leave_out=[], least_s=0.1, most_s=60)
    train_only = list_audio([str(tone_corpus / "wav")], leave_out=["*/an4test_clstk/*"], least_s=0.1, most_s=60)
    assert 0 < len(train_only) < len(everything)
    assert not any("an4test_clstk" in name for name in train_only)
    longest = max(item["duration"] for item in everything.values())
    assert len(list_audio([str(tone_corpus / "wav")], leave_out=[], least_s=longest, most_s=60)) < len(everything)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_audio([str(tmp_path / "nowhere")], leave_out=[], least_s=0.1, most_s=60)


def test_a_stopped_run_goes_on_and_fine_tuning_starts_from_what_it_leaves(settings, root, tone_corpus, tmp_path):
    once = pretrain({**settings, "output_folder": str(tmp_path / "once")}, run_opts={"noprogressbar": True})
    # stopped after the first of two epochs: the loop's limit is all that ends it early
    log = tmp_path / "pre" / "train_log.txt"
    from speechbrain.utils.epoch_loop import EpochCounter

    whole = EpochCounter.__next__

    def one_epoch(self):
        if self.current == 1:
            raise KeyboardInterrupt
        return whole(self)

    EpochCounter.__next__ = one_epoch
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings, run_opts={"noprogressbar": True})
    finally:
        EpochCounter.__next__ = whole
    assert re.findall(r"epoch: (\d+)", log.read_text()) == ["1"]
    folder = pretrain(settings, run_opts={"noprogressbar": True})
    assert re.findall(r"epoch: (\d+)", log.read_text()) == ["1", "2"]
    assert "masked_accuracy" in log.read_text()
    assert is_pretrained_encoder(folder)
    resumed, uninterrupted = pretrained_weights(folder), pretrained_weights(once)
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in resumed)
    about = json.loads((folder / "config.json").read_text())["pretraining"]
    assert about["epoch"] == 2 and about["hours"] > 0

    yaml = root / "hparams" / "an4.yaml"
    values = {
        **TINY,
        "data_folder": str(tone_corpus),
        "output_folder": str(tmp_path / "fine"),
        "init_from": str(folder),
    }
    config = load(yaml, values, recipes=root / "recipes")
    model = build_model(config, n_tokens=29, blank_index=0)
    assert all(torch.equal(value, resumed[name]) for name, value in model.encoder.state_dict().items())
    argv = tiny_argv(tone_corpus, tmp_path / "fine", init_from=folder, n_epochs=1)
    assert train.main(argv) == 0
    assert MultiExit.load(tmp_path / "fine" / "model").exit_layers == [1, 2]


def test_a_second_round_codes_a_layer_of_the_first(settings, tmp_path):
    first = pretrain({**settings, "n_epochs": 1}, run_opts={"noprogressbar": True})
    again = {**settings, "n_epochs": 1, "codebook_dim": 8, "output_folder": str(tmp_path / "second")}
    second = pretrain({**again, "teacher": str(first), "teacher_layer": 1}, run_opts={"noprogressbar": True})
    assert json.loads((second / "config.json").read_text())["pretraining"]["teacher"] == "encoder"
    (checkpoint,) = (tmp_path / "second" / "save").glob("CKPT*/model.ckpt")
    state = torch.load(checkpoint)
    assert state["targets.mean"].shape == (TINY["dim"],)
    assert len(state["targets.centres"][0].unique(dim=0)) > QUICK["codebook_size"] / 2


def test_an_encoder_without_exits_cannot_be_evaluated_and_another_shape_is_refused(
    settings, root, tone_corpus, tmp_path, capsys
):
    folder = pretrain({**settings, "n_epochs": 1}, run_opts={"noprogressbar": True})
    assert train.main(tiny_argv(tone_corpus, tmp_path / "fine", init_from=folder, n_epochs=0)) == 2
    assert "exits" in capsys.readouterr().err
    assert train.main(tiny_argv(tone_corpus, tmp_path / "fine", init_from=folder, dim=32)) == 2
    assert "dim 16" in capsys.readouterr().err


def test_the_command_line_says_what_is_wrong(root, tmp_path, capsys):
    yaml = str(root / "recipes" / "Pretrain" / "pretrain_small.yaml")
    argv = [yaml, "--audio", f"[{tmp_path / 'nowhere'}]", "--output_folder", str(tmp_path / "pre")]
    assert main(argv) == 2
    assert "nowhere" in capsys.readouterr().err
