"""States of a frozen encoder on disk: what the walk gives, computed once, again only where a recording changed."""

import json
import os
import shutil
from collections import namedtuple

import pytest
import torch

from eeasr_modules.data.pipeline import AudioCache, manifest_items
from eeasr_modules.training.fit import build_model
from eeasr_modules.training.pretrained import FrozenStates


@pytest.fixture
def model(make_config):
    model = build_model(make_config(), n_tokens=29, blank_index=0)
    model.freeze_encoder()
    return model


@pytest.fixture
def items(make_config, make_corpora, tmp_path):
    """Four utterances whose files are the test's own."""
    corpora = make_corpora(make_config(), tmp_path / "manifests")
    found = list(manifest_items(corpora.train, limit=4).values())
    for i, item in enumerate(found):
        copy = tmp_path / f"{i}.wav"
        shutil.copy(item["wav"], copy)
        item["wav"] = str(copy)
    return found


class CountingRead:
    def __init__(self):
        self.cache, self.paths = AudioCache(0, sample_rate=16000), []

    def __call__(self, path):
        self.paths.append(path)
        return self.cache(path)


def fill(model, items, folder):
    states, read = FrozenStates(folder, model), CountingRead()
    states.fill(items, read, sample_rate=16000)
    return states, read.paths


def test_heads_say_of_them_what_they_say_of_the_audio(model, items, tmp_path):
    states, _ = fill(model, items, tmp_path / "states")
    wav = CountingRead()(items[1]["wav"])
    read = states(items[1]["wav"])
    with torch.no_grad():
        heard, n_frames = model.eval()(wav[None], torch.tensor([len(wav)]))
        kept, same = model(read[None].float(), n_frames, are_states=True)
    assert read.dtype == torch.bfloat16 and torch.equal(n_frames, same) and len(read) == n_frames.item()
    for one, other in zip(heard, kept, strict=True):
        assert (one - other).abs().max() < 0.1  # bfloat16's rounding of the states


def test_nothing_is_computed_twice_but_what_changed(model, items, tmp_path):
    _, first = fill(model, items[:3], tmp_path / "states")
    _, second = fill(model, items, tmp_path / "states")
    assert sorted(first) == sorted(item["wav"] for item in items[:3]) and second == [items[3]["wav"]]
    shutil.copy(items[0]["wav"], items[1]["wav"])  # another recording under the same name
    states, third = fill(model, items, tmp_path / "states")
    assert third == [items[1]["wav"]]
    assert torch.equal(states(items[0]["wav"]), states(items[1]["wav"]))


def test_when_all_recordings_changed_the_old_states_go(model, items, tmp_path):
    fill(model, items, tmp_path / "states")
    size = (tmp_path / "states" / "states.bin").stat().st_size
    for item in items:
        os.utime(item["wav"], (1, 1))
    _, again = fill(model, items, tmp_path / "states")
    assert len(again) == len(items) and (tmp_path / "states" / "states.bin").stat().st_size == size


def test_what_a_killed_run_had_not_noted_is_computed_again(model, items, tmp_path):
    fill(model, items[:2], tmp_path / "states")
    with open(tmp_path / "states" / "states.bin", "ab") as file:
        file.write(b"half an utterance")
    states, paths = fill(model, items, tmp_path / "states")
    fresh, _ = fill(model, items, tmp_path / "fresh")
    assert len(paths) == 2
    assert all(torch.equal(states(item["wav"]), fresh(item["wav"])) for item in items)


def test_other_weights_or_exits_have_other_states(model, items, make_config, tmp_path):
    fill(model, items, tmp_path / "states")
    with torch.no_grad():
        next(model.encoder.parameters()).add_(0.1)
    _, paths = fill(model, items, tmp_path / "states")
    assert len(paths) == 4
    assert json.loads((tmp_path / "states" / "states.json").read_text())["of"] == FrozenStates(tmp_path, model).of


def test_a_disk_without_room_is_said_before_anything_is_computed(model, items, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    with pytest.raises(ValueError, match=r"cache_states: true needs .* GB in '.*', which has 0\.0 GB free: make room"):
        fill(model, items, tmp_path / "states")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"freeze_encoder": False, "regime": "joint"}, "needs freeze_encoder: true"),
        ({"speeds": [95, 100]}, r"needs speeds: \[100\] \(another speed"),
    ],
)
def test_what_changes_from_epoch_to_epoch_is_refused(make_config, tmp_path, changes, wanted):
    settings = {"cache_states": True, "freeze_encoder": True, "init_from": str(tmp_path), "speeds": [100], **changes}
    with pytest.raises(ValueError, match=wanted):
        make_config(**settings)
