"""Moonshine's layers, written out here, beside those of transformers: the same numbers under the same names."""

from pathlib import Path

import pytest
import torch
from small_checkpoints import strong, walked

from eeasr_modules.data.audio import read_audio
from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.encoders.moonshine import MoonshineEncoder
from eeasr_modules.models.multi_exit import MultiExit

SMALL = {"model_type": "moonshine", "hidden_size": 24, "intermediate_size": 48, "encoder_num_hidden_layers": 2}
SHAPES = {
    "small": {**SMALL, "encoder_num_attention_heads": 2},
    "odd heads, biases": {**SMALL, "hidden_size": 36, "encoder_num_attention_heads": 4, "attention_bias": True},
    "all channels turned": {
        **{**SMALL, "encoder_num_attention_heads": 3},
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
    },
    "as transformers 4 wrote it": {
        **{**SMALL, "encoder_num_attention_heads": 2, "rope_theta": 100.0, "partial_rotary_factor": 0.5},
        "encoder_num_key_value_heads": 2,
    },
    "as transformers has it without settings": {"model_type": "moonshine", "encoder_num_hidden_layers": 1},
}
SHIPPED = Path(__file__).resolve().parents[4] / "eeasr_modules" / "shipped" / "base"


def made(shape, **settings):
    torch.manual_seed(0)
    return strong(build_encoder({"encoder": "huggingface", "hf_config": SHAPES[shape], **settings})).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_utterance_gets_transformers_numbers_bit_for_bit(shape, attention):
    encoder = made(shape, attention=attention)
    wav = 0.3 * torch.randn(1, 24000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = encoder.stock(wav[0], model=encoder.stock_model())
        ours = walked(encoder, wav, torch.tensor([24000]))[0][-1][0]
    assert torch.equal(ours, theirs) and theirs.std() > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_have_transformers_names(shape):
    encoder = made(shape)
    ours, theirs = (one.encoder.state_dict() for one in (encoder.model, encoder.stock_model()))
    assert [*ours] == [*theirs] and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_gives_transformers_gradients():
    encoder = made("small", freeze_feature_extractor=False).train()
    stock, wav = encoder.stock_model(), 0.3 * torch.randn(1, 9000)
    walked(encoder, wav, torch.tensor([9000]))[0][-1].square().sum().backward()
    stock(wav).last_hidden_state.square().sum().backward()
    for (name, one), (_, other) in zip(encoder.model.named_parameters(), stock.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=lambda said, name=name: f"{name}: {said}")


def test_dropout_of_attention_is_on_in_training_only():
    encoder = made("small", dropout=0.5)
    wavs, n_samples = torch.randn(1, 9000), torch.tensor([9000])
    with torch.no_grad():
        assert torch.equal(*(walked(encoder, wavs, n_samples)[0][-1] for _ in range(2)))
        assert not torch.equal(*(walked(encoder.train(), wavs, n_samples)[0][-1] for _ in range(2)))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"encoder_hidden_act": "silu"}, "encoder_hidden_act 'silu' is not known, expected 'gelu'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_type 'linear' is not known"),
        ({"encoder_num_key_value_heads": 1}, "encoder_num_key_value_heads 1 is not known, expected 2"),
    ],
)
def test_parts_that_are_not_written_are_refused(more, said):
    with pytest.raises(ValueError, match=said):
        MoonshineEncoder(hf_config={**SHAPES["small"], **more})


@pytest.mark.shared_data
def test_the_shipped_encoder_hears_speech_as_transformers_does(shared_data):
    wav = read_audio(min((shared_data / "LibriSpeech" / "dev-clean").rglob("*.flac")))
    encoder = MultiExit.load(SHIPPED).encoder
    with torch.no_grad():
        theirs = encoder.stock(wav, model=encoder.stock_model())
        assert torch.equal(walked(encoder, wav[None], torch.tensor([len(wav)]))[0][-1][0], theirs)
