"""`train.py --device cuda` under every regime and precision: it learns the tones, and its tables are those of a CPU."""

import numpy as np
import pytest
from tiny_run import tiny_argv

import train
from eeasr_modules.exits.tables.files import read_table
from eeasr_modules.training.fit import fit
from eeasr_modules.training.run import collect_all, set_up

pytestmark = pytest.mark.gpu

REGIMES = {
    "joint": {},
    "last_only": {"regime": "last_only", "select_on": "last"},
    "two_step": {"regime": "two_step"},
    "alternating": {"regime": "alternating"},
    "layerdrop": {"layerdrop": 0.5},
    "shared projection": {"share_projection": "true"},
    "self-conditioned": {"self_condition": "true"},
    "self-distillation": {"distill": "self"},
    "best exit teaches": {"distill": "best", "distill_transcript_share": 0.5},
    "confidence-weighted": {"confidence_weighted": "true"},
    "attention head": {"head": "attention"},
    "attention decoder": {"attention_decoder": "true", "decoder_layers": 1, "decoder_heads": 2, "decoder_ffn_dim": 32},
    "downsampled": {"downsample": "convolution", "upsample": "true"},
    "gradient checkpointing": {"gradient_checkpointing": "true"},
    "accumulated": {"accumulate_batches": 2, "batch_seconds": 4.0},
    "layers at their own pace": {"layer_lr_decay": 0.9, "lr_schedule": "newbob"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
}


@pytest.mark.parametrize("name", REGIMES)
def test_every_regime_trains_on_a_gpu_and_tests_alike_on_a_cpu(name, tone_corpus, tmp_path, root):
    argv = tiny_argv(tone_corpus, tmp_path / "run", device="cuda", n_epochs=4, shifts="[]", **REGIMES[name])
    assert train.main(argv) == 0
    losses = [float(line.split("train loss: ")[1].split(",")[0]) for line in read_log(tmp_path / "run")]
    assert len(losses) == 4 and losses[1] < losses[0]  # later, another step may have another loss
    table = read_table(tmp_path / "run" / "tables" / "an4_test.parquet")
    run = set_up(
        [*tiny_argv(tone_corpus, tmp_path / "run", shifts="[]", n_epochs=4, **REGIMES[name]), "--test_only"],
        recipes=root / "recipes",
    )
    (tmp_path / "run" / "tables" / "an4_test.parquet").unlink()
    model = fit(run.config, run.corpora, folder=run.folder, run_opts=run.run_opts)
    assert next(model.parameters()).device.type == "cuda"  # where there is a GPU, that is the default
    model = model.to("cpu")
    _, (on_cpu,) = collect_all(run, model)
    assert list(on_cpu.utt_ids) == list(table.utt_ids)
    assert np.abs(on_cpu.wer_per_exit - table.wer_per_exit).max() < 5.0


def read_log(folder):
    return (folder / "train_log.txt").read_text().splitlines()


def test_a_teacher_on_the_gpu_and_heads_alone(tone_corpus, tmp_path):
    assert train.main(tiny_argv(tone_corpus, tmp_path / "first", device="cuda", shifts="[]")) == 0
    start = tmp_path / "first" / "model"
    taught = {"distill": start, "distill_alpha": 0.5, "distill_transcript_share": 0.5}
    assert train.main(tiny_argv(tone_corpus, tmp_path / "taught", device="cuda", shifts="[]", **taught)) == 0
    heads = {"regime": "heads_only", "init_from": start}
    assert train.main(tiny_argv(tone_corpus, tmp_path / "heads", device="cuda", shifts="[]", **heads)) == 0


def test_a_run_goes_on_from_its_checkpoint_on_the_gpu(tone_corpus, tmp_path):
    argv = tiny_argv(tone_corpus, tmp_path / "run", device="cuda", shifts="[]")
    assert train.main(argv) == 0
    assert train.main(tiny_argv(tone_corpus, tmp_path / "run", device="cuda", shifts="[]", n_epochs=3)) == 0
    assert [line.split(",")[0] for line in read_log(tmp_path / "run")] == ["epoch: 1", "epoch: 2", "epoch: 3"]
