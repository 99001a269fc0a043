"""Weights of a model folder: whole, in 16 and in 8 bits, in one file or several."""

import json

import pytest
import torch

from eeasr_modules.models.folder import INDEX, LARGEST_FILE, packed, unpacked, weight_files, write_weights
from eeasr_modules.models.multi_exit import MultiExit


@pytest.mark.parametrize(("bits", "most"), [(32, 0.0), (16, 1e-3), (8, 0.5 / 127)])
def test_what_is_read_is_what_was_written_to_its_rounding(bits, most):
    weights = torch.randn(80, 60, 3, generator=torch.Generator().manual_seed(0))
    weights[3] *= 100  # a row of its own scale
    read = unpacked(packed({"w": weights, "b": torch.ones(80), "n": torch.tensor([3])}, bits=bits))
    relative = (read["w"] - weights).flatten(1).abs().amax(dim=1) / weights.flatten(1).abs().amax(dim=1)
    assert relative.max() <= most * 1.001
    assert read["w"].dtype == torch.float32 and torch.equal(read["b"], torch.ones(80)) and read["n"].item() == 3


def test_small_tensors_and_vectors_are_not_rounded_to_8_bits():
    stored = packed({"norm": torch.randn(5000), "small": torch.randn(4, 4)}, bits=8)
    assert {name: value.dtype for name, value in stored.items()} == {"norm": torch.float16, "small": torch.float16}


@pytest.mark.parametrize("share", [False, True])
def test_a_model_in_8_bits_says_nearly_the_same_and_the_same_each_time(make_model, batch, tmp_path, share):
    model = make_model(encoder={"dim": 64, "ffn_dim": 128}, share_projection=share)
    model.save(tmp_path, bits=8)
    once, again = MultiExit.load(tmp_path), MultiExit.load(tmp_path)
    with torch.no_grad():
        whole, first, second = model(*batch)[0], once(*batch)[0], again(*batch)[0]
    for a, b, c in zip(whole, first, second, strict=True):
        assert torch.equal(b, c) and 0 < (a - b).abs().mean() < 0.05
    assert once.heads[0].projection.weight.data_ptr() == once.heads[-1].projection.weight.data_ptr() or not share


def test_files_stay_under_the_bound_and_the_folder_holds_no_old_ones(tmp_path):
    many = torch.nn.ModuleList(torch.nn.Linear(2000, 2000) for _ in range(5))
    write_weights(torch.nn.Linear(4, 4), tmp_path)
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]
    write_weights(many, tmp_path, bits=8)
    files = weight_files(tmp_path)
    assert len(files) == 3 and not (tmp_path / "model.safetensors").exists()
    assert all(path.stat().st_size <= LARGEST_FILE + 2000 for path in files)
    write_weights(torch.nn.Linear(4, 4), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors"]


def test_a_missing_part_is_named(tmp_path):
    many = torch.nn.ModuleList(torch.nn.Linear(2000, 2000) for _ in range(5))
    write_weights(many, tmp_path, bits=8)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"with model-00002-of-00003\.safetensors in it, found none"):
        weight_files(tmp_path)


def test_weights_of_another_shape_or_lacking_are_one_sentence(make_model, tmp_path):
    make_model().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "exit_layers": [1, 2, 3, 4]}))
    with pytest.raises(ValueError, match=r"do not fit its config\.json: missing: heads\.2\.norm"):
        MultiExit.load(tmp_path)
    assert not (tmp_path / INDEX).exists()
