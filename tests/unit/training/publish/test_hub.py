"""Model cards, pushing, loggers and samples."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard

from eeasr_modules.cli import main
from eeasr_modules.training.publish.release import check_card, push, write_card
from eeasr_modules.training.run_folder import Samples, extra_logger


@pytest.fixture
def folder(make_config, root, tmp_path):
    """A model folder whose card is made of the published AN4 numbers."""
    summary = json.loads((root / "results" / "an4" / "summary.json").read_text())
    folder = tmp_path / "an4" / "model"
    folder.mkdir(parents=True)
    write_card(folder, make_config(), summary)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    (folder / "README.md.tmp").write_text("left over")
    return folder


def test_the_card_says_what_was_measured_and_its_metadata_are_the_hubs(folder):
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.license, card.data.language) == ("eeasr", "apache-2.0", "en")
    assert card.data.model_name == "an4"
    results = {one.dataset_name: one.metric_value for one in card.data.eval_results}
    assert results["an4_test"] == 8.15 and results["commonvoice_test"] == 120.22
    assert not [name for name in results if "noise" in name]
    assert "| an4_test | in domain | 130 (10) | 34.67 | 7.89 at 6 | 8.15 [5.99, 10.53] | 7.89 @ 5.37 |" in card.text
    assert check_card(folder).pipeline_tag == "automatic-speech-recognition"


def test_the_card_of_an_excess_names_it_in_place_of_the_budget(folder, make_config, root):
    assert "to a budget of 0.75; `policy.json`" in (folder / "README.md").read_text()
    summary = json.loads((root / "results" / "an4" / "summary.json").read_text())
    write_card(folder, make_config(exit_excess=0.5), summary)
    assert "to 0.5 WER points above the last exit; `policy.json`" in (folder / "README.md").read_text()


def test_a_dry_run_lists_what_would_be_sent_and_nothing_else(folder, capsys):
    assert main(["push", str(folder), "me/small", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "model.safetensors" in said and "README.md\n" in said and "would go to me/small" in said
    assert "tmp" not in said
    assert push(folder, "me/small", dry_run=True).files["model.safetensors"] == 1000


@pytest.mark.parametrize("repo_id", ["small", "me/sm all", "a/b/c"])
def test_a_wrong_id_is_said(folder, repo_id):
    with pytest.raises(ValueError, match="id of the hub"):
        push(folder, repo_id, dry_run=True)


def test_a_folder_without_card_or_metadata_is_refused(folder, tmp_path):
    (folder / "README.md").write_text("# My model\n")
    with pytest.raises(ValueError, match="metadata"):
        push(folder, "me/small", dry_run=True)
    (folder / "README.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"README\.md"):
        push(folder, "me/small", dry_run=True)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        push(tmp_path, "me/small", dry_run=True)


def test_without_a_token_or_network_pushing_is_one_sentence(folder, capsys, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(folder), "me/small"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eeasr: error: ") and said.count("\n") == 1


def test_a_pushed_folder_is_found_by_its_id(root, tmp_path, monkeypatch):
    """In the hub's own cache layout, without a network."""
    shipped = root / "eeasr_modules" / "shipped" / "base"
    commit = "0" * 40
    repo = tmp_path / "hub" / "models--me--small"
    shutil.copytree(shipped, repo / "snapshots" / commit, ignore=shutil.ignore_patterns("tables"))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    from eeasr_modules.runtime import EarlyExitASR

    asr = EarlyExitASR.from_pretrained("me/small")
    layers = json.loads((shipped / "config.json").read_text(encoding="utf-8"))["exit_layers"]
    assert asr.source.exit_layers == layers and len(layers) > 3 and len(asr.source.calibrated) > 1


def test_samples_are_the_first_utterances_by_every_exit(tmp_path):
    samples = Samples(tmp_path / "samples.txt", [2, 4], n=2)
    samples.take(["a", "b", "c"], ["ONE", "TWO", "THREE"], [["ON", "TO", "TREE"], ["ONE", "TWO", "THREE"]])
    samples.write(1)
    samples.take(["a"], ["ONE"], [["ONE"], ["ONE"]])
    samples.write(2)
    assert (tmp_path / "samples.txt").read_text().splitlines() == [
        "epoch 1",
        "  a: ONE",
        "    layer  2  ON",
        "    layer  4  ONE",
        "  b: TWO",
        "    layer  2  TO",
        "    layer  4  TWO",
        "epoch 2",
        "  a: ONE",
        "    layer  2  ONE",
        "    layer  4  ONE",
    ]


def test_tensorboard_gets_every_exit(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = extra_logger("tensorboard", tmp_path)
    for epoch in (1, 2):
        logger.log_stats({"epoch": epoch, "lr": 0.1}, {"loss_2": 3.0 / epoch}, {"WER_2": 50.0 / epoch})
    logger.writer.flush()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [one.value for one in events.Scalars("WER_2/valid")] == [50.0, 25.0]
    assert [one.value for one in events.Scalars("loss_2/train")] == [3.0, 1.5]
    assert extra_logger("none", tmp_path) is None


@pytest.mark.slow
def test_wandb_gets_every_exit_and_stays_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="no wandb: pip install 'eeasr[wandb]'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)  # in a checkout it keeps git's diff too, and a long file has cuts
    logger = extra_logger("wandb", tmp_path)
    for epoch in (1, 2):
        logger.log_stats({"epoch": epoch, "lr": 0.1}, {"loss_2": 3.0 / epoch}, {"WER_2": 50.0 / epoch})
    assert logger.run.settings.mode == "offline"
    logger.run.finish()
    (written,) = tmp_path.rglob("run-*.wandb")
    data, found = written.read_bytes(), []
    for key in re.finditer(rb"\x05(train|valid)\x12.((?:loss|WER)_2)\x82\x01(.)", data, re.S):  # then a number as JSON
        found.append((key[1].decode(), key[2].decode(), float(data[key.end() : key.end() + key[3][0]])))
    assert list(dict.fromkeys(found)) == [  # the summary repeats the latest
        ("train", "loss_2", 3.0),
        ("valid", "WER_2", 50.0),
        ("train", "loss_2", 1.5),
        ("valid", "WER_2", 25.0),
    ]
