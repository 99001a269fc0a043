"""The page on adding an encoder, as written: registered, named by a YAML, trained, saved, loaded, compared, refused."""

import re
import sys

import pytest
import torch
from tiny_run import TINY

import train
from eeasr_modules.cli import main
from eeasr_modules.models.encoders import ENCODERS
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.walk import Walk
from eeasr_modules.runtime.benchmark.ways import Stock
from eeasr_modules.runtime.onnx import export
from eeasr_modules.training.config.config import check, load_yaml

TINY_RUN = {name: TINY[name] for name in ("batch_seconds", "test_splits", "shifts")}
TINY_RUN |= {"n_epochs": 1, "average_checkpoints": 1, "compare_policies": "random", "speeds": [100]}


@pytest.fixture
def page(root, tmp_path, monkeypatch):
    """The page's blocks by language, in a folder like a checkout with `lstm_encoder.py` and `hparams/lstm.yaml`."""
    text = (root / "docs" / "add-an-encoder.md").read_text("utf-8")
    blocks = {name: re.findall(rf"^```{name}\n(.*?)^```", text, re.S | re.M) for name in ("python", "yaml")}
    (tmp_path / "lstm_encoder.py").write_text(blocks["python"][0])
    (tmp_path / "hparams").mkdir()
    for path in [*root.glob("hparams/*.yaml"), *root.glob("hparams/shared")]:
        (tmp_path / "hparams" / path.name).symlink_to(path)
    (tmp_path / "hparams" / "lstm.yaml").write_text(blocks["yaml"][0])
    (tmp_path / "eeasr_modules").symlink_to(root / "eeasr_modules")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield blocks
    sys.modules.pop("lstm_encoder", None)


def test_without_its_entry_the_yaml_is_refused(page, root):
    with pytest.raises(ValueError, match="encoder must be one of conformer, huggingface, got 'lstm'"):
        check(load_yaml("hparams/lstm.yaml"), recipes=root / "recipes")


def test_the_entry_brings_keys_defaults_and_checks(page, root):
    exec(page["python"][0], {})
    values = load_yaml("hparams/lstm.yaml")
    config = check(values, recipes=root / "recipes")
    assert not {"n_heads", "kernel_size"} & set(values)  # the Conformer's, from the YAML that is included
    assert config.encoder_settings == {"encoder": "lstm", "n_layers": 3, "dim": 64, "bands": 20, "sample_rate": 16000}
    for change, says in [
        ({"dim": 33}, "dim must be even for encoder lstm, got 33"),
        ({"bands": 0}, "bands must be at least 1, got 0"),
        ({"n_heads": 4}, "n_heads belongs to encoder conformer, this run has encoder lstm"),
        ({"downsample": "average"}, "downsample: average is not for encoder lstm"),
        ({"freeze_encoder": True}, "freeze_encoder: true trains heads only and needs init_from"),
    ]:
        with pytest.raises(ValueError, match=says):
            check({**values, **change}, recipes=root / "recipes")
    with pytest.raises(ValueError, match="bands belongs to encoder lstm, this run has encoder conformer"):
        check({**load_yaml("hparams/an4.yaml"), "bands": 20}, recipes=root / "recipes")


def test_a_model_is_trained_saved_loaded_and_walks_as_its_stock_forward(page, tone_corpus, monkeypatch, capsys):
    tiny = [part for name, value in TINY_RUN.items() for part in (f"--{name}", str(value))]
    whole, codes = train.main, []
    argv = ["--data_folder", str(tone_corpus), "--noprogressbar", *tiny]
    monkeypatch.setattr(train, "main", lambda given: codes.append(whole([*given, *argv])))
    exec(page["python"][2], {})
    assert codes == [0] and capsys.readouterr().out.splitlines()[-1] == "2"  # the exit taken
    model = MultiExit.load("runs/lstm/model")
    assert type(model.encoder).__module__ == "lstm_encoder" and model.exit_layers == [1, 2, 3]
    wavs, n_samples = torch.randn(2, 16000), torch.tensor([16000, 9600])
    wavs[1, 9600:] = 0
    with torch.no_grad():
        for layer in (1, 2, 3):
            stock, n_frames = Stock(model, n_layers=layer)(wavs, n_samples)
            ours = Walk(model.encoder, wavs, n_samples).advance(layer)
            for row, n in enumerate(n_frames.tolist()):
                torch.testing.assert_close(ours[row, :n], stock[row, :n], rtol=1e-4, atol=1e-5)
    again = [*argv, "--bands", "24"]  # goes on in the run folder of another shape
    assert whole(["hparams/lstm.yaml", *again]) == 2
    assert "a run with bands 20, this one has 24" in capsys.readouterr().err
    short = ["--policies", "static(2)", "--repeats", "1", "--batch", "1", "--limit", "1", "--seconds", "1"]
    assert main(["benchmark", "runs/lstm/model", *short]) == 0
    assert "| full depth, torch |" in capsys.readouterr().out
    monkeypatch.setattr(export, "_check_packages", lambda: None)
    with pytest.raises(ValueError, match="stands on an encoder of kind lstm, which is not exported"):
        export.export_model("runs/lstm/model", "exported", policy="static(2)")
    ENCODERS.pop("lstm")
    with pytest.raises(ValueError, match="one of conformer, huggingface, got 'lstm'; import first what registers"):
        MultiExit.load("runs/lstm/model")
