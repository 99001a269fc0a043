"""Live decisions: equal to replay, whatever the batch; nobody runs layers after leaving."""

import numpy as np
import pytest
import torch
from live_cases import CASES, SLOW_TO_FIT, TEXTS, CountedLayers, engine_for

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits import choose, decide, parse_policy, read_table, replay, write_table
from eeasr_modules.runtime import Engine, Recognised


def batches(n, size, rng):
    order = rng.permutation(n)
    return [order[i : i + size] for i in range(0, n, size)]


def run_in_batches(engine, wavs, utt_ids, size, rng):
    results = {}
    for batch in batches(len(wavs), size, rng):
        padded = torch.nn.utils.rnn.pad_sequence([wavs[i] for i in batch], batch_first=True)
        n_samples = torch.tensor([len(wavs[i]) for i in batch])
        results.update(zip(batch, engine.run(padded, n_samples, utt_ids=[utt_ids[i] for i in batch]), strict=True))
    return [results[i] for i in range(len(wavs))]


@pytest.fixture(scope="module")
def calibrated(dev):
    """Policies by text, calibrated once."""
    made = {}

    def get(text):
        if text not in made:
            policy = parse_policy(text)
            made[text] = choose(dev, policy, budget=0.7).policy if policy.is_open else policy
        return made[text]

    return get


@pytest.mark.parametrize("text", CASES)
def test_live_and_replay_choose_the_same_exits_and_transcripts(text, model, wavs, table, calibrated, tmp_path):
    policy = calibrated(text)
    write_table(table, tmp_path / "table.parquet")
    expected = decide(policy, read_table(tmp_path / "table.parquet"))
    rng = np.random.default_rng(0)
    for size in (1, 7, 32):
        results = run_in_batches(engine_for(model, policy), wavs, table.utt_ids, size, rng)
        assert [one.decided_layer for one in results] == table.exit_layers[expected.decided].tolist()
        assert [one.exit_layer for one in results] == table.exit_layers[expected.emitted].tolist()
        assert [one.text for one in results] == table.hypotheses[np.arange(len(wavs)), expected.emitted].tolist()
        assert all(" ".join(word.text for word in one.words) == one.text for one in results)
        assert all(one.decided_layer >= one.exit_layer for one in results)


@pytest.mark.parametrize("text", ["patience_bce(2, pairs, first)", "most_confident"])
def test_an_earlier_exit_speaks_as_it_would_have_had_it_decided(text, model, wavs, table, calibrated):
    policy = calibrated(text)
    chosen = decide(policy, table)
    assert (chosen.emitted < chosen.decided).any()
    results = engine_for(model, policy).run_all(wavs, utt_ids=list(table.utt_ids), batch_seconds=9.0)
    pooled = engine_for(model, policy).run_all(
        wavs, utt_ids=list(table.utt_ids), batch_seconds=9.0, pool_survivors=True
    )
    assert [(one.text, one.exit_layer, one.decided_layer) for one in pooled] == [
        (one.text, one.exit_layer, one.decided_layer) for one in results
    ]
    for layer in set(table.exit_layers[chosen.emitted].tolist()):
        alone = engine_for(model, parse_policy(f"static({layer})")).run_all(wavs, utt_ids=list(table.utt_ids))
        for one, same in zip(results, alone):
            if one.exit_layer == layer:
                assert (one.text, [w.text for w in one.words]) == (same.text, [w.text for w in same.words])
                assert one.confidence == pytest.approx(same.confidence, abs=1e-5)
                assert one.blank_rate == pytest.approx(same.blank_rate)


def test_the_policies_above_leave_at_several_exits(table, calibrated):
    quick = [text for text in TEXTS if text not in SLOW_TO_FIT]
    spread = {text: len(set(replay(calibrated(text), table).tolist())) for text in quick}
    assert sum(n > 1 for n in spread.values()) >= len(quick) // 2, spread


@pytest.mark.parametrize("text", ["static(2)", "random(0.4)", "entropy", "between(2, 3, entropy)"])
def test_no_layer_runs_for_nobody_or_for_one_who_left(text, model, wavs, table, calibrated):
    policy = calibrated(text)
    engine = engine_for(model, policy)
    chosen = table.exit_layers[replay(policy, table)]
    for batch in batches(len(wavs), 7, np.random.default_rng(1)):
        padded = torch.nn.utils.rnn.pad_sequence([wavs[i] for i in batch], batch_first=True)
        with CountedLayers(model) as seen:
            engine.run(padded, torch.tensor([len(wavs[i]) for i in batch]), utt_ids=[table.utt_ids[i] for i in batch])
        expected = []
        for layer in range(1, int(chosen[batch].max()) + 1):
            here = [i for i in batch if chosen[i] >= layer]
            expected.append((layer, len(here), int(table.n_frames[here].max())))
        assert seen.shapes == expected


class CountedHeads(CountedLayers):
    """Which heads were read, for how many utterances."""

    def __init__(self, model):
        self.shapes = []
        pairs = zip(model.exit_layers, model.heads)
        self.handles = [head.register_forward_pre_hook(self._note(layer)) for layer, head in pairs]


def test_a_head_is_read_only_where_the_policy_reads_it_or_somebody_leaves(model, wavs):
    n_samples = torch.tensor([len(wav) for wav in wavs[:4]])
    padded = torch.nn.utils.rnn.pad_sequence(wavs[:4], batch_first=True)
    with CountedHeads(model) as seen:
        engine_for(model, parse_policy("static(3)")).run(padded, n_samples, utt_ids=list("abcd"))
    assert [(layer, n) for layer, n, _ in seen.shapes] == [(3, 4)]
    with CountedHeads(model) as seen:
        engine_for(model, parse_policy("between(3, 5, entropy(0))")).run(padded, n_samples, utt_ids=list("abcd"))
    assert [(layer, n) for layer, n, _ in seen.shapes] == [(3, 4), (5, 4)]


def test_many_utterances_come_back_in_the_order_they_were_given(model, wavs, table, calibrated):
    policy = calibrated("entropy")
    engine = engine_for(model, policy)
    results = engine.run_all(wavs, utt_ids=list(table.utt_ids), batch_seconds=5.0)
    expected = replay(policy, table)
    assert [one.text for one in results] == table.hypotheses[np.arange(len(wavs)), expected].tolist()


def test_words_spell_the_transcript_and_their_times_rise_within_the_audio(model, wavs, table):
    results = engine_for(model, parse_policy("static(1)")).run_all(wavs, utt_ids=list(table.utt_ids))
    assert any(len(one.words) > 1 for one in results)
    for one, wav in zip(results, wavs):
        assert " ".join(word.text for word in one.words) == one.text
        times = [time for word in one.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times) and all(0 <= time <= len(wav) / 16000 + 0.04 for time in times)
        assert all(0 < word.confidence <= 1 for word in one.words)


def test_confidence_is_the_signal_of_that_name_at_the_exit_taken(model, wavs, table):
    results = engine_for(model, parse_policy("static(3)")).run_all(wavs, utt_ids=list(table.utt_ids))
    np.testing.assert_allclose([one.confidence for one in results], table.signal("confidence")[:, 2], atol=1e-5)


def test_every_exit_says_what_the_exit_table_says(model, wavs, table):
    padded = torch.nn.utils.rnn.pad_sequence(wavs[:5], batch_first=True)
    engine = engine_for(model, parse_policy("static(5)"))
    n_samples = torch.tensor([len(wav) for wav in wavs[:5]])
    said = dict(engine.every_exit(padded, n_samples))
    assert list(said) == [1, 2, 3, 5]
    assert np.array(list(said.values())).T.tolist() == table.hypotheses[:5].tolist()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("entropy", "open"),
        ("static(4)", "names layer 4"),
        ("nbest(0.5)", "nbest_posterior.*not computed while transcribing"),
    ],
)
def test_a_policy_that_cannot_decide_here_is_refused(text, complaint, model):
    with pytest.raises(ValueError, match=complaint):
        engine_for(model, parse_policy(text))


def test_a_vocabulary_of_another_size_is_refused(model):
    with pytest.raises(ValueError, match="29 tokens, got 3"):
        Engine(model, CharVocabulary(["<blank>", " ", "A"]), policy=parse_policy("static(5)"))


def test_results_are_plain_values(model, wavs):
    (one,) = engine_for(model, parse_policy("static(5)")).run_all(wavs[:1], utt_ids=["a"])
    assert isinstance(one, Recognised)
    assert type(one.confidence) is float and type(one.exit_layer) is int
