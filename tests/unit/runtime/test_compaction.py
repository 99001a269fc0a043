"""The measured rule: sane coefficients, and the answer its costs imply."""

import torch

from eeasr_modules.runtime.engine import WhenItPays, measure_compaction


def test_it_says_yes_where_layers_save_more_than_the_copy_costs():
    rule = WhenItPays(layer_s=(1e-3, 1e-5, 1e-8), copy_s=(1e-3, 1e-7))
    assert rule.pays((32, 100), (2, 100), n_layers=1)
    assert not rule.pays((32, 100), (31, 100), n_layers=1)  # saves 1.01 ms, costs 1.3 ms
    assert rule.pays((32, 100), (31, 100), n_layers=2)
    assert rule.pays((4, 400), (4, 100), n_layers=1)  # nobody but padding goes


def test_measured_layers_cost_more_for_more_frames(model):
    rule = measure_compaction(model.encoder, shapes=[(1, 50), (4, 100), (8, 200)], n_repeats=3)
    assert all(value >= 0 for value in (*rule.layer_s, *rule.copy_s))
    assert rule.layer_time_s(8, 200) > rule.layer_time_s(1, 50) > 0
    assert rule.pays((8, 400), (1, 50), n_layers=4)


def test_measuring_leaves_the_model_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_compaction(model.encoder, shapes=[(1, 20), (2, 20), (2, 40)], n_repeats=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
