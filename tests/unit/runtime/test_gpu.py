"""Live decisions on a GPU: equal to replay on the exit table of that GPU, close to the CPU's."""

import copy
import importlib.util

import numpy as np
import pytest
import torch
from live_cases import SLOW_TO_FIT, TEXTS, CountedLayers, engine_for
from small_checkpoints import CHECKPOINTS, folders  # noqa: F401
from talkative import ENCODER, table_of, talkative_model

from eeasr_modules.exits import choose, parse_policy, replay
from eeasr_modules.models.device import computed_in
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.training.test_pass import read_exits

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")

needs_words = pytest.mark.skipif(importlib.util.find_spec("wordfreq") is None, reason="wordfreq is not installed")
OF_WORDS = ("lexical", "gain")
CASES = [
    pytest.param(text, marks=needs_words) if text.startswith(OF_WORDS) else text
    for text in TEXTS
    if text not in SLOW_TO_FIT
]


@pytest.fixture(scope="module")
def on_gpu(model):
    """The small model, on the GPU."""
    return copy.deepcopy(model).to("cuda")


def batch_of(wavs):
    return torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), torch.tensor([len(wav) for wav in wavs])


@pytest.fixture(scope="module")
def table_on_gpu(on_gpu, wavs):
    """The exit table of the noises with the GPU's transcripts and signals, as the test pass would collect it."""
    with computed_in("float32", GPU):
        return table_of(on_gpu, wavs)


def check_same(model, wavs, *, atol):
    """Log-probs of every exit, padding aside, are those of the CPU."""
    padded, n_samples = batch_of(wavs)
    with torch.no_grad(), computed_in("float32", GPU):
        expected, n_frames = model(padded, n_samples)
        found, n_found = copy.deepcopy(model).to("cuda")(padded.cuda(), n_samples.cuda())
    assert n_found.cpu().tolist() == n_frames.tolist()
    for one, other in zip(found, expected, strict=True):
        for row, n in enumerate(n_frames):
            torch.testing.assert_close(one[row, :n].cpu(), other[row, :n], atol=atol, rtol=0.0)


@pytest.mark.parametrize(
    "settings", [{}, {"self_condition": True}, {"share_projection": True}, {"head": "attention"}, {"head": "mlp"}]
)
def test_log_probs_are_those_of_the_cpu(settings, wavs):
    check_same(talkative_model(**settings), wavs, atol=1e-3)


@pytest.mark.parametrize("kind", ["signal", "average", "convolution"])
def test_log_probs_of_a_downsampled_encoder_are_those_of_the_cpu(kind, wavs):
    encoder = {**ENCODER, "downsample": kind, "downsample_factor": 2}
    torch.manual_seed(0)
    model = MultiExit({"encoder": encoder, "exit_layers": [2, 5], "n_tokens": 29, "blank_index": 0, "upsample": True})
    check_same(model.eval(), wavs, atol=1e-3)


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_log_probs_of_checkpoints_are_those_of_the_cpu(name, folders, wavs):  # noqa: F811
    torch.manual_seed(0)
    encoder = {"encoder": "huggingface", "source": folders[name]}
    model = MultiExit({"encoder": encoder, "exit_layers": [2, 4], "n_tokens": 29, "blank_index": 0})
    check_same(model.eval(), wavs, atol=1e-3)


def test_signals_are_those_of_the_cpu(model, on_gpu, wavs):
    padded, n_samples = batch_of(wavs)
    with computed_in("float32", GPU):
        _, signals, _ = read_exits(on_gpu, padded.cuda(), n_samples.cuda())
    _, expected, _ = read_exits(model, padded, n_samples)
    for name, values in expected.items():
        np.testing.assert_allclose(signals[name], values, atol=1e-3, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("text", CASES)
def test_live_decisions_are_those_of_replay_whatever_the_batch(text, on_gpu, wavs, table_on_gpu, dev):
    policy = parse_policy(text)
    if policy.is_open:
        policy = choose(dev, policy, budget=0.7).policy
    expected = replay(policy, table_on_gpu)
    for size in (1, 7, 33):
        engine = engine_for(on_gpu, policy)
        found = []
        for start in range(0, len(wavs), size):
            padded, n_samples = batch_of(wavs[start : start + size])
            found += engine.run(padded, n_samples, utt_ids=list(table_on_gpu.utt_ids[start : start + size]))
        assert [one.exit_layer for one in found] == table_on_gpu.exit_layers[expected].tolist()
        assert [one.text for one in found] == table_on_gpu.hypotheses[np.arange(len(wavs)), expected].tolist()


def test_whoever_has_left_runs_no_further_layer(on_gpu, wavs, table_on_gpu):
    policy = parse_policy("random(0.5)")
    expected = replay(policy, table_on_gpu)
    padded, n_samples = batch_of(wavs)
    with CountedLayers(on_gpu) as counted:
        engine_for(on_gpu, policy).run(padded, n_samples, utt_ids=list(table_on_gpu.utt_ids))
    deepest = table_on_gpu.exit_layers[expected]
    assert [n for _, n, _ in counted.shapes] == [int((deepest >= layer).sum()) for layer, _, _ in counted.shapes]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_files_are_transcribed(precision, model_folder, audio_folder):
    asr = EarlyExitASR.from_pretrained(model_folder, device="cuda", precision=precision, seed=11)
    found = asr.transcribe([audio_folder / f"u{i}.wav" for i in range(6)])
    assert all(one.error is None and one.layers_run == one.exit_layer for one in found)
    if precision == "float32":
        on_cpu = EarlyExitASR.from_pretrained(model_folder, device="cpu", seed=11)
        expected = on_cpu.transcribe([audio_folder / f"u{i}.wav" for i in range(6)])
        assert [one.exit_layer for one in found] == [one.exit_layer for one in expected]
