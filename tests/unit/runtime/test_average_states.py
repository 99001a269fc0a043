"""The states of chosen exits averaged before the shared projection: by hand, live and in replay, and where refused."""

import numpy as np
import pytest
import torch
from live_cases import engine_for
from talkative import table_of, talkative_model

from eeasr_modules.exits import decide, parse_policy
from eeasr_modules.models.multi_exit import MultiExit

SHARED = {"share_projection": True, "head": "mlp", "head_dim": 24}


def run_in_batches(engine, wavs, utt_ids, size):
    results, order = {}, np.random.default_rng(0).permutation(len(wavs))
    for batch in (order[i : i + size] for i in range(0, len(order), size)):
        padded = torch.nn.utils.rnn.pad_sequence([wavs[i] for i in batch], batch_first=True)
        n_samples = torch.tensor([len(wavs[i]) for i in batch])
        results.update(zip(batch, engine.run(padded, n_samples, utt_ids=[utt_ids[i] for i in batch]), strict=True))
    return [results[i] for i in range(len(wavs))]


@pytest.fixture(scope="module")
def averaging():
    model = talkative_model(average_states=[2, 5], **SHARED)
    model.heads[0].projection.weight.data *= 8  # so that blanks do not win everywhere
    return model


@pytest.fixture(scope="module")
def averaged_table(averaging, wavs):
    return table_of(averaging, wavs)


def test_the_last_of_the_chosen_exits_projects_the_mean_of_their_states(averaging, wavs, tmp_path):
    wav, n_samples = wavs[0][None], torch.tensor([len(wavs[0])])
    plain = talkative_model(**SHARED)
    plain.load_state_dict(averaging.state_dict())
    with torch.no_grad():
        (one, two, three, five), found = list(plain.exits(wav, n_samples)), list(averaging.exits(wav, n_samples))
        heads, frames = plain.heads, five.n_frames
        mean = (heads[1].body(heads[1].norm(two.hidden)) + heads[3].body(five.hidden)) / 2
        expected = torch.log_softmax(heads[0].projection(mean), dim=-1)
        states = torch.cat([each.hidden for each in (one, two, three, five)], dim=2)
        from_states, _ = averaging(states, frames, are_states=True)
    assert torch.allclose(found[3].log_probs, expected, atol=1e-5)
    assert torch.equal(from_states[3], found[3].log_probs)
    assert not torch.allclose(found[3].log_probs, five.log_probs, atol=1e-2)
    assert all(torch.equal(a.log_probs, b.log_probs) for a, b in zip(found[:3], (one, two, three), strict=True))
    averaging.save(tmp_path)
    with torch.no_grad():
        again = [each.log_probs for each in MultiExit.load(tmp_path).exits(wav, n_samples)]
    assert torch.equal(again[3], found[3].log_probs)
    extra = np.subtract(averaging.macs(16000)[1], plain.macs(16000)[1])
    assert extra[:3].tolist() == [0, 0, 0] and extra[3] == heads[1].body.macs(averaging.encoder.frames_for(16000))


SIGNALS = {"entropy": "entropy", "similarity": "cosine", "patience(1": "char_change"}


@pytest.mark.parametrize(
    "text", ["entropy(", "similarity(", "patience(1, ", "static(5", "most_confident", "random(0.4"]
)
def test_live_is_replay_at_any_batch_size(text, averaging, averaged_table, wavs):
    signal = SIGNALS.get(text.rstrip("(, "))
    if signal is not None:  # half of the utterances never pass it before the last exit
        inner = averaged_table.signals[signal][:, :3]
        text += str(float(np.median(inner.max(axis=1) if signal == "cosine" else inner.min(axis=1))) + 1e-4)
    policy = parse_policy(text + ")" * ("(" in text))
    chosen = decide(policy, averaged_table)
    expected = averaged_table.hypotheses[np.arange(len(wavs)), chosen.emitted].tolist()
    assert (chosen.decided == 3).any()  # somebody hears the mean
    assert len(set(expected)) > 3
    engine = engine_for(averaging, policy)
    for size in (1, 7, 32):
        results = run_in_batches(engine, wavs, averaged_table.utt_ids, size)
        assert [one.text for one in results] == expected
        assert [one.decided_layer for one in results] == averaged_table.exit_layers[chosen.decided].tolist()
    pooled = engine.run_all(wavs, utt_ids=list(averaged_table.utt_ids), batch_seconds=9.0, pool_survivors=True)
    assert [one.text for one in pooled] == expected


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"share_projection": False}, "give share_projection: true"),
        ({"self_condition": True}, "and self_condition: false"),
        (
            {"average_states": [5]},
            r"two or more of the exits, after layers \[1, 2, 3, 5\], rising, got \[5\]",
        ),
        ({"average_states": [4, 5]}, r"rising, got \[4, 5\]"),
        ({"average_states": [5, 2]}, r"rising, got \[5, 2\]"),
    ],
)
def test_heads_that_cannot_be_averaged_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        talkative_model(**{**SHARED, "average_states": [2, 5], **change})
