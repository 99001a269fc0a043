"""Distillation between exits and weights by confidence."""

import pytest
import torch

from eeasr_modules.training.objectives import (
    Distillation,
    best_exit,
    confidence_weights,
    greedy_targets,
    posterior_divergences,
    utterance_ctc_losses,
)

N_FRAMES = torch.tensor([6, 4])


def random_exits(n_exits=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 6, 5, generator=rng).log_softmax(-1) for _ in range(n_exits)]


def test_the_divergence_is_that_of_torch_over_valid_frames():
    student, teacher = random_exits(2)
    found = posterior_divergences([student], teacher, N_FRAMES)
    for i, n in enumerate(N_FRAMES.tolist()):
        expected = torch.nn.functional.kl_div(student[i, :n], teacher[i, :n], reduction="sum", log_target=True)
        torch.testing.assert_close(found[0, i], expected)
    assert (found > 0).all()


def test_padding_and_the_teacher_get_no_gradient():
    student, teacher = (one.clone().requires_grad_() for one in random_exits(2))
    posterior_divergences([student], teacher, N_FRAMES).sum().backward()
    assert teacher.grad is None
    assert (student.grad[1, 4:] == 0).all() and (student.grad[1, :4] != 0).any()


def test_the_teachers_transcript_is_what_it_says_greedily():
    path = torch.tensor([[1, 1, 0, 2, 2, 3], [0, 4, 4, 0, 1, 1]])
    tokens, n_tokens = greedy_targets(torch.eye(5)[path].log_softmax(-1), N_FRAMES, blank_index=0)
    assert n_tokens.tolist() == [3, 1] and tokens.tolist() == [[1, 2, 3], [4, 0, 0]]


def test_the_best_exit_is_chosen_for_each_utterance():
    exits = random_exits()
    best = best_exit(exits, torch.tensor([[3.0, 1.0], [2.0, 5.0], [9.0, 9.0]]))
    assert torch.equal(best[0], exits[1][0]) and torch.equal(best[1], exits[0][1])


def test_confidence_weights_sum_to_one_and_favour_the_sure():
    unsure, sure = torch.zeros(2, 6, 5).log_softmax(-1), torch.zeros(2, 6, 5)
    sure[..., 1] = 20.0
    found = confidence_weights([unsure, sure.log_softmax(-1)], N_FRAMES, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(2))
    torch.testing.assert_close(found[1] / found[0], torch.full((2,), 5.0))
    idle = confidence_weights([unsure, sure.log_softmax(-1)], N_FRAMES, torch.tensor([1.0, 0.0]))
    assert idle.tolist() == [[1.0, 1.0], [0.0, 0.0]]


class TestMixed:
    def mix(self, *args, exits=None, **kwargs):
        exits = random_exits() if exits is None else exits
        targets, n_targets = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
        losses = utterance_ctc_losses(exits, N_FRAMES, targets, n_targets, blank_index=0)
        return losses, Distillation(*args).mixed(losses, exits, N_FRAMES, blank_index=0, **kwargs)

    def test_without_alpha_the_losses_stay(self):
        losses, mixed = self.mix("self", (0.0, 0.0, 0.0))
        assert torch.equal(losses, mixed)

    def test_the_own_last_exit_is_not_its_own_pupil(self):
        losses, mixed = self.mix("self", (1.0, 0.5, 1.0))
        divergences = posterior_divergences(random_exits(), random_exits()[-1], N_FRAMES)
        assert torch.equal(mixed[-1], losses[-1])
        torch.testing.assert_close(mixed[0], divergences[0])
        torch.testing.assert_close(mixed[1], 0.5 * losses[1] + 0.5 * divergences[1])

    def test_the_last_exit_may_learn_from_the_best_one(self):
        exits = random_exits()
        losses, mixed = self.mix("best", (1.0,) * 3, exits=exits)
        best = losses.argmin(dim=0)
        assert mixed[best, torch.arange(2)].abs().max() < 1e-5 and not torch.equal(losses[-1], mixed[-1])

    def test_a_teachers_transcript_alone_is_ctc_on_it(self):
        teacher = random_exits(1, seed=9)[0]
        _, mixed = self.mix("folder", (1.0,) * 3, 1.0, teacher_log_probs=teacher)
        targets, n_targets = greedy_targets(teacher, N_FRAMES, blank_index=0)
        expected = utterance_ctc_losses(random_exits(), N_FRAMES, targets, n_targets, blank_index=0)
        torch.testing.assert_close(mixed, expected)

    def test_a_teacher_of_another_frame_rate_is_refused(self):
        with pytest.raises(ValueError, match="gives 12 frames where this model gives 6"):
            self.mix("folder", (0.5,) * 3, teacher_log_probs=torch.zeros(2, 12, 5))
