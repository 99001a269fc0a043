"""Exit weights and the CTC loss of every exit."""

import pytest
import torch
from torch.nn.functional import ctc_loss

from eeasr_modules.training.objectives import EXIT_WEIGHTS, exit_ctc_losses, exit_weights


@pytest.mark.parametrize(
    ("scheme", "weights"), [("uniform", [0.25] * 4), ("linear", [0.1, 0.2, 0.3, 0.4]), ("last", [0, 0, 0, 1])]
)
def test_weights_are_as_their_name_says(scheme, weights):
    assert exit_weights(scheme, 4) == pytest.approx(weights)


@pytest.mark.parametrize("scheme", EXIT_WEIGHTS)
def test_weights_sum_to_one_for_any_number_of_exits(scheme):
    assert [sum(exit_weights(scheme, n)) for n in (1, 3, 12)] == pytest.approx([1.0, 1.0, 1.0])


def test_an_unknown_scheme_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="one of uniform, linear, increasing, last, got 'first'"):
        exit_weights("first", 3)


def random_exits(n_exits=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 9, 5, generator=rng).log_softmax(-1) for _ in range(n_exits)]


TARGETS, N_TARGETS, N_FRAMES = torch.tensor([[1, 2, 2, 3], [4, 1, 0, 0]]), torch.tensor([4, 2]), torch.tensor([9, 6])


def test_each_exit_has_the_loss_that_torch_gives_it_alone():
    exits = random_exits()
    found = exit_ctc_losses(exits, N_FRAMES, TARGETS, N_TARGETS, blank_index=0)
    for e, log_probs in enumerate(exits):
        alone = sum(
            ctc_loss(log_probs[i, :frames], TARGETS[i, :tokens], (frames,), (tokens,), reduction="sum")
            for i, (frames, tokens) in enumerate(zip(N_FRAMES.tolist(), N_TARGETS.tolist()))
        )
        assert found[e].item() == pytest.approx(alone.item() / 6, rel=1e-5)  # 6 tokens in all


def test_an_utterance_with_more_tokens_than_frames_counts_zero_and_has_no_gradient():
    logits = [torch.randn(2, 9, 5, requires_grad=True) for _ in range(2)]
    exits = [one.log_softmax(-1) for one in logits]
    short = torch.tensor([3, 6])  # the first utterance needs 5 frames (two equal tokens in a row)
    found = exit_ctc_losses(exits, short, TARGETS, N_TARGETS, blank_index=0)
    second = ctc_loss(exits[0][1, :6], TARGETS[1, :2], (6,), (2,), reduction="sum")
    assert found[0].item() == pytest.approx(second.item() / 6, rel=1e-5)
    found.sum().backward()
    assert all(torch.isfinite(one.grad).all() and (one.grad[0] == 0).all() for one in logits)
    assert all((one.grad[1, :6] != 0).any() for one in logits)


def test_another_blank_is_respected():
    exits = random_exits(1)
    swapped = [exits[0][..., [4, 1, 2, 3, 0]]]  # token 4 and blank change places
    targets = torch.where(TARGETS == 4, 0, TARGETS)
    found = exit_ctc_losses(swapped, N_FRAMES, targets, N_TARGETS, blank_index=4)
    torch.testing.assert_close(found, exit_ctc_losses(exits, N_FRAMES, TARGETS, N_TARGETS, blank_index=0))


def test_empty_references_do_not_divide_by_zero():
    found = exit_ctc_losses(random_exits(), N_FRAMES, TARGETS, torch.tensor([0, 0]), blank_index=0)
    assert torch.isfinite(found).all()
