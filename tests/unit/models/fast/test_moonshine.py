"""Moonshine's faster parts: stock's output, alone and in a batch; stock's own code where they are not foreseen."""

import pytest
import torch
from small_checkpoints import strong, walked

from eeasr_modules.models.encoders.moonshine import MoonshineEncoder
from eeasr_modules.models.fast import moonshine as fast
from eeasr_modules.models.fast.switches import made_faster
from eeasr_modules.models.multi_exit import MultiExit

SHAPE = {"model_type": "moonshine", "hidden_size": 48, "intermediate_size": 96, "encoder_num_hidden_layers": 3}
SHAPE |= {"encoder_num_attention_heads": 4, "attention_bias": True}
BATCH = torch.tensor([16000, 9000, 300, 25000])


def made(**settings):
    torch.manual_seed(0)
    return strong(MoonshineEncoder(hf_config=SHAPE, **settings)).eval()


def waveforms():
    wavs = 0.3 * torch.randn(4, 25000, generator=torch.Generator().manual_seed(1))
    return wavs * (torch.arange(25000) < BATCH.unsqueeze(1))


@torch.no_grad()
def states(encoder, *, mixed, rows=slice(None)):
    lengths = BATCH[rows]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        views, n_frames = walked(encoder, waveforms()[rows, : int(lengths.max())], lengths)
    return [[view[i, :n].float() for i, n in enumerate(n_frames.tolist())] for view in views]


@pytest.mark.parametrize(("mixed", "tolerance"), [(False, 1e-4), (True, 0.1)])
def test_every_layer_gives_stock_s_states(mixed, tolerance, monkeypatch):
    used = []
    for kind in (fast.FasterConvolutions, fast.FasterAttention, fast.FasterFeedForward):
        monkeypatch.setattr(
            kind, "current", lambda self, dtype, own=kind.current: used.append(self) or own(self, dtype)
        )
    exact = states(made(), mixed=False)
    swapped = states(fast.faster_moonshine(made()), mixed=mixed)
    assert {type(one) for one in used} == {fast.FasterConvolutions, fast.FasterAttention, fast.FasterFeedForward}
    for ours, theirs in zip(swapped, exact, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert (one - other).abs().max() / max(1.0, float(other.std())) < tolerance


@pytest.mark.parametrize(("mixed", "tolerance"), [(False, 1e-4), (True, 0.1)])
def test_an_utterance_gets_the_same_alone(mixed, tolerance):
    encoder = fast.faster_moonshine(made())
    together = states(encoder, mixed=mixed)
    for i in range(4):
        for many, (one,) in zip(together, states(encoder, mixed=mixed, rows=slice(i, i + 1)), strict=True):
            assert (many[i] - one).abs().max() / max(1.0, float(one.std())) < tolerance


@pytest.mark.parametrize("settings", [{"attention": "eager"}, {"dropout": 0.1}])
def test_training_and_eager_attention_are_stock_s_own(settings):
    encoder, stock = fast.faster_moonshine(made(**settings)), made(**settings)
    for one in (encoder, stock):
        one.train("dropout" in settings)
        torch.manual_seed(0)
        walked(one, waveforms(), BATCH)[0][-1].square().sum().backward()
    for (name, one), (_, other) in zip(encoder.named_parameters(), stock.named_parameters(), strict=True):
        if other.grad is not None:
            assert torch.equal(one.grad, other.grad), name


def test_new_weights_are_packed_again():
    encoder = fast.faster_moonshine(made())
    before = states(encoder, mixed=True)[-1][0]
    with torch.no_grad():
        for one in encoder.parameters():
            one.mul_(0.5)
    stock = made()
    stock.load_state_dict(encoder.state_dict())
    after, expected = states(encoder, mixed=True)[-1][0], states(stock, mixed=False)[-1][0]
    assert (after - before).abs().max() > 0.2 and (after - expected).abs().max() < 0.2


def test_the_switch_swaps_it_and_in_8_bits_its_convolutions_alone():
    config = {"encoder": {"encoder": "huggingface", "hf_config": SHAPE}, "exit_layers": [1, 3], "n_tokens": 7}
    for precision, n in (("float32", 1 + 2 * 3), ("int8", 1)):
        model = made_faster(MultiExit({**config, "blank_index": 0}).eval(), front_end="fast", precision=precision)
        swapped = [one for one in model.modules() if isinstance(vars(one).get("forward"), fast.FasterProducts)]
        assert len(swapped) == n
    stock = made_faster(MultiExit({**config, "blank_index": 0}).eval(), front_end="stock", precision="float32")
    assert not [one for one in stock.modules() if "forward" in vars(one)]


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="no Moonshine encoder in a Linear: use the stock parts"):
        fast.faster_moonshine(torch.nn.Linear(2, 2))


def test_parts_that_come_out_differently_are_left(monkeypatch):
    monkeypatch.setattr(fast, "GELU", ("none", [], None))
    encoder = made()
    with pytest.raises(RuntimeError, match="the faster Moonshine: noise comes out"):
        fast.faster_moonshine(encoder)
    assert not [one for one in encoder.modules() if "forward" in vars(one)]
