"""float32 that is float32 on a GPU too: TF32, which SpeechBrain allows, is off where models are read."""

import threading

import pytest
import torch
from live_cases import engine_for
from talkative import model, noises  # noqa: F401

from eeasr_modules.exits import parse_policy
from eeasr_modules.models.device import computed_in

CPU = torch.device("cpu")


def allowed():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def allow(products, convolutions):
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


@pytest.fixture(autouse=True)
def as_speechbrain_leaves_it():
    before = allowed()
    allow(True, True)
    yield
    allow(*before)


@pytest.mark.parametrize("precision", ["float32", "fp32", "int8"])
def test_no_tf32_inside_and_as_before_afterwards(precision):
    with computed_in(precision, CPU):
        assert allowed() == (False, False)
        with computed_in(precision, CPU):
            assert allowed() == (False, False)
        assert allowed() == (False, False)
    assert allowed() == (True, True)


def test_a_choice_of_the_user_is_put_back():
    allow(False, True)
    with computed_in("float32", CPU):
        pass
    assert allowed() == (False, True)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "rnn"), reason="torch before 2.9 has no precision of each part")
def test_a_choice_for_each_part_stays_as_it_is():
    torch.backends.cudnn.rnn.fp32_precision = "ieee"
    try:
        with computed_in("float32", CPU):
            assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    finally:
        torch.backends.cudnn.rnn.fp32_precision = "tf32"
    assert allowed() == (True, True)


def test_an_error_inside_puts_it_back_too():
    with pytest.raises(ZeroDivisionError), computed_in("float32", CPU):
        1 / 0  # noqa: B018
    assert allowed() == (True, True)


def test_a_thread_that_leaves_first_changes_nothing_for_the_other():
    entered, left = threading.Event(), threading.Event()

    def first():
        with computed_in("float32", CPU):
            entered.set()
            assert left.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    with computed_in("float32", CPU):
        pass
    assert allowed() == (False, False)
    left.set()
    thread.join()
    assert allowed() == (True, True)


@pytest.mark.parametrize("names", [("bfloat16", "bf16"), ("float16", "fp16")])
def test_halves_are_autocast_under_either_name(names):
    x = torch.randn(4, 4)
    for name in names:
        with computed_in(name, CPU):
            assert (x @ x).dtype == getattr(torch, names[0])


def test_live_transcription_runs_without_tf32(model):  # noqa: F811
    seen = []
    handle = model.encoder.conformer.layers[0].register_forward_pre_hook(lambda *_: seen.append(allowed()))
    wavs = noises(2)
    try:
        batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), torch.tensor([len(wav) for wav in wavs])
        engine_for(model, parse_policy("static(2)")).run(*batch, utt_ids=["a", "b"])
    finally:
        handle.remove()
    assert seen == [(False, False)]
    assert allowed() == (True, True)
