"""The exported graphs and the loop over them against the model itself."""

import json

import numpy as np
import pytest
import torch

from eeasr_modules.cli import main
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.models import MultiExit
from eeasr_modules.runtime import EarlyExitASR

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from eeasr_modules.runtime.export import export_model
from eeasr_modules.runtime.onnx_loop import OnnxASR, _run

TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
TINY |= {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
ENCODERS = {
    "conformer": {"encoder": "conformer", "n_layers": 3, "dim": 16, "n_heads": 2, "ffn_dim": 32, "n_mels": 20},
    "group_norm": {"encoder": "huggingface", "hf_config": {"model_type": "wav2vec2", **TINY}},
    "layer_norm": {
        "encoder": "huggingface",
        "hf_config": {"model_type": "hubert", "feat_extract_norm": "layer", "do_stable_layer_norm": True, **TINY},
    },
}


def noises(n: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(3)
    lengths = [300, *rng.integers(4800, 25600, n - 1).tolist()]
    return [torch.from_numpy((0.1 * rng.standard_normal(length)).astype(np.float32)) for length in lengths]


@pytest.fixture(scope="module", params=sorted(ENCODERS))
def pair(request, tmp_path_factory):
    """A model folder and its export."""
    torch.manual_seed(0)
    config = {"encoder": ENCODERS[request.param], "exit_layers": [1, 3], "n_tokens": 29, "blank_index": 0}
    model = MultiExit(config).eval()
    for head in model.heads:
        torch.nn.init.normal_(head.projection.weight, std=0.5)
    folder = tmp_path_factory.mktemp(request.param)
    model.save(folder / "model")
    CharVocabulary().save(folder / "model")
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
