"""Survivors of several batches, pooled: the same results, fewer and fuller deep batches."""

import numpy as np
import pytest
import torch
from live_cases import CASES, SEED, CountedLayers, engine_for

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits import choose, decide, parse_policy
from eeasr_modules.models.walk import Walk
from eeasr_modules.runtime import EarlyExitASR, Engine

BATCH_SECONDS = 5.0  # some 4 to 6 utterances


@pytest.mark.parametrize("text", CASES)
def test_pooled_and_replay_choose_the_same_exits_and_transcripts(text, model, wavs, table, dev):
    policy = parse_policy(text)
    policy = choose(dev, policy, budget=0.7).policy if policy.is_open else policy
    engine = Engine(model, CharVocabulary(), policy=policy, seed=SEED)
    found = engine.run_all(wavs, utt_ids=table.utt_ids, batch_seconds=BATCH_SECONDS, pool_survivors=True)
    expected = decide(policy, table)
    assert [one.exit_layer for one in found] == table.exit_layers[expected.emitted].tolist()
    assert [one.text for one in found] == table.hypotheses[np.arange(len(wavs)), expected.emitted].tolist()
    assert [one.decided_layer for one in found] == table.exit_layers[expected.decided].tolist()


def test_deep_layers_run_on_fuller_batches(model, wavs, table):
    engine = engine_for(model, parse_policy("random(0.5)"))
    runs = {}
    for pooled in (False, True):
        with CountedLayers(model) as seen:
            engine.run_all(wavs, utt_ids=table.utt_ids, batch_seconds=BATCH_SECONDS, pool_survivors=pooled)
        runs[pooled] = seen.shapes
    calls = {
        pooled: [sum(layer == at for at, *_ in shapes) for layer in range(1, 6)] for pooled, shapes in runs.items()
    }
    utterances = {
        pooled: [sum(n for at, n, _ in shapes if at == layer) for layer in range(1, 6)]
        for pooled, shapes in runs.items()
    }
    assert utterances[True] == utterances[False]
    assert calls[True][0] == calls[False][0] and calls[True][4] < calls[False][4] and calls[True][4] <= 2
    longest = max(seconds(n, frames) for _, n, frames in runs[True])
    assert longest <= BATCH_SECONDS + 0.5  # padded seconds stay below the limit, but for a frame each


def seconds(n, frames, frame_s=0.04):
    return n * frames * frame_s


def test_walks_after_different_layers_cannot_be_joined(model, wavs):
    walks = [Walk(model.encoder, wav.unsqueeze(0), torch.tensor([len(wav)])) for wav in wavs[:2]]
    walks[0].advance(1)
    with pytest.raises(ValueError, match=r"same layer, got \[0, 1\]"):
        Walk.joined([(walk, torch.tensor([0])) for walk in walks])


def test_the_recogniser_pools_when_asked(model_folder, wavs):
    options = {"policy": "random(0.5)", "device": "cpu", "batch_seconds": BATCH_SECONDS}
    plain = EarlyExitASR.from_pretrained(model_folder, **options).transcribe([*wavs])
    pooled = EarlyExitASR.from_pretrained(model_folder, pool_survivors=True, **options).transcribe([*wavs])
    assert [(one.text, one.exit_layer) for one in pooled] == [(one.text, one.exit_layer) for one in plain]
    assert len({one.exit_layer for one in plain}) > 1
