import json
from dataclasses import replace

import numpy as np
import pytest
from sentences import sentence_table

from eeasr_modules.exits.policies.files import read_fitted, read_policies, write_fitted, write_policies
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.calibration import choose
from eeasr_modules.exits.tuning.replay import fit_model, models_of, replay, scores_of


@pytest.fixture
def dev():
    table = sentence_table(0)
    return replace(table, metadata={**table.metadata, "model_digest": "aaaa"})


@pytest.mark.parametrize("name", ["gain", "gain_text", "lexical", "lexical_text"])
def test_a_model_comes_back_with_the_same_scores(tmp_path, dev, name):
    model = fit_model(name, [dev])
    digest = write_fitted(tmp_path, model)
    back = read_fitted(tmp_path, name, model_digest="aaaa", digest=digest)
    assert (scores_of(back, dev) == scores_of(model, dev)).all()
    assert back.fitted_on == model.fitted_on and back.exit_layers == (2, 4, 6, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json"]


class WithArrays:
    """A model with something for the npz file; otherwise gain."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def arrays(self):
        return {"trees": np.arange(6.0).reshape(2, 3)}


def test_arrays_lie_beside_and_belong_to_their_json(tmp_path, dev):
    write_fitted(tmp_path, WithArrays(fit_model("gain", [dev])))
    assert read_fitted(tmp_path, "gain").name == "gain"
    np.savez(tmp_path / "gain.npz", trees=np.zeros(3))
    with pytest.raises(ValueError, match=r"gain.npz does not belong to the gain.json beside it"):
        read_fitted(tmp_path, "gain")
    (tmp_path / "gain.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no arrays at .*gain.npz, which gain.json needs"):
        read_fitted(tmp_path, "gain")


def test_files_that_are_missing_broken_changed_or_of_another_model_are_refused(tmp_path, dev):
    with pytest.raises(FileNotFoundError, match=r"no fitted model of the policy gain at .*gain.json; calibrate"):
        read_fitted(tmp_path, "gain")
    digest = write_fitted(tmp_path, fit_model("gain", [dev]))
    with pytest.raises(ValueError, match="fitted on the exits of model aaaa, but this is model bbbb"):
        read_fitted(tmp_path, "gain", model_digest="bbbb")
    path = tmp_path / "gain.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not the file that was written with its policies"):
        read_fitted(tmp_path, "gain", digest=digest)
    path.write_text(json.dumps({**content, "schema_version": 9}))
    with pytest.raises(ValueError, match="must hold gain of version 1, got gain of version 9"):
        read_fitted(tmp_path, "gain")
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "weights"}))
    with pytest.raises(
        ValueError, match=r"must hold a fitted model as write_fitted leaves it, got KeyError\('weights'"
    ):
        read_fitted(tmp_path, "gain")
    path.write_text("{")
    with pytest.raises(ValueError, match="must hold a fitted model as write_fitted leaves it"):
        read_fitted(tmp_path, "gain")
    with pytest.raises(ValueError, match="a fitted policy must be one of gain"):
        read_fitted(tmp_path, "../gain")


def test_policies_are_written_with_their_models_and_decide_alike_when_read(tmp_path, dev):
    texts = ["gain", "between(lexical)", "entropy", "between(4, 8, gain)"]
    items = [choose(dev, parse_policy(text), budget=5) for text in texts]
    write_policies(tmp_path / "policy.json", items)
    names = ["gain.json", "lexical.json", "policy.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    back = read_policies(tmp_path / "policy.json", model_digest="aaaa")
    assert [str(one.open_policy) for one in back] == texts
    for item, other in zip(items, back):
        assert (replay(item.policy, dev) == replay(other.policy, dev)).all()
        assert not any(policy.is_open for policy in other.grid.policies)
    with pytest.raises(ValueError, match="calibrated on the exits of model aaaa, but this is model bbbb"):
        read_policies(tmp_path / "policy.json", model_digest="bbbb")
    write_fitted(tmp_path, fit_model("gain", [sentence_table(7)]))
    with pytest.raises(ValueError, match=r"gain.json is not the file that was written with its policies"):
        read_policies(tmp_path / "policy.json")


def test_two_models_of_one_name_cannot_share_a_file(tmp_path, dev):
    items = [choose(one, parse_policy("gain"), budget=5) for one in (dev, sentence_table(1))]
    with pytest.raises(ValueError, match="one fitted model of each name, but gain comes with several"):
        write_policies(tmp_path / "policy.json", items)
    assert list(tmp_path.iterdir()) == []
    assert models_of(items[0].policy)["gain"].fitted_on["set_names"] == ["dev"]


class Hostile:
    """What pickle would run when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_arrays_of_objects_are_refused_and_run_nothing(tmp_path, dev):
    write_fitted(tmp_path, WithArrays(fit_model("gain", [dev])))
    np.savez(tmp_path / "gain.npz", trees=np.array([Hostile(tmp_path / "ran")], dtype=object))
    with pytest.raises(ValueError, match=r"gain.npz must hold arrays of numbers as write_fitted leaves them"):
        read_fitted(tmp_path, "gain")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "gain.npz").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match=r"gain.npz must hold arrays of numbers"):
        read_fitted(tmp_path, "gain")
