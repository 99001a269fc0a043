"""Acoustic signals against values worked out by hand."""

import math

import pytest
import torch

from eeasr_modules.exits.policies.protocol import MOST_LAGS as policies_lags
from eeasr_modules.models.signals import ACOUSTIC_SIGNALS, SIGNALS, acoustic_signals
from eeasr_modules.models.signals import MOST_LAGS as models_lags

# two frames of three tokens, blank is token 0; the first frame is blank, the second is token 2
PROBS = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]])
PREVIOUS = torch.tensor([[[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]]])
HIDDEN = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
PREVIOUS_HIDDEN = torch.tensor([[[0.0, 2.0], [6.0, 8.0]]])


def signals(
    probs=PROBS, hidden=HIDDEN, n_frames=(2,), *, previous=PREVIOUS, previous_hidden=PREVIOUS_HIDDEN, blank=0, **names
):
    return acoustic_signals(
        probs.log(),
        hidden,
        torch.tensor(n_frames),
        previous_log_probs=None if previous is None else previous.log(),
        previous_hidden=previous_hidden,
        blank_index=blank,
        **names,
    )


def tsallis(*probs):
    """Normalised exponentially, alpha 1/3."""
    largest = (len(probs) ** (2 / 3) - 1) / (2 / 3)
    own = (sum(p ** (1 / 3) for p in probs) - 1) / (2 / 3)
    return (math.exp(-own) - math.exp(-largest)) / (1 - math.exp(-largest))


def entropy(*probs):
    return -sum(p * math.log(p) for p in probs)


def test_every_signal_has_the_value_worked_out_by_hand():
    found = {name: values.item() for name, values in signals().items()}
    cross = [
        -(0.8 * math.log(0.5) + 0.1 * math.log(0.25) + 0.1 * math.log(0.25)),
        -(0.3 * math.log(0.1) + 0.3 * math.log(0.2) + 0.4 * math.log(0.7)),
    ]
    binary = [
        -p * math.log(q) - (1 - p) * math.log(1 - q)
        for p, q in [(0.8, 0.5), (0.1, 0.25), (0.1, 0.25), (0.3, 0.1), (0.3, 0.2), (0.4, 0.7)]
    ]
    all_blank = -math.log(0.5) - 2 * math.log(0.75) - math.log(0.1) - math.log(0.8) - math.log(0.3)
    expected = {
        "entropy": (entropy(0.5, 0.25, 0.25) + entropy(0.1, 0.2, 0.7)) / 2,
        "entropy_nonblank": entropy(0.1, 0.2, 0.7),
        "entropy_token": entropy(0.1, 0.2, 0.7),
        "confidence": (0.5 + 0.7) / 2,
        "margin": (0.25 + 0.5) / 2,
        "blank_rate": 0.5,
        "path_log_prob": (math.log(0.5) + math.log(0.7)) / 2,
        "gibbs_confidence": (3 * math.exp(-entropy(0.1, 0.2, 0.7)) - 1) / 2,
        "tsallis_confidence": tsallis(0.1, 0.2, 0.7),
        "tsallis_min": tsallis(0.1, 0.2, 0.7),
        "tsallis_product": tsallis(0.1, 0.2, 0.7),
        "renyi_confidence": (3 * sum(p ** (1 / 3) for p in (0.1, 0.2, 0.7)) ** -1.5 - 1) / 2,
        "cosine": (0.0 + 1.0) / 2,
        "max_entropy": max(entropy(0.5, 0.25, 0.25), entropy(0.1, 0.2, 0.7)),
        "cross_entropy": sum(cross) / 2,
        "binary_cross_entropy": sum(binary) / 6,
        # exits further back are not there: all blank, which is token 0
        **dict.fromkeys([f"cross_entropy_{lag}" for lag in (2, 3, 4)], -(math.log(0.5) + math.log(0.1)) / 2),
        **dict.fromkeys([f"binary_cross_entropy_{lag}" for lag in (2, 3, 4)], all_blank / 6),
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert tuple(found) == ACOUSTIC_SIGNALS


def test_posteriors_are_compared_with_those_of_exits_further_back():
    assert models_lags == policies_lags
    earlier = torch.stack([PREVIOUS.flip(-1), PROBS])
    found = signals(earlier_log_probs=[*earlier.log()], names=ACOUSTIC_SIGNALS)
    for kind in ("cross_entropy", "binary_cross_entropy"):
        for lag, before in ((1, PREVIOUS), (2, earlier[0]), (3, earlier[1])):
            alone = signals(previous=before)[kind].item()
            assert found[f"{kind}_{lag}" if lag > 1 else kind].item() == pytest.approx(alone), (kind, lag)
        assert found[f"{kind}_4"].item() == pytest.approx(signals(previous=None)[kind].item())


def test_the_first_exit_is_compared_with_the_all_blank_posterior():
    assert signals(previous=None)["cross_entropy"].item() == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2)
    blank_last = signals(previous=None, blank=2)
    assert blank_last["cross_entropy"].item() == pytest.approx(-(math.log(0.25) + math.log(0.7)) / 2)
    assert blank_last["blank_rate"].item() == 0.5


@pytest.mark.parametrize("previous", [PREVIOUS, None])
def test_frames_of_padding_count_for_nothing(previous):
    alone = signals(previous=previous)
    odd = torch.tensor([[[0.98, 0.01, 0.01]]])
    padded = signals(
        torch.cat([PROBS, odd], dim=1),
        torch.cat([HIDDEN, torch.full((1, 1, 2), 1e6)], dim=1),
        previous=None if previous is None else torch.cat([previous, odd], dim=1),
        previous_hidden=torch.cat([PREVIOUS_HIDDEN, torch.full((1, 1, 2), -1e6)], dim=1),
    )
    for name in ACOUSTIC_SIGNALS:
        torch.testing.assert_close(padded[name], alone[name])


def test_each_utterance_of_a_batch_has_its_own_mean():
    both = signals(
        PROBS.repeat(2, 1, 1),
        HIDDEN.repeat(2, 1, 1),
        (2, 1),
        previous=PREVIOUS.repeat(2, 1, 1),
        previous_hidden=PREVIOUS_HIDDEN.repeat(2, 1, 1),
    )
    assert both["confidence"].tolist() == pytest.approx([0.6, 0.5])
    assert both["blank_rate"].tolist() == [0.5, 1.0]
    assert both["entropy_nonblank"].tolist() == pytest.approx([entropy(0.1, 0.2, 0.7), 0.0])  # none spoken: 0


@pytest.mark.parametrize("previous", ["other", "same", None])
def test_probabilities_of_zero_give_finite_signals(previous):
    certain = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    before = {"other": PREVIOUS, "same": certain, None: None}[previous]
    found = signals(certain, previous=before)
    assert all(torch.isfinite(values).all() for values in found.values()), found
    assert found["entropy"].item() == 0.0 and found["margin"].item() == 1.0
    if previous == "same":
        assert found["cross_entropy"].item() == 0.0


def test_signals_are_float32_whatever_came():
    half = acoustic_signals(
        PROBS.log().bfloat16(),
        HIDDEN.bfloat16(),
        torch.tensor([2]),
        previous_log_probs=PREVIOUS.log().bfloat16(),
        previous_hidden=PREVIOUS_HIDDEN.bfloat16(),
        blank_index=0,
    )
    assert {values.dtype for values in half.values()} == {torch.float32}
    assert half["confidence"].item() == pytest.approx(0.6, abs=0.01)


# six frames: blank, token 1 for two frames, token 2, blank, token 2 again: three tokens
RUNS = torch.tensor([[[8, 1, 1], [1, 8, 1], [2, 6, 2], [0.5, 0.5, 9], [9, 0.5, 0.5], [3, 3, 4]]]) / 10


def of_runs(*names, n_frames=6):
    probs = torch.cat([RUNS, torch.tensor([[[0.0, 1.0, 0.0]] * 2])], dim=1)  # and two of padding
    states = torch.ones(1, 8, 2)
    found = signals(probs, states, (n_frames,), previous=None, previous_hidden=states, names=names)
    assert tuple(found) == names
    return [values.item() for values in found.values()]


def test_a_token_counts_once_however_many_frames_it_lasts():
    per_token = [
        (entropy(0.1, 0.8, 0.1) + entropy(0.2, 0.6, 0.2)) / 2,
        entropy(0.05, 0.05, 0.9),
        entropy(0.3, 0.3, 0.4),
    ]
    assert of_runs("entropy_token")[0] == pytest.approx(sum(per_token) / 3, abs=1e-6)
    assert of_runs("entropy_token", n_frames=3)[0] == pytest.approx(per_token[0], abs=1e-6)


def test_normalised_entropies_are_aggregated_over_tokens_by_mean_least_and_product():
    one = [(tsallis(0.1, 0.8, 0.1) + tsallis(0.2, 0.6, 0.2)) / 2, tsallis(0.05, 0.05, 0.9), tsallis(0.3, 0.3, 0.4)]
    found = of_runs("tsallis_confidence", "tsallis_min", "tsallis_product")
    assert found == pytest.approx([sum(one) / 3, min(one), math.prod(one)], abs=1e-6)


@pytest.mark.parametrize("name", [name for name in SIGNALS if name.endswith("_confidence") or "tsallis" in name])
@pytest.mark.parametrize("n_tokens", [3, 29, 1000])
def test_a_normalised_entropy_is_0_where_all_tokens_are_equally_likely_and_1_where_one_is_certain(name, n_tokens):
    states = torch.ones(2, 1, 2)
    certain = torch.zeros(n_tokens)
    certain[1] = 1.0
    even = torch.full((n_tokens,), 1.0 / n_tokens)
    even[1] += 1e-6  # so that the best is not blank
    probs = torch.stack([certain, even]).unsqueeze(1)
    found = signals(probs, states, (1, 1), previous=None, previous_hidden=states, names=[name])[name]
    assert found.tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


@pytest.mark.parametrize(
    "name", ["entropy_nonblank", "entropy_token", "tsallis_min", "tsallis_product", "gibbs_confidence"]
)
def test_signals_of_tokens_are_0_where_nothing_was_said(name):
    states = torch.ones(1, 2, 2)
    blanks = torch.tensor([[[0.9, 0.05, 0.05]] * 2])
    found = signals(blanks, states, previous=None, previous_hidden=states, names=[name])
    assert found[name].item() == 0.0


def test_a_signal_alone_is_what_it_is_among_all_and_unknown_ones_are_refused():
    every = signals()
    for name in SIGNALS:
        assert signals(names=[name])[name].item() == every[name].item()
    with pytest.raises(ValueError, match=r"no acoustic signal 'entrpy'; those there are: entropy, entropy_nonblank"):
        signals(names=["entrpy"])
