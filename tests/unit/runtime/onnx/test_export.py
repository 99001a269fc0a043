"""The exported graphs and the loop over them against the model itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import eeasr_modules
from eeasr_modules.cli import main
from eeasr_modules.data.audio import read_audio
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits import parse_policy
from eeasr_modules.models import MultiExit
from eeasr_modules.runtime import EarlyExitASR

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from eeasr_modules.runtime.onnx.export import export_model
from eeasr_modules.runtime.onnx.loop import OnnxASR, _run, check_computed

TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
TINY |= {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
SHIPPED = Path(eeasr_modules.__file__).parent / "shipped/base"
CONFORMER = {"encoder": "conformer", "n_layers": 3, "dim": 16, "n_heads": 2, "ffn_dim": 32, "n_mels": 20}


def checkpoint(kind: str, **shape) -> dict:
    return {"encoder": {"encoder": "huggingface", "hf_config": {"model_type": kind, **TINY, **shape}}}


def supervised(kind: str, **shape) -> dict:
    return {"encoder": {"encoder": "huggingface", "hf_config": {"model_type": kind, **shape}}}


MODELS = {
    "conformer": {"encoder": CONFORMER},
    "conformer_attention_heads": {"encoder": CONFORMER, "head": "attention", "head_dim": 16, "last_norm": True},
    "group_norm": checkpoint("wav2vec2"),
    "layer_norm": checkpoint("hubert", **LAYER_NORM),
    "wavlm": checkpoint("wavlm"),
    "data2vec": checkpoint("data2vec-audio", conv_pos_kernel_size=5),
    "unispeech": checkpoint("unispeech", **LAYER_NORM),
    "unispeech_sat": checkpoint("unispeech-sat"),
    "whisper": supervised("whisper", d_model=16, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=32),
    "moonshine": supervised(
        "moonshine", hidden_size=16, intermediate_size=32, encoder_num_hidden_layers=3, encoder_num_attention_heads=2
    ),
}


def noises(n: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(3)
    lengths = [300, *rng.integers(4800, 25600, n - 1).tolist()]
    return [torch.from_numpy((0.1 * rng.standard_normal(length)).astype(np.float32)) for length in lengths]


def save_model(folder, **config):
    torch.manual_seed(0)
    model = MultiExit({"exit_layers": [1, 3], "n_tokens": 29, "blank_index": 0, **config}).eval()
    for head in model.heads:
        torch.nn.init.normal_(head.projection.weight, std=0.5)
    model.save(folder)
    CharVocabulary().save(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(MODELS))
def pair(request, tmp_path_factory):
    """A model folder and its export."""
    folder = tmp_path_factory.mktemp(request.param)
    save_model(folder / "model", **MODELS[request.param])
    export_model(folder / "model", folder / "onnx", int8=True)
    return folder / "model", folder / "onnx"


def test_graphs_give_the_log_probs_of_the_model_at_any_length(pair):
    model, loop = MultiExit.load(pair[0]), OnnxASR(pair[1])
    for wav in noises(4):
        hidden = _run(loop._front_end, loop._prepared(wav.numpy()))
        with torch.inference_mode():
            expected = model(wav[None], torch.tensor([len(wav)]))[0]
        for group, head, one in zip(loop._groups, loop._heads, expected, strict=True):
            hidden = _run(group, hidden)
            np.testing.assert_allclose(_run(head, hidden), one.numpy(), atol=1e-4)


@pytest.mark.parametrize("pair", ["conformer", "wavlm"], indirect=True)
@pytest.mark.parametrize("name", ["entropy", "entropy_token", "confidence", "margin", "patience", "similarity"])
def test_the_loop_leaves_where_the_model_leaves_and_says_the_same(pair, name):
    text = {"patience": "patience(1, 0.8)", "confidence": "confidence(0.4)", "margin": "margin(0.2)"}.get(name)
    text = text or {"similarity": "similarity(0.9)", "entropy_token": "entropy(1.9)"}.get(name, "entropy(2.2)")
    loop, asr = OnnxASR(pair[1], policy=text), EarlyExitASR.from_pretrained(pair[0], policy=text, device="cpu")
    wavs = noises(8)
    expected = asr.engine.run_all(wavs, utt_ids=[str(i) for i in range(8)], batch_seconds=1e-9)
    heard = [loop.transcribe(wav.numpy()) for wav in wavs]
    assert [(h.text, h.exit_layer) for h in heard] == [(e.text, e.exit_layer) for e in expected]
    np.testing.assert_allclose([h.confidence for h in heard], [e.confidence for e in expected], atol=1e-4)


@pytest.mark.parametrize("pair", ["conformer"], indirect=True)
def test_the_loop_rounds_to_16_bits_as_reading_does(pair):
    loop, asr = OnnxASR(pair[1], policy="static(3)"), EarlyExitASR.from_pretrained(pair[0], policy="static(3)")
    quiet = (1e-3 * noises(3)[2]).numpy()  # of which 16 bits keep little
    heard = loop.transcribe(quiet)
    assert heard.confidence == loop.transcribe(np.round(quiet * 32768) / 32768).confidence
    assert heard.confidence == pytest.approx(asr.transcribe(quiet).confidence, abs=1e-4)
    unrounded = asr.engine.run_all([torch.from_numpy(quiet)], utt_ids=["a"])[0].confidence
    assert heard.confidence != pytest.approx(unrounded, abs=1e-4)


def test_8_bit_graphs_are_smaller_products_that_still_run(pair):
    loop = OnnxASR(pair[1], precision="int8", policy="static(1)")
    assert loop.transcribe(noises(2)[1].numpy()).exit_layer == 1
    assert any(op in (pair[1] / "layers_1_1.int8.onnx").read_bytes() for op in (b"MatMulInteger",))


def test_what_does_not_fit_is_said_in_one_sentence(pair, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        OnnxASR(tmp_path)
    with pytest.raises(ValueError, match="precision must be one"):
        OnnxASR(pair[1], precision="int4")
    with pytest.raises(ValueError, match="exit"):
        OnnxASR(pair[1], policy="static(2)")
    assert main(["export", str(pair[0]), "-o", str(pair[1])]) == 2
    assert "new or empty folder" in capsys.readouterr().err
    manifest = json.loads((pair[1] / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FileNotFoundError, match=r"front_end\.onnx"):
        OnnxASR(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "dim": "16"}))
    with pytest.raises(ValueError, match="dim as int"):
        OnnxASR(tmp_path)


def test_a_self_conditioned_model_is_refused_in_one_sentence(tmp_path, capsys):
    folder = save_model(tmp_path / "model", encoder=CONFORMER, self_condition=True)
    assert main(["export", str(folder), "-o", str(tmp_path / "onnx")]) == 2
    said = capsys.readouterr().err
    assert "is self-conditioned: its exits feed back into its layers, which is not exported" in said
    assert said.count("\n") == 1 and not (tmp_path / "onnx").exists()


def test_a_policy_that_the_loop_cannot_ask_is_refused_before_anything_is_written(tmp_path):
    folder = save_model(tmp_path / "model", encoder=CONFORMER)
    with pytest.raises(ValueError, match="which the exported loop does not compute"):
        check_computed(parse_policy("nbest(0.5)"))
    with pytest.raises(ValueError, match=r"--policy\), of this model's between\(7, 8, entropy\), .*, gain; signals"):
        export_model(SHIPPED, tmp_path / "onnx", policy="gain_words")  # it reads the words' entropies
    with pytest.raises(ValueError, match="take another policy"):
        export_model(folder, tmp_path / "onnx", policy="nbest(0.5)")
    assert not (tmp_path / "onnx").exists()


ROOT = Path(__file__).resolve().parents[4]
SHIPPED = ROOT / "eeasr_modules" / "shipped" / "base"
SPOKEN = ROOT / "recipes" / "Spoken" / "corpus" / "audio" / "test"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The shipped model and its export."""
    return SHIPPED, export_model(SHIPPED, tmp_path_factory.mktemp("shipped") / "onnx", policy="gain").parent


def agree(shipped, paths, policy, budget):
    asr = EarlyExitASR.from_pretrained(shipped[0], policy=policy, budget=budget, device="cpu")
    loop = OnnxASR(shipped[1], policy=policy, budget=budget)
    expected = asr.transcribe(paths)
    heard = [loop.transcribe(read_audio(path, loop.sample_rate).numpy()) for path in paths]
    assert [(h.text, h.exit_layer) for h in heard] == [(e.text, e.exit_layer) for e in expected]
    assert any(h.text for h in heard)
    return {h.exit_layer for h in heard}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["gain", "lexical", "entropy"])
def test_the_shipped_models_policies_say_the_same_in_both_runtimes(shipped, policy):
    assert agree(shipped, sorted(SPOKEN.iterdir())[:12], policy, 0.6) - {8}  # not all at the last exit


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("policy", ["gain", "lexical"])
def test_they_do_on_recordings_of_people_too(shipped, policy, shared_data):
    paths = sorted((shared_data / "an4" / "wav" / "an4test_clstk").rglob("*.flac"))[:40:2]
    assert len(agree(shipped, paths, policy, 0.75)) > 1
