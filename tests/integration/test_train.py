"""`train.py` on synthetic audio, from nothing to a report; killed and resumed; every policy by its text."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from tiny_run import tiny_argv

import train
from eeasr_modules.data.text import SentencePieceVocabulary, load_vocabulary
from eeasr_modules.exits import replay
from eeasr_modules.exits.policies.files import read_policies
from eeasr_modules.exits.tables.files import read_table
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.fit import build_model, fit
from eeasr_modules.training.run import collect_all, set_up

# enough to learn the tones by heart: 15 epochs of half a second
LEARNS = {
    "n_epochs": 15,
    "encoder_lr": 4e-3,
    "heads_lr": 1e-2,
    "batch_seconds": 4.0,
    "dim": 32,
    "ffn_dim": 64,
    "n_mels": 40,
    "speeds": "[100]",
    "time_masks": 0,
    "freq_masks": 0,
    "dropout": 0.0,
    "head_dropout": 0.0,
}


@pytest.fixture(scope="module")
def learned(tone_corpus, tmp_path_factory):
    """Run folder of a model that has learned the tones, and the arguments that made it. Shared: do not train in it."""
    folder = tmp_path_factory.mktemp("runs") / "learned"
    argv = tiny_argv(tone_corpus, folder, **LEARNS)
    assert train.main(argv) == 0
    return folder, argv


def trained(tone_corpus, folder, root, **changes):
    """The model of a run without test pass and report, and the run."""
    run = set_up(tiny_argv(tone_corpus, folder, **changes), recipes=root / "recipes")
    return fit(run.config, run.corpora, folder=run.folder, run_opts=run.run_opts), run


def epochs_logged(folder):
    return [int(found) for found in re.findall(r"^epoch: (\d+),", (folder / "train_log.txt").read_text(), re.M)]


def same_weights(one, other):
    return {name for name, value in one.state_dict().items() if torch.equal(value, other.state_dict()[name])}


def table_files(folder):
    return {path: path.stat().st_mtime_ns for path in sorted((folder / "tables").iterdir())}


class TestWholeRun:
    def test_it_learns(self, learned):
        folder, _ = learned
        losses = [float(x) for x in re.findall(r"train loss: (\S+),", (folder / "train_log.txt").read_text())]
        assert len(losses) == 15 and losses[-1] < 0.2 * losses[0]
        test, noisy = (read_table(folder / "tables" / f"an4_test{name}.parquet") for name in ("", "_noise_10db"))
        assert test.wer_per_exit[-1] < 90 and test.cer_per_exit[-1] < 50  # letters, from speakers it has not heard
        assert noisy.cer_per_exit[-1] > test.cer_per_exit[-1]

    def test_every_part_of_a_run_is_there(self, learned):
        folder, _ = learned
        assert {path.name for path in (folder / "model").iterdir()} == {
            "config.json",
            "hyperparams.yaml",
            "model.safetensors",
            "vocab.json",
            "policy.json",
            "README.md",
            "modeling_eeasr.py",
            "preprocessor_config.json",
            "tokenizer_config.json",
        }
        names = ["an4_dev", "an4_test", "an4_test_noise_10db"]
        assert [path.stem for path in sorted((folder / "tables").iterdir())] == names
        assert sorted(path.name for path in (folder / "transcripts").iterdir()) == names
        for name in ("report/report.md", "report/summary.json", "train_log.txt", "log.txt", "hyperparams.yaml"):
            assert (folder / name).stat().st_size > 0, name
        assert list((folder / "report").glob("*.png"))
        assert not list(folder.rglob("*.tmp"))
        assert epochs_logged(folder) == list(range(1, 16))

    def test_the_log_has_losses_and_error_rates_of_every_exit(self, learned):
        last = (learned[0] / "train_log.txt").read_text().splitlines()[-1]
        for name in ("lr", "train loss", "train loss_1", "train loss_2", "valid loss_2", "valid WER_1", "valid WER_2"):
            assert f"{name}: " in last

    def test_the_model_folder_says_what_the_tables_hold(self, learned):
        folder, _ = learned
        model, vocabulary = MultiExit.load(folder / "model"), load_vocabulary(folder / "model")
        table = read_table(folder / "tables" / "an4_test.parquet")
        assert model.exit_layers == table.exit_layers.tolist() == [1, 2]
        assert model.config["n_tokens"] == len(vocabulary) == 29

    def test_summary_and_tables_agree(self, learned):
        folder, _ = learned
        summary = json.loads((folder / "report" / "summary.json").read_text())
        assert {name: one["label"] for name, one in summary["sets"].items()} == {
            "an4_test": "in_domain",
            "an4_test_noise_10db": "shifted",
        }
        for name, one in summary["sets"].items():
            table = read_table(folder / "tables" / f"{name}.parquet")
            assert one["errors_per_exit"] == table.errors.sum(axis=0).tolist()
            assert one["wer_per_exit"] == pytest.approx(table.wer_per_exit.tolist(), abs=1e-3)
            assert one["oracle_a"]["wer"] <= min(one["wer_per_exit"]) + 1e-3
        policies = list(summary["sets"]["an4_test"]["policies"])
        assert policies[0] == "between(entropy)" and {"random", "entropy", "between(patience(1))"} <= set(policies)

    def test_thresholds_are_chosen_on_dev_to_the_budget(self, learned):
        folder, _ = learned
        policies = read_policies(folder / "model" / "policy.json")
        assert [str(one.open_policy) for one in policies] == [
            "between(entropy)",
            "random",
            "entropy",
            "between(patience(1))",
        ]
        for one in policies:
            assert one.calibrated_on["set_name"] == "an4_dev"
            assert one.dev_cost <= 0.75 * 2 + 1e-9 and not one.policy.is_open

    def test_hyperparameters_beside_the_results_are_those_that_were_used(self, learned):
        text = (learned[0] / "hyperparams.yaml").read_text()
        assert "dim: 32\n" in text and "n_epochs: 15\n" in text and f"output_folder: {learned[0]}" in text


@pytest.fixture(scope="class")
def copied(learned, tmp_path_factory):
    """A copy of the learned run, to be changed, and the arguments that go on with it."""
    folder = tmp_path_factory.mktemp("runs") / "copied"
    shutil.copytree(learned[0], folder)
    return folder, [*learned[1], "--output_folder", str(folder)]


class TestAgain:
    def test_the_same_command_trains_and_collects_nothing(self, copied):
        folder, argv = copied
        tables, log, weights = (
            table_files(folder),
            epochs_logged(folder),
            (folder / "model/model.safetensors").read_bytes(),
        )
        assert train.main(argv) == 0
        assert table_files(folder) == tables and epochs_logged(folder) == log
        assert (folder / "model/model.safetensors").read_bytes() == weights

    @pytest.mark.parametrize(
        "policy",
        [
            "any(entropy(0.1), patience(1, 0))",
            "between(margin)",
            *(pytest.param(text, marks=pytest.mark.slow) for text in ("patience(2, 0.1)", "entropy(0.5)", "static(1)")),
        ],
    )
    def test_another_policy_is_swapped_without_training_or_collecting(self, copied, policy):
        folder, argv = copied
        tables, log = table_files(folder), epochs_logged(folder)
        assert train.main([*argv, "--test_only", "--exit_policy", policy, "--compare_policies", "random"]) == 0
        assert table_files(folder) == tables and epochs_logged(folder) == log
        summary = json.loads((folder / "report" / "summary.json").read_text())
        chosen = read_policies(folder / "model" / "policy.json")[0]
        assert summary["chosen_policy"] == str(chosen.open_policy) == policy
        assert str(chosen.policy) == policy or chosen.open_policy.is_open
        one = summary["sets"]["an4_test"]["policies"][policy]["at_budget"]
        table = read_table(folder / "tables" / "an4_test.parquet")
        index = replay(chosen.policy, table)
        errors = sum(int(table.errors[i, e]) for i, e in enumerate(index))
        assert one["wer"] == pytest.approx(100 * errors / table.n_ref_words.sum(), abs=1e-3)

    def test_a_lost_table_is_made_again_by_test_only(self, copied):
        folder, argv = copied
        lost = folder / "tables" / "an4_test.parquet"
        before, kept = read_table(lost), folder / "tables" / "an4_dev.parquet"
        kept_at = kept.stat().st_mtime_ns
        lost.unlink()
        assert train.main([*argv, "--test_only"]) == 0
        after = read_table(lost)
        assert (after.hypotheses == before.hypotheses).all() and (
            after.signal("entropy") == before.signal("entropy")
        ).all()
        assert kept.stat().st_mtime_ns == kept_at

    @pytest.mark.slow
    def test_beam_search_makes_tables_beside_the_greedy_ones_once(self, copied):
        """Same utterances and signals, other transcripts; the second time they are read, not searched again."""
        folder, argv = copied
        argv = [*argv, "--test_only", "--decoding", "beam", "--beam_size", "8"]
        assert train.main(argv) == 0
        greedy = read_table(folder / "tables" / "an4_test.parquet")
        path = folder / "tables" / "beam" / "an4_test.parquet"
        beam = read_table(path)
        assert beam.metadata["decoding"]["beam_size"] == 8
        for name in ("entropy", "char_change"):
            assert (beam.signal(name) == greedy.signal(name)).all()
        assert abs(beam.wer_per_exit[-1] - greedy.wer_per_exit[-1]) < 15
        made = path.stat().st_mtime_ns
        assert train.main(argv) == 0 and path.stat().st_mtime_ns == made
        assert train.main([*argv[:-1], "4"]) == 0 and path.stat().st_mtime_ns != made

    def test_test_only_needs_no_checkpoints(self, learned, tmp_path):
        folder, argv = learned
        shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("save"))
        assert train.main([*argv, "--output_folder", str(tmp_path / "run"), "--test_only"]) == 0
        assert (tmp_path / "run/model/model.safetensors").read_bytes() == (
            folder / "model/model.safetensors"
        ).read_bytes()

    def test_with_more_epochs_the_same_folder_goes_on(self, learned, root, tmp_path):
        folder, argv = learned
        shutil.copytree(folder, tmp_path / "run")
        more = [*argv, "--output_folder", str(tmp_path / "run"), "--n_epochs", "16"]
        run = set_up(more, recipes=root / "recipes")
        fit(run.config, run.corpora, folder=run.folder, run_opts=run.run_opts)
        assert epochs_logged(tmp_path / "run") == list(range(1, 17))


class TestSingleExit:
    def test_a_single_exit_is_trained_reported_and_set_beside_the_others(self, copied, tone_corpus, tmp_path):
        alone = tiny_argv(tone_corpus, tmp_path / "alone", **{**LEARNS, "exit_layers": "[2]", "n_epochs": 1})
        assert train.main(alone) == 0
        assert not (tmp_path / "alone/model/policy.json").exists()
        alone_wer = read_table(tmp_path / "alone/tables/an4_test.parquet").wer_per_exit[-1]
        folder, argv = copied
        assert train.main([*argv, "--test_only", "--single_exit_folder", str(tmp_path / "alone")]) == 0
        summary = json.loads((folder / "report" / "summary.json").read_text())
        assert str(round(alone_wer, 4)) in json.dumps(summary["sets"]["an4_test"]["single_exit"])


DYING = """
import os, signal
import speechbrain as sb
from eeasr_modules.training.brain import ExitBrain

class DyingBrain(ExitBrain):
    "Killed in the second epoch, after its first update."
    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        if self.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
"""


THREE_EPOCHS = {"n_epochs": 3, "batch_seconds": 8.0}


@pytest.fixture(scope="module")
def uninterrupted(tone_corpus, tmp_path_factory, root):
    """The model after three epochs without a break."""
    return trained(tone_corpus, tmp_path_factory.mktemp("runs") / "whole", root, **THREE_EPOCHS)[0]


class TestKilled:
    def test_a_killed_run_goes_on_and_ends_where_an_uninterrupted_one_does(
        self, uninterrupted, tone_corpus, tmp_path, root
    ):
        (tmp_path / "dying.py").write_text(DYING)
        argv = tiny_argv(tone_corpus, tmp_path / "run", **THREE_EPOCHS)
        killed = subprocess.run(
            [sys.executable, str(root / "train.py"), *argv, "--brain", "dying.DyingBrain"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert epochs_logged(tmp_path / "run") == [1] and not (tmp_path / "run/model/config.json").exists()
        resumed, _ = trained(tone_corpus, tmp_path / "run", root, **THREE_EPOCHS)
        assert epochs_logged(tmp_path / "run") == [1, 2, 3]
        assert same_weights(resumed, uninterrupted) == set(uninterrupted.state_dict())

    @pytest.mark.slow
    def test_a_run_stopped_inside_an_epoch_with_a_checkpoint_there_goes_on_too(
        self, tone_corpus, tmp_path, root, monkeypatch
    ):
        from eeasr_modules.training.brain import ExitBrain

        def stop(brain, batch, outputs, loss, should_step):
            if brain.epoch == 2 and brain.step == 3:
                raise KeyboardInterrupt

        options = {**THREE_EPOCHS, "ckpt_interval_steps": 1}
        with monkeypatch.context() as patched:
            patched.setattr(ExitBrain, "on_fit_batch_end", stop)
            with pytest.raises(KeyboardInterrupt):
                trained(tone_corpus, tmp_path / "run", root, **options)
        updates = []
        monkeypatch.setattr(ExitBrain, "on_fit_batch_end", lambda brain, *_: updates.append((brain.epoch, brain.step)))
        model, _ = trained(tone_corpus, tmp_path / "run", root, **options)
        assert updates[0] == (2, 3)  # the two updates before are not made again
        assert epochs_logged(tmp_path / "run") == [1, 2, 3]
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())

    def test_training_twice_gives_the_same_weights(self, uninterrupted, tone_corpus, tmp_path, root):
        again, _ = trained(tone_corpus, tmp_path / "again", root, **THREE_EPOCHS)
        assert same_weights(again, uninterrupted) == set(uninterrupted.state_dict())


class TestVariants:
    def test_heads_only_leaves_the_encoder_as_it_was(self, learned, tone_corpus, tmp_path, root):
        start = MultiExit.load(learned[0] / "model")
        options = {**LEARNS, "n_epochs": 1, "dropout": 0.3, "speeds": "[95, 105]", "time_masks": 2}
        model, _ = trained(
            tone_corpus, tmp_path, root, **options, init_from=learned[0] / "model", freeze_encoder="true"
        )
        same = same_weights(model.encoder, start.encoder)
        assert same == set(start.encoder.state_dict())
        assert not torch.equal(model.heads[0].projection.weight, start.heads[0].projection.weight)
        assert not torch.equal(model.heads[1].projection.weight, start.heads[1].projection.weight)

    def test_new_exits_can_be_put_on_a_trained_encoder(self, learned, tone_corpus, tmp_path, root):
        start = MultiExit.load(learned[0] / "model")
        options = {**LEARNS, "n_epochs": 0, "init_from": learned[0] / "model", "exit_layers": "[2]"}
        model, _ = trained(tone_corpus, tmp_path, root, **options)
        assert torch.equal(model.heads[0].projection.weight, start.heads[1].projection.weight)

    def test_subwords(self, tone_corpus, tmp_path, root):
        model, run = trained(tone_corpus, tmp_path, root, tokens="unigram", n_tokens=30, n_epochs=1)
        vocabulary = load_vocabulary(run.folder / "model")
        assert isinstance(vocabulary, SentencePieceVocabulary) and len(vocabulary) == 30
        assert model.config["n_tokens"] == 30 and (run.folder / "model" / "spm.model").is_file()
        loaded = MultiExit.load(run.folder / "model")
        assert loaded.blank_index == vocabulary.blank_index

    def test_only_the_last_exit_learns_when_only_it_has_weight(self, tone_corpus, tmp_path, root):
        options = {"exit_weights": "last", "weight_decay": 0.0}
        model, run = trained(tone_corpus, tmp_path, root, **options, n_epochs=1)
        untrained = build_model(run.config, n_tokens=29, blank_index=0)
        same = same_weights(model.heads, untrained.heads)
        assert same == {name for name in untrained.heads.state_dict() if name.startswith("0.")}

    def test_a_shared_projection_stays_shared(self, tone_corpus, tmp_path, root):
        model, run = trained(tone_corpus, tmp_path, root, share_projection="true", n_epochs=1)
        for one in (model, MultiExit.load(run.folder / "model")):
            assert one.heads[0].projection is one.heads[1].projection

    def test_a_brain_of_ones_own_is_used(self, tone_corpus, tmp_path, root, monkeypatch):
        (tmp_path / "own_brain.py").write_text(
            "from eeasr_modules.training.brain import ExitBrain\n"
            "class OwnBrain(ExitBrain):\n"
            "    seen = []\n"
            "    def compute_objectives(self, predictions, batch, stage):\n"
            "        self.seen.append(stage)\n"
            "        return super().compute_objectives(predictions, batch, stage)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        trained(tone_corpus, tmp_path / "run", root, brain="own_brain.OwnBrain", n_epochs=1)
        assert len(sys.modules["own_brain"].OwnBrain.seen) > 1
        del sys.modules["own_brain"]

    def test_in_half_precision(self, tone_corpus, tmp_path, root):
        model, _ = trained(tone_corpus, tmp_path, root, precision="bf16", n_epochs=1)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_validation_counts_the_errors_that_the_dev_table_holds(tone_corpus, tmp_path, root):
    model, run = trained(tone_corpus, tmp_path, root, n_epochs=1)  # so the model is that of the one checkpoint
    dev, _ = collect_all(run, model)
    logged = re.findall(r"valid WER_\d+: ([^,\s]+)", (tmp_path / "train_log.txt").read_text())
    assert [float(wer) for wer in logged] == pytest.approx(dev.wer_per_exit.tolist(), rel=1e-2)
    (kept,) = (tmp_path / "save").glob("CKPT*/CKPT.yaml")
    chosen_by = float(re.search(r"^WER: (\S+)", kept.read_text(), re.M).group(1))
    assert chosen_by == pytest.approx(dev.wer_per_exit.mean())


def test_the_command_as_a_user_types_it(learned, root):
    folder, argv = learned
    done = subprocess.run(
        [sys.executable, "train.py", *argv, "--test_only"], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for said in (
        str(folder / "report" / "report.md"),
        "at the first exit",
        "at the last",
        "an inner exit beats the last",
        "oracle",
    ):
        assert said in done.stdout
    assert "Traceback" not in done.stderr
