"""The Conformer in training: layers that are skipped, activations that are computed again."""

import pytest
import torch


def gradients(model, batch, seed=3):
    """Loss and gradients of one training step."""
    model.train()
    model.zero_grad()
    torch.manual_seed(seed)
    log_probs, _ = model(*batch)
    loss = sum(one.square().mean() for one in log_probs)
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("config", [{}, {"self_condition": True}])
def test_layers_that_are_computed_again_give_the_same_gradients(make_model, batch, config):
    kept, again = (make_model(encoder={"gradient_checkpointing": on}, **config) for on in (False, True))
    again.load_state_dict(kept.state_dict())
    (loss, expected), (same_loss, found) = gradients(kept, batch), gradients(again, batch)
    assert torch.equal(loss, same_loss) and expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_a_layer_is_skipped_in_training_only_and_no_exit_is_missing(make_model, batch):
    model = make_model(encoder={"layerdrop": 1.0, "dropout": 0.0})
    plain = make_model(encoder={"dropout": 0.0})
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(*batch)[0], plain(*batch)[0], strict=True))
        outputs = list(model.train().exits(*batch))
    assert [output.exit_layer for output in outputs] == [1, 2, 4]
    assert torch.equal(outputs[0].hidden, outputs[1].hidden)  # only the first layer ran
    torch.testing.assert_close(outputs[2].hidden, model.encoder.exit_view(4, outputs[0].hidden))


def test_about_the_asked_share_of_layers_is_skipped(make_model, batch):
    model = make_model(encoder={"layerdrop": 0.3, "dropout": 0.0}).train()
    skipped, state = [], model.encoder.front_end(*batch)
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(100):
            skipped.append(model.encoder.run_layer(2, state) is state)
    assert 0.15 < sum(skipped) / len(skipped) < 0.45
