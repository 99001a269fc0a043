"""`eeasr accelerate` through files: tiny saved checkpoints, and the shipped model on real speech."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_checkpoint import LETTERS, save_checkpoint
from transformers import AutoModelForCTC

from eeasr_modules.cli import main
from eeasr_modules.data.manifest import read_manifest
from eeasr_modules.data.text import load_vocabulary
from eeasr_modules.exits import read_table
from eeasr_modules.exits.policies.files import read_policies
from eeasr_modules.models.decoding.ctc import greedy_decode
from eeasr_modules.models.folder import model_digest
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.training.pretrained import take_over

SHIPPED = Path(__file__).resolve().parents[2] / "eeasr_modules/shipped/base"


def checkpoint(folder, kind):
    """A tiny CTC checkpoint that says something, and whose layers after the second change nothing."""
    save_checkpoint(folder, kind=kind, n_layers=4, ctc=True)
    model = AutoModelForCTC.from_pretrained(folder).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(100.0)
        for layer in getattr(model, kind).encoder.layers[2:]:
            for linear in (layer.attention.out_proj, layer.feed_forward.output_dense):
                linear.weight.zero_()
                linear.bias.zero_()
        said = model(torch.randn(1, 32000, generator=torch.Generator().manual_seed(0))).logits.argmax(-1)[0]
        often = int(torch.bincount(said[said > 4]).argmax())  # becomes the space, so that there are words
        model.lm_head.weight[[4, often]] = model.lm_head.weight[[often, 4]]
    model.save_pretrained(folder)
    return folder


def noises(folder, n):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        wave = rng.normal(size=rng.integers(14000, 18000)) * np.linspace(0.02, 0.3, 1)
        soundfile.write(folder / f"talk{i:02d}.wav", wave.clip(-1, 1), 16000)
    return folder


def stock_log_probs(folder, path):
    samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
    normal = (samples - samples.mean()) / torch.sqrt(samples.var(correction=0) + 1e-7)
    with torch.no_grad():
        return torch.log_softmax(AutoModelForCTC.from_pretrained(folder).eval()(normal).logits, -1)


def words(log_probs):
    (tokens,) = greedy_decode(log_probs, torch.tensor([log_probs.shape[1]]), blank_index=0)
    return "".join(LETTERS[t] for t in tokens)


@pytest.mark.parametrize("kind", ["wav2vec2", pytest.param("hubert", marks=pytest.mark.slow)])
def test_the_last_exit_is_stock_and_what_is_certified_leaves_early(tmp_path, capsys, kind):
    source, recordings = checkpoint(tmp_path / kind, kind), noises(tmp_path / "recordings", 72)
    (recordings / "empty.wav").write_bytes(b"")
    (recordings / "broken.wav").write_text("no audio")
    out = tmp_path / "fast"
    argv = ["accelerate", str(source), str(recordings), "--changed", "20", "--epochs", "1", "-o", str(out)]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "GB on disk, about" in said.err and "min of heads" in said.err
    assert "2 recordings left out" in said.err and "empty.wav" in said.err and "broken.wav" in said.err
    found = json.loads((out / "accelerate.json").read_text())
    assert said.out.strip().splitlines()[-1] == found["sentence"]
    assert found["certified"] and found["changed"] <= 20 and found["saved"] > 0.05
    parts = [{row.wav for row in read_manifest(out / "work" / f"{name}.csv")} for name in found["speakers"]]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 72
    (entry,) = read_policies(out / "policy.json", model_digest=model_digest(out))
    assert entry.promise["loss"] == "changed" and entry.promise["n_blocks"] == found["speakers"]["calibrate"]

    model = MultiExit.load(out)
    early, full = EarlyExitASR.from_pretrained(out), EarlyExitASR.from_pretrained(out, policy="static(4)")
    holdout = [recordings / row.wav.split("/")[-1] for row in read_manifest(out / "work" / "holdout.csv")]
    for path in holdout[:4]:
        stock = stock_log_probs(source, path)
        wav = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        ours = [*model.exits(wav, torch.tensor([wav.shape[1]]))][-1].log_probs
        assert torch.allclose(ours, stock, atol=1e-5)
        spelled = words(stock).replace("|", " ")
        for special in ("<s>", "</s>", "<unk>"):
            spelled = spelled.replace(special, "")
        assert full.transcribe(path).text.split() == spelled.split()
        assert early.transcribe(path).layers_run < 4

    before = (out / "model.safetensors").stat().st_mtime_ns
    assert main([*argv[:4], "30", *argv[5:]]) == 0  # another promise: the heads stay
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert main([*argv, "--seed", "1"]) == 2
    assert "holds a run of another checkpoint, recordings, seed or epochs" in capsys.readouterr().err


def test_a_stopped_training_goes_on_and_a_model_folder_is_taken_too(tmp_path, capsys, monkeypatch):
    from eeasr_modules.training import accelerate

    source, recordings = checkpoint(tmp_path / "hubert", "hubert"), noises(tmp_path / "recordings", 16)
    argv = ["accelerate", str(source), str(recordings), "--epochs", "2", "-o"]
    assert main([*argv, str(tmp_path / "whole")]) == 0
    assert "cannot be certified with so few" in capsys.readouterr().out

    def stopped(*_, **__):
        raise KeyboardInterrupt

    whole = accelerate.write_aside
    monkeypatch.setattr(
        accelerate, "write_aside", lambda path, data: (whole(path, data), stopped() if path.name == "heads.pt" else 0)
    )
    assert main([*argv, str(tmp_path / "again")]) == 130
    monkeypatch.undo()
    assert main([*argv, str(tmp_path / "again")]) == 0
    one, other = (MultiExit.load(tmp_path / name).state_dict() for name in ("whole", "again"))
    assert all(torch.allclose(value, other[name], atol=1e-6) for name, value in one.items())

    argv[1] = str(tmp_path / "whole")
    assert main([*argv, str(tmp_path / "twice")]) == 0
    twice = MultiExit.load(tmp_path / "twice").state_dict()
    frozen = [name for name in one if name.startswith(("encoder.", "heads.3."))]
    assert frozen and all(torch.equal(one[name], twice[name]) for name in frozen)
    assert any(not torch.equal(one[name], twice[name]) for name in one if name.startswith("heads.0."))


def test_too_few_recordings_are_one_sentence(tmp_path, capsys):
    source, recordings = checkpoint(tmp_path / "hubert", "hubert"), noises(tmp_path / "recordings", 3)
    assert main(["accelerate", str(source), str(recordings), "-o", str(tmp_path / "x")]) == 2
    assert "expected recordings of at least 8 speakers (or so many recordings), got 3" in capsys.readouterr().err


def last_exit_alone(folder):
    """The shipped model as a fine-tuned checkpoint comes: its encoder and the last head."""
    shipped = MultiExit.load(SHIPPED)
    model = MultiExit({**shipped.config, "exit_layers": [shipped.encoder.n_layers]})
    take_over(shipped, model, folder=SHIPPED)
    model.save(folder)
    load_vocabulary(SHIPPED).save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_fine_tuned_encoder_with_one_head_gets_inner_exits_and_keeps_its_words(
    shared_data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("eeasr_modules.training.accelerate.TIMED_S", 20.0)
    recordings = sorted((shared_data / "unlabelled" / "librispeech").glob("*.opus"))[::6]
    (tmp_path / "talks.txt").write_text("\n".join(map(str, recordings)))
    given, out = last_exit_alone(tmp_path / "alone"), tmp_path / "fast"
    argv = ["accelerate", str(given), f"{tmp_path}/talks.txt", "--changed", "15", "--epochs", "2", "-o", str(out)]
    assert main(argv) == 0
    result = json.loads((out / "accelerate.json").read_text())
    assert capsys.readouterr().out.strip().splitlines()[-1] == result["sentence"]
    holdout = read_table(out / "work" / "holdout.parquet")
    assert holdout.exit_layers.tolist() == [2, 3, 4, 5, 6, 7, 8] and result["speakers"]["holdout"] == len(
        holdout.utt_ids
    )
    stock = EarlyExitASR.from_pretrained(given, front_end="stock", device="cpu").transcribe([*holdout.utt_ids])
    assert [one.text for one in stock] == holdout.hypotheses[:, -1].tolist()


@pytest.mark.slow
@pytest.mark.shared_data
def test_real_speech_ends_in_a_sentence_and_its_last_exit_is_the_shipped_one(shared_data, tmp_path, capsys):
    found = sorted((shared_data / "unlabelled" / "commonvoice").glob("*.opus"))[::18][:160]
    (tmp_path / "talks.txt").write_text("\n".join(map(str, found)))
    out = tmp_path / "fast"
    shipped = str(SHIPPED)
    assert main(["accelerate", shipped, str(tmp_path / "talks.txt"), "--changed", "5", "-o", str(out)]) == 0
    result = json.loads((out / "accelerate.json").read_text())
    assert capsys.readouterr().out.strip().splitlines()[-1] == result["sentence"]
    hours = sum(row.duration_s for row in read_manifest(out / "work" / "fit.csv")) / 3600
    assert result["heads_s"] < 600 * max(hours, 0.1)
    before, after = (EarlyExitASR.from_pretrained(name, policy="static(8)") for name in (shipped, out))
    assert [one.text for one in before.transcribe(found[:5])] == [one.text for one in after.transcribe(found[:5])]
