"""Stock `AutoModelForCTC` and `pipeline` on saved folders: the same words, leaving at the same exits."""

import builtins
import json
import shutil

import numpy as np
import pytest
import torch
from talkative import ENCODER
from transformers import AutoModelForCTC, AutoProcessor, AutoTokenizer, pipeline
from transformers.dynamic_module_utils import check_imports

from eeasr_modules.cli import main
from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.text import CharVocabulary, train_sentencepiece
from eeasr_modules.models import MultiExit
from eeasr_modules.models.folder import model_digest, write_transformers_files
from eeasr_modules.runtime import EarlyExitASR

STORM = "eeasr_modules/demo/examples/storm.opus"


@pytest.fixture(scope="module")
def saved(model_folder, tmp_path_factory):
    """The small model, saved for transformers from a folder that was not. Shared: read only."""
    folder = tmp_path_factory.mktemp("saved")
    EarlyExitASR.from_pretrained(model_folder, device="cpu").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shipped(root, tmp_path_factory):
    """A copy of the model that ships. Shared: read only."""
    folder = tmp_path_factory.mktemp("shipped") / "base"
    shutil.copytree(root / "eeasr_modules/shipped/base", folder)
    return folder


def recogniser(folder, **options):
    return pipeline(
        "automatic-speech-recognition", model=str(folder), trust_remote_code=True, device="cpu", model_kwargs=options
    )


def arrays(wavs):
    return [wav.numpy() for wav in wavs]


def test_saving_changes_neither_weights_nor_digest_and_old_folders_load_as_before(model_folder, saved, wavs):
    assert model_digest(saved) == model_digest(model_folder)
    assert json.loads((saved / "config.json").read_text())["model_type"] == "eeasr"
    old, new = (EarlyExitASR.from_pretrained(one, device="cpu") for one in (model_folder, saved))
    texts = [[one.text for one in asr.transcribe(arrays(wavs[:8]))] for asr in (old, new)]
    assert texts[0] == texts[1] and any(texts[0])


@pytest.mark.parametrize("options", [{}, {"exit_policy": "entropy", "budget": 0.6}, {"exit_policy": "static(3)"}])
def test_the_model_takes_the_exits_of_our_recogniser_and_gives_their_logits(saved, model, wavs, options):
    ours = dict(zip(("policy", "budget"), (options.get("exit_policy"), options.get("budget")), strict=True))
    expected = EarlyExitASR.from_pretrained(saved, device="cpu", front_end="stock", **ours).transcribe(arrays(wavs))
    stock = AutoModelForCTC.from_pretrained(saved, trust_remote_code=True, **options)
    processor = AutoProcessor.from_pretrained(saved, trust_remote_code=True)
    heard = stock(**processor(arrays(wavs), sampling_rate=16000, padding=True, return_tensors="pt"))
    layers = heard.exit_layers.tolist()
    assert layers == [one.exit_layer for one in expected]
    assert len(set(layers)) > 1 or options
    texts = processor.batch_decode(heard.logits.argmax(dim=-1))
    assert [text.split() for text in texts] == [one.text.split() for one in expected] and any(texts)
    short = min(range(len(wavs)), key=lambda i: len(wavs[i]))
    with torch.inference_mode():
        exits = {e.exit_layer: e.log_probs for e in model.exits(wavs[short][None], torch.tensor([len(wavs[short])]))}
    alone = exits[layers[short]][0]
    torch.testing.assert_close(heard.logits[short, : len(alone)], alone, atol=2e-3, rtol=0)
    assert heard.logits[short, len(alone) :].argmax(dim=-1).eq(model.blank_index).all()


def test_a_batch_may_have_its_own_policy(saved, wavs):
    stock = AutoModelForCTC.from_pretrained(saved, trust_remote_code=True)
    for layer in (1, 3):
        assert stock(wavs[0][None], exit_policy=f"static({layer})").exit_layers.tolist() == [layer]


def test_the_pipeline_says_the_same_words_in_batches_and_when(saved, wavs):
    asr = EarlyExitASR.from_pretrained(saved, device="cpu", policy="entropy", budget=0.6)
    pipe = recogniser(saved, exit_policy="entropy", budget=0.6)
    found = pipe(arrays(wavs[:9]), batch_size=4, return_timestamps="word")
    for one, expected in zip(found, asr.transcribe(arrays(wavs[:9])), strict=True):
        assert one["text"].split() == expected.text.split()
        assert [chunk["text"] for chunk in one["chunks"]] == [word.text for word in expected.words]
        theirs = [second for chunk in one["chunks"] for second in chunk["timestamp"]]
        ours = [second for word in expected.words for second in (word.start_s, word.end_s)]
        np.testing.assert_allclose(theirs, ours, atol=0.02)


def test_config_json_may_hold_policy_and_budget_for_everybody(saved, wavs, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "exit_policy": "static(2)"}))
    assert model_digest(folder) == model_digest(saved)
    assert EarlyExitASR.from_pretrained(folder, device="cpu").transcribe(wavs[0]).exit_layer == 2
    assert AutoModelForCTC.from_pretrained(folder, trust_remote_code=True)(wavs[0][None]).exit_layers.tolist() == [2]
    other = AutoModelForCTC.from_pretrained(folder, trust_remote_code=True, exit_policy="static(3)")
    assert other(wavs[0][None]).exit_layers.tolist() == [3]
    other.save_pretrained(tmp_path / "other")
    assert EarlyExitASR.from_pretrained(tmp_path / "other", device="cpu").transcribe(wavs[0]).exit_layer == 3


def test_the_shipped_model_hears_the_same_in_stock_transformers(root, shipped):
    storm = str(root / STORM)
    asr = EarlyExitASR.from_pretrained(shipped, policy="entropy", budget=0.75, device="cpu")
    expected = asr.transcribe(storm)
    wav = read_audio(storm, sample_rate=16000)
    pipe = recogniser(shipped, exit_policy="entropy", budget=0.75)
    found = pipe(wav.numpy(), return_timestamps="word")
    assert found["text"].split() == expected.text.split() and len(expected.words) > 2
    assert found["chunks"][-1]["timestamp"][1] == pytest.approx(expected.words[-1].end_s, abs=0.03)
    long = pipe(np.tile(wav.numpy(), 4), chunk_length_s=len(wav) / 16000 * 1.5, return_timestamps="word")
    assert len(long["text"].split()) >= 3 * len(expected.words)
    assert long["chunks"][-1]["timestamp"][1] == pytest.approx(4 * len(wav) / 16000, abs=1.0)


@pytest.mark.parametrize("kind", ["pieces", "tags"])
def test_other_vocabularies_are_spelled_as_ours_spells_them(tmp_path, wavs, kind):
    if kind == "pieces":
        vocabulary = train_sentencepiece(["THE STORM ROSE OVER THE SEA", "A CALM SEA AGAIN"] * 9, tmp_path, size=20)
    else:
        vocabulary = CharVocabulary(["<blank>", "<eng>", "|", *"ABCDE", "<unk>"])
        vocabulary.save(tmp_path)
    torch.manual_seed(0)
    model = MultiExit(
        {"encoder": ENCODER, "exit_layers": [2, 5], "n_tokens": len(vocabulary), "blank_index": 0, "head": "linear"}
    )
    for head in model.heads:
        torch.nn.init.normal_(head.projection.weight, std=0.5)
    model.save(tmp_path)
    write_transformers_files(tmp_path, vocabulary)
    expected = EarlyExitASR.from_pretrained(tmp_path, device="cpu").transcribe(arrays(wavs[:4]))
    found = recogniser(tmp_path)(arrays(wavs[:4]), return_timestamps="word")
    assert [one["text"] for one in found] == [one.text for one in expected] and any(one.text for one in expected)
    assert [[w["text"] for w in one["chunks"]] for one in found] == [[w.text for w in one.words] for one in expected]
    assert type(AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)).__name__ == "SpelledTokenizer"


def test_without_the_package_one_sentence_says_so(saved, monkeypatch):
    path = saved / "modeling_eeasr.py"
    assert "eeasr_modules" not in check_imports(path)  # else transformers would ask for a package of that name
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("eeasr_modules"):
            raise ModuleNotFoundError("No module named 'eeasr_modules'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"this model leaves early by the package eeasr.*pip install eeasr"):
        exec(compile(path.read_text(), str(path), "exec"), {"__name__": "remote"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exit_policy": "entropie"}, "unknown policy 'entropie'"),
        ({"budget": 40.0}, "a budget must be above 0 and at most 5"),
        ({"exit_polcy": "entropy"}, "takes exit_policy, budget.*got exit_polcy"),
        ({"dtype": "float64"}, "dtype must be float32, bfloat16 or float16"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(saved, options, says):
    with pytest.raises(ValueError, match=says):
        AutoModelForCTC.from_pretrained(saved, trust_remote_code=True, **options)


def test_push_writes_what_an_old_folder_lacks(model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlibrary_name: eeasr\n---\n")
    assert main(["push", str(folder), "me/small", "--dry-run"]) == 0
    assert "modeling_eeasr.py" in capsys.readouterr().out and (folder / "tokenizer_config.json").is_file()
