"""The policy of docs/add-a-policy.md, as the page has it in `plateau.py`, wherever policies go."""

import json
import os
import re
import sys

import numpy as np
import pytest
import soundfile
import torch
from sentences import sentence_table
from tiny_run import YAML

from eeasr_modules.cli import main
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits import (
    POLICIES,
    Policy,
    choice_point,
    choose,
    parse_policy,
    policy_curve,
    read_policies,
    register,
    replay,
    write_policies,
    write_table,
)
from eeasr_modules.models import MultiExit
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.runtime.onnx.loop import OnnxASR, check_computed
from eeasr_modules.training.config.config import check, load_yaml

ENCODER = {"encoder": "conformer", "n_layers": 3, "dim": 16, "n_heads": 2, "ffn_dim": 32, "n_mels": 20}


@pytest.fixture
def plateau(root, tmp_path, monkeypatch):
    """The page's first Python block as a file that EEASR_POLICIES names; nothing has imported it yet."""
    page = (root / "docs" / "add-a-policy.md").read_text(encoding="utf-8")
    path = tmp_path / "plateau.py"
    path.write_text(re.search(r"^```python\n(.*?)^```", page, re.S | re.M)[1], encoding="utf-8")
    monkeypatch.setenv("EEASR_POLICIES", str(path))
    known, modules = dict(POLICIES), set(sys.modules)
    yield path
    POLICIES.clear()
    POLICIES.update(known)
    for name in [one for one in set(sys.modules) - modules if one.endswith(".py")]:
        del sys.modules[name]


@pytest.fixture
def tables():
    """Dev and test; entropy goes up and down over the exits."""
    return sentence_table(n=80, seed=1), sentence_table(n=60, seed=2, name="test")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = MultiExit({"encoder": ENCODER, "exit_layers": [1, 2, 3], "n_tokens": 29, "blank_index": 0}).eval()
    for head in model.heads:
        torch.nn.init.normal_(head.projection.weight, std=0.5)
    model.save(folder)
    CharVocabulary().save(folder)
    return folder


def stopped_by_hand(table, threshold):
    """The rule in words, utterance by utterance."""
    entropy, last = table.signal("entropy"), table.n_exits - 1
    fell = [[row[k - 1] - row[k] if k else np.inf for k in range(last)] for row in entropy.astype(float)]
    return [next((k for k, one in enumerate(row) if one <= threshold), last) for row in fell]


@pytest.mark.usefixtures("plateau")
def test_texts_and_a_yaml_take_it_and_refuse_it_written_wrongly(root):
    for text in ("plateau", "plateau(0.02)", "between(plateau)", "any(plateau(0), static(4))"):
        assert str(parse_policy(text)) == text
    values = load_yaml(YAML)
    recipes = root / "recipes"
    config = check({**values, "exit_policy": "plateau", "compare_policies": "plateau(0.1)"}, recipes=recipes)
    assert config.exit_policy == "plateau"
    with pytest.raises(
        ValueError, match=r"plateau must be written plateau\(threshold\), or plateau to have it calib.*2"
    ):
        check({**values, "exit_policy": "plateau(1, 2)"}, recipes=recipes)


def test_without_the_variable_it_is_unknown_and_the_variable_is_named(monkeypatch):
    monkeypatch.delenv("EEASR_POLICIES", raising=False)
    with pytest.raises(ValueError, match=r"unknown policy 'plateau'.*EEASR_POLICIES may name a file"):
        parse_policy("plateau(0.1)")


@pytest.mark.parametrize("named", ["nowhere.py", "nowhere", "no.where"])
def test_a_file_or_module_that_is_not_there_is_named_in_one_sentence(monkeypatch, model_folder, capsys, named):
    monkeypatch.setenv("EEASR_POLICIES", named)
    assert main(["transcribe", str(model_folder), "a.wav", "--policy", "plateau(0.1)"]) == 2
    said = capsys.readouterr().err
    assert f"EEASR_POLICIES names {named}, which is neither" in said and said.count("\n") == 1


@pytest.mark.usefixtures("plateau")
def test_an_installed_module_registers_its_own(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EEASR_POLICIES", "plateau")
    assert str(parse_policy("plateau(0.1)")) == "plateau(0.1)"
    assert type(parse_policy("plateau")).__module__ == "plateau"
    monkeypatch.delitem(sys.modules, "plateau")


@pytest.mark.usefixtures("plateau")
@pytest.mark.parametrize("text", ["plateau", "between(plateau)"])
def test_thresholds_are_swept_over_the_fall_of_entropy_and_not_over_entropy(tables, text):
    dev, _ = tables
    curve = policy_curve(parse_policy(text), dev, n_thresholds=20)
    leaves = [getattr(one, "policy", one) for one in curve.policies]
    fell = -np.diff(dev.signal("entropy")[:, :-1], axis=1)
    assert fell.min() < 0  # where entropy itself has no values
    thresholds = [leaf.threshold for leaf in leaves]
    assert min(thresholds) < fell.min() < fell.max() < max(thresholds) < dev.signal("entropy").max() + 10
    for leaf in leaves[:: max(1, len(leaves) // 5)]:
        assert replay(leaf, dev).tolist() == stopped_by_hand(dev, leaf.threshold)
    for i in range(0, len(curve.policies), max(1, len(curve.policies) // 20)):
        assert choice_point(curve.policies[i], dev) == pytest.approx((curve.cost[i], curve.wer[i]))


@pytest.mark.usefixtures("plateau")
def test_analyze_calibrates_it_on_dev_to_the_budget(tables, tmp_path):
    for table, name in zip(tables, ("dev", "test")):
        write_table(table, tmp_path / f"{name}.parquet")
    command = ["analyze", tmp_path / "test.parquet", "--dev", tmp_path / "dev.parquet", "--budget", "0.75"]
    assert main([*map(str, command), "--policies", "entropy, plateau", "--out", str(tmp_path / "report")]) == 0
    summary = json.loads((tmp_path / "report" / "summary.json").read_text(encoding="utf-8"))
    (found,) = summary["sets"].values()
    chosen = choose(tables[0], parse_policy("plateau"), budget=0.75).policy
    shown = found["policies"]["plateau"]
    assert shown["calibrated"] == str(chosen)
    exits = stopped_by_hand(tables[1], chosen.threshold)
    assert shown["at_budget"]["exits_chosen"] == np.bincount(exits, minlength=4).tolist()
    assert len(set(exits)) > 1
    thresholds = [parse_policy(text).threshold for text in shown["curve_texts"]]
    assert min(thresholds) < -0.1 < 0 < max(thresholds)  # falls of entropy, which itself is nowhere below 0


@pytest.mark.usefixtures("plateau")
def test_it_transcribes_by_its_text_and_from_a_policy_file_as_by_hand(model_folder, tables, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal((4, 12000))
    for i, one in enumerate(noise):
        soundfile.write(tmp_path / f"r{i}.wav", one, 16000)
    paths = [str(tmp_path / f"r{i}.wav") for i in range(4)]
    asked, kind = [], type(parse_policy("plateau"))
    noting = type(
        "Noting",
        (kind,),
        {"step": lambda self, signals, state: asked.append(signals["entropy"]) or (state[:, 0] < 0, state)},
    )
    asr = EarlyExitASR.from_pretrained(model_folder, policy="static(3)", device="cpu")
    asr = EarlyExitASR(asr.source, policy=noting(0.0), device="cpu")
    assert [asr.transcribe(path).exit_layer for path in paths] == [3] * 4
    entropy = np.reshape(asked, (4, 2))
    fell = entropy[:, 0] - entropy[:, 1]
    middle = float(np.sort(fell)[1:3].mean())
    by_hand = np.where(fell <= middle, 2, 3).tolist()
    assert sorted(by_hand) == [2, 2, 3, 3]
    for number, (text, layers) in enumerate(
        {f"plateau({middle})": by_hand, "plateau(1e9)": [2] * 4, "between(1, 2, plateau(-1e9))": [2] * 4}.items()
    ):
        out = tmp_path / f"out{number}.jsonl"
        assert main(["transcribe", str(model_folder), *paths, "--policy", text, "-o", str(out)]) == 0
        assert [json.loads(line)["exit_layer"] for line in out.read_text().splitlines()] == layers
        asr = EarlyExitASR.from_pretrained(model_folder, policy=text, device="cpu")
        assert [asr.transcribe(path).exit_layer for path in paths] == layers
    calibrated = choose(tables[0], parse_policy("plateau"), budget=0.75)
    write_policies(tmp_path / "policy.json", [calibrated])
    assert read_policies(tmp_path / "policy.json")[0].policy == calibrated.policy


@pytest.fixture
def other(plateau, monkeypatch):
    """The same rule on a signal that is of beams alone, as `other`."""
    path = plateau.with_name("other.py")
    source = plateau.read_text(encoding="utf-8").replace('"entropy"', '"nbest_posterior"')
    path.write_text(source.replace("plateau", "other").replace("Plateau", "Other"), encoding="utf-8")
    monkeypatch.setenv("EEASR_POLICIES", f"{plateau}{os.pathsep}{path}")


@pytest.mark.usefixtures("other")
def test_the_exported_loop_refuses_in_one_sentence_a_signal_that_it_lacks(model_folder):
    check_computed(parse_policy("any(plateau(0.1), entropy(0.1))"))
    with pytest.raises(
        ValueError, match=r"^other\(0.1\) reads the signal 'nbest_posterior', which the exported loop does"
    ):
        check_computed(parse_policy("other(0.1)"))


@pytest.mark.usefixtures("other")
def test_export_takes_it_or_says_in_one_sentence_why_not(model_folder, tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert main(["export", str(model_folder), "-o", str(tmp_path / "onnx"), "--policy", "plateau(1e9)"]) == 0
    wav = (0.1 * np.random.default_rng(0).standard_normal(12000)).astype(np.float32)
    assert OnnxASR(tmp_path / "onnx").transcribe(wav).exit_layer == 2
    capsys.readouterr()
    assert main(["export", str(model_folder), "-o", str(tmp_path / "no"), "--policy", "other(0.1)"]) == 2
    said = capsys.readouterr().err
    assert "which the exported loop does not compute" in said and said.count("\n") == 1
    assert not (tmp_path / "no").exists()


@pytest.mark.usefixtures("plateau")
def test_scores_that_stop_elsewhere_than_step_are_refused(tables, monkeypatch):
    policy = parse_policy("plateau")
    monkeypatch.setattr(type(policy), "stopping_scores", lambda self, signals: signals["entropy"])
    with pytest.raises(
        ValueError, match=r"stopping_scores of plateau must stop where its step does.* of 80 utterances"
    ):
        choose(tables[0], policy, budget=0.75)
    monkeypatch.setattr(type(policy), "stopping_scores", Policy.stopping_scores)
    with pytest.raises(ValueError, match="plateau cannot be calibrated: give its numbers"):
        choose(tables[0], policy, budget=0.75)


@pytest.mark.usefixtures("plateau")
def test_what_is_no_policy_or_has_a_taken_name_is_not_registered():
    kind = type(parse_policy("plateau"))
    register(kind)  # a file may be run twice
    for wrong in (
        type("Entropy", (kind,), {"name": "entropy"}),
        type("Other", (kind,), {}),
        type("P", (kind,), {"name": "paper"}),
    ):
        with pytest.raises(ValueError, match="is taken"):
            register(wrong)
    for wrong in (object, parse_policy("plateau"), type("Spaced", (kind,), {"name": "my rule"})):
        with pytest.raises(ValueError, match="expected a class that derives from Policy"):
            register(wrong)
