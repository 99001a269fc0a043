"""Convolutions of few channels a group are right in bfloat16 whatever the CPU: they are computed in float32."""

import io
from copy import deepcopy

import pytest
import torch
from small_checkpoints import CHECKPOINTS, folders
from torch import nn

from eeasr_modules.models import MultiExit
from eeasr_modules.models.device import NarrowConvolution, narrow_in_float32
from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.encoders.huggingface import HuggingFaceEncoder

__all__ = ["folders"]

ROUNDING = 0.01  # relative: bfloat16 keeps 8 bits, 0.003 was seen
SHAPES = [(2, 2, 16, 128), (4, 4, 8, 16), (6, 6, 4, 16), (8, 16, 2, 16), (8, 16, 1, 16), (12, 12, 2, 8), (15, 15, 2, 8)]
WIDE = [(1, 1, 32, 16), (1, 32, 1, 10), (16, 16, 2, 16), (48, 48, 1, 8)]


def convolution(channels, made, groups, kernel):
    torch.manual_seed(0)
    return nn.Conv1d(channels * groups, made * groups, kernel, padding=kernel // 2, groups=groups)


def noise(conv):
    return torch.randn(2, conv.in_channels, 50, generator=torch.Generator().manual_seed(1))


def off(found, expected):
    """Relative error."""
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES + WIDE)
@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bfloat16_is_float32_but_for_rounding(shape, way):
    conv = convolution(*shape)
    x = noise(conv)
    with torch.no_grad():
        expected = conv(x)
        narrow_in_float32(conv)
        if way == "weights":
            found = conv.bfloat16()(x.bfloat16())
        else:
            with torch.autocast("cpu", torch.bfloat16):
                found = conv(x)
    assert found.dtype == torch.bfloat16
    assert 0 < off(found, expected) < ROUNDING


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_float32_rounded_once(shape):
    conv = narrow_in_float32(convolution(*shape))
    x = noise(conv)
    with torch.no_grad():
        expected = conv(x).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(conv(x), expected)


@pytest.mark.parametrize("shape", WIDE)
def test_wide_and_depthwise_convolutions_are_left_alone(shape):
    assert "_conv_forward" not in vars(narrow_in_float32(convolution(*shape)))


def test_gradients_are_those_of_float32_but_for_rounding():
    conv = narrow_in_float32(convolution(6, 6, 4, 16))
    x = noise(conv).requires_grad_()
    full = torch.autograd.grad(conv(x).square().sum(), [x, *conv.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        half = torch.autograd.grad(conv(x).float().square().sum(), [x, *conv.parameters()])
    assert all(off(one, other) < ROUNDING for one, other in zip(half, full, strict=True))


def test_in_float32_nothing_changes_and_copies_compute_with_their_own_weights():
    conv = narrow_in_float32(nn.utils.parametrizations.weight_norm(convolution(6, 6, 4, 16), dim=2))
    plain = nn.utils.parametrizations.weight_norm(convolution(6, 6, 4, 16), dim=2)
    x = noise(conv)
    assert torch.equal(conv(x), plain(x)) and list(conv.state_dict()) == list(plain.state_dict())
    copy = deepcopy(conv)
    copy.bias.data += 1
    torch.testing.assert_close(copy(x), plain(x) + 1)


def test_a_pickled_convolution_stays_right():
    file = io.BytesIO()
    torch.save(narrow_in_float32(convolution(6, 6, 4, 16)), file)
    file.seek(0)
    conv = torch.load(file, weights_only=False)
    x = noise(conv)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = conv(x)
    assert off(found, convolution(6, 6, 4, 16)(x).detach()) < ROUNDING


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_position_convolutions_of_built_encoders_are_right(folders, name):
    encoder = build_encoder({"encoder": "huggingface", "source": folders[name]})
    narrow = [one for one in encoder.modules() if isinstance(one, nn.Conv1d) and one.groups > 1]
    assert narrow and all(isinstance(vars(one)["_conv_forward"], NarrowConvolution) for one in narrow)
    for conv in narrow:
        x = noise(conv)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert off(conv(x), type(conv).forward(conv.float(), x).float()) < ROUNDING


def test_a_model_in_bfloat16_says_what_it_says_in_float32(folders, batch):
    encoder = {"encoder": "huggingface", "source": folders["wav2vec2-large"]}
    model = MultiExit({"encoder": encoder, "exit_layers": [4], "n_tokens": 7, "blank_index": 0}).eval()
    assert isinstance(model.encoder, HuggingFaceEncoder)
    with torch.no_grad():
        full = model(*batch)[0][0]
        with torch.autocast("cpu", torch.bfloat16):
            half = model(*batch)[0][0]
    assert 0 < off(half, full) < 0.05
