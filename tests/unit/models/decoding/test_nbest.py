"""The posterior among the N best, against all paths counted one by one."""

import itertools
import math
from collections import defaultdict

import pytest
import torch

from eeasr_modules.models.decoding.ctc import NBest

TOKENS = ["<blank>", " ", "A", "B"]


def random_log_probs(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).log_softmax(dim=-1)


def transcript_posteriors(log_probs):
    """Probability of every transcript, largest first."""
    found = defaultdict(float)
    for path in itertools.product(range(4), repeat=len(log_probs)):
        text = "".join(TOKENS[token] for token, _ in itertools.groupby(path) if token != 0)
        found[" ".join(text.split())] += math.exp(sum(float(row[token]) for row, token in zip(log_probs, path)))
    return sorted(found.values(), reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_with_a_beam_that_holds_everything_it_is_the_share_of_the_best_transcript(seed):
    log_probs = random_log_probs(1, 4, 4, seed=seed)
    found = NBest(TOKENS, blank_index=0, beam_size=500).posterior(log_probs, torch.tensor([4]))
    assert found.item() == pytest.approx(transcript_posteriors(log_probs[0])[0], rel=1e-5)
    assert found.dtype == torch.float32


def test_neither_padding_nor_the_batch_matters():
    nbest = NBest(TOKENS, blank_index=0, beam_size=8)
    log_probs, n_frames = random_log_probs(4, 33, 4, scale=2.0), torch.tensor([33, 20, 7, 1])
    together = nbest.posterior(log_probs, n_frames)
    alone = [nbest.posterior(log_probs[i : i + 1, :n], n_frames[i : i + 1]).item() for i, n in enumerate(n_frames)]
    assert together.tolist() == alone
    assert ((together >= 1 / 8) & (together <= 1)).all()


def test_a_sure_model_is_surer_and_silence_is_certain():
    nbest = NBest(TOKENS, blank_index=0, beam_size=8)
    n_frames = torch.full((20,), 10)
    sure, unsure = (nbest.posterior(random_log_probs(20, 10, 4, scale=s), n_frames).mean() for s in (20.0, 1.0))
    assert sure > unsure + 0.3
    silence = torch.tensor([[[1.0, 0.0, 0.0, 0.0]] * 5]).log().clamp(min=-50)
    assert nbest.posterior(silence, torch.tensor([5])).item() == 1.0
    assert nbest.posterior(silence, torch.tensor([0])).item() == 1.0


def test_transcripts_that_differ_early_stay_in_the_list():
    # two first words alike, then a sure second one: pruning of histories would leave one of them and be certain
    first, rest = [0.0, 0.0, 0.5, 0.5], [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    log_probs = torch.tensor([[first, *rest]]).log().clamp(min=-50)
    found = NBest(TOKENS, blank_index=0, beam_size=4).posterior(log_probs, torch.tensor([3]))
    assert found.item() == pytest.approx(0.5)


def test_subwords_are_put_together_to_words():
    tokens = ["<blank>", "\u2581A", "B"]
    log_probs = torch.tensor([[[0.0, 1.0, 0.0], [0.4, 0.0, 0.6]]]).log().clamp(min=-50)
    found = NBest(tokens, blank_index=0, beam_size=4).posterior(log_probs, torch.tensor([2]))
    assert found.item() == pytest.approx(0.6)


def test_a_beam_of_one_is_refused():
    with pytest.raises(ValueError, match="beam of at least 2, got 1"):
        NBest(TOKENS, blank_index=0, beam_size=1)
