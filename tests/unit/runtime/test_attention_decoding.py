"""The attention decoder while transcribing: it spells where the policy stops, or where the policy reads it."""

import numpy as np
import pytest
import torch
from live_cases import engine_for
from talkative import noises, table_of, talkative_model

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits import parse_policy
from eeasr_modules.exits.policies.protocol import DECODER_SIGNALS
from eeasr_modules.exits.tuning.replay import replay
from eeasr_modules.models.decoding.attention import AttentionOptions, AttentionSearch
from eeasr_modules.runtime import EarlyExitASR
from eeasr_modules.runtime.transcript import Word

OPTIONS = AttentionOptions(beam_size=2)
SHAPE = {"n_layers": 1, "dim": 16, "n_heads": 2, "ffn_dim": 32}


@pytest.fixture(scope="module")
def spelling_model():
    """The talkative model with a decoder that has opinions and often ends."""
    model = talkative_model(decoder=SHAPE)
    torch.nn.init.normal_(model.decoder.to_tokens.w.weight, std=0.4)
    model.decoder.to_tokens.w.bias.data[model.decoder.end_index] = 3.0
    return model


@pytest.fixture(scope="module")
def noise():
    return noises(6)


@pytest.fixture(scope="module")
def spelled(spelling_model, noise):
    """What the decoder spells of each utterance alone at each exit, (utterances, exits)."""
    search = AttentionSearch(spelling_model, options=OPTIONS)
    rows = []
    with torch.no_grad():
        for wav in noise:
            exits = spelling_model.exits(wav[None], torch.tensor([len(wav)]))
            rows.append([search.decode(e, one.hidden[0], one.log_probs[0]) for e, one in enumerate(exits)])
    return rows


@pytest.fixture
def count(monkeypatch):
    """Exits at which the decoder spells, in turn."""
    exits, decode = [], AttentionSearch.decode

    def counted(self, exit_index, hidden, log_probs):
        exits.append(exit_index)
        return decode(self, exit_index, hidden, log_probs)

    monkeypatch.setattr(AttentionSearch, "decode", counted)
    return exits


def engine(model, policy, **options):
    return engine_for(model, parse_policy(policy), decoder=AttentionSearch(model, options=OPTIONS), **options)


def names(noise):
    return [f"u{i}" for i in range(len(noise))]


@pytest.mark.parametrize("policy", ["entropy(2.3)", "patience(1, 0.9)", "static(3)"])
def test_exits_are_those_of_greedy_decoding_and_the_decoder_spells_once_where_each_leaves(
    policy, spelling_model, noise, spelled, count
):
    greedy = engine_for(spelling_model, parse_policy(policy)).run_all(noise, utt_ids=names(noise))
    found = engine(spelling_model, policy).run_all(noise, utt_ids=names(noise), batch_seconds=4.0)
    assert [one.exit_layer for one in found] == [one.exit_layer for one in greedy]
    assert len(count) == len(noise)
    vocabulary = CharVocabulary()
    for one, row in zip(found, spelled, strict=True):
        tokens = row[spelling_model.exit_layers.index(one.exit_layer)].tokens
        assert one.text == vocabulary.decode(tokens) == " ".join(word.text for word in one.words)


@pytest.mark.parametrize("name", sorted(DECODER_SIGNALS))
@pytest.mark.parametrize("pool_survivors", [False, True])
def test_a_policy_on_the_decoders_signals_leaves_where_replay_leaves(
    name, pool_survivors, spelling_model, noise, spelled, count
):
    signals = {name: np.array([[one.signals[name] for one in row] for row in spelled]) for name in DECODER_SIGNALS}
    table = table_of(spelling_model, noise).with_signals(signals)
    policy = parse_policy(f"{name}({np.median(signals[name][:, :-1])})")
    expected = [spelling_model.exit_layers[e] for e in replay(policy, table)]
    live = engine(spelling_model, str(policy))
    found = live.run_all(noise, utt_ids=names(noise), batch_seconds=4.0, pool_survivors=pool_survivors)
    assert [one.exit_layer for one in found] == expected and len(set(expected)) > 1
    # each exit on the way is spelled once, the one that is taken not again
    assert len(count) == sum(spelling_model.exit_layers.index(layer) + 1 for layer in expected)


def test_words_lie_within_the_utterance_one_after_the_other(spelling_model, noise):
    for one, wav in zip(engine(spelling_model, "static(5)").run_all(noise, utt_ids=names(noise)), noise, strict=True):
        times = [time for word in one.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert all(isinstance(word, Word) and 0 < word.confidence <= 1 for word in one.words)
        assert not times or (times[0] >= 0 and times[-1] <= len(wav) / 16000 + 0.1)


@pytest.mark.parametrize("name", sorted(DECODER_SIGNALS))
def test_without_the_decoder_its_signals_are_refused_with_the_way_out(name, spelling_model):
    with pytest.raises(ValueError, match=f"reads the signal '{name}' of the attention decoder: transcribe with"):
        engine_for(spelling_model, parse_policy(f"{name}(0.5)"))


def test_a_model_folder_is_transcribed_by_its_decoder(spelling_model, noise, spelled, tmp_path):
    spelling_model.save(tmp_path)
    CharVocabulary().save(tmp_path)
    asr = EarlyExitASR.from_pretrained(tmp_path, policy="static(2)", device="cpu", decoding=OPTIONS)
    texts = [one.text for one in asr.transcribe([wav.numpy() for wav in noise], sample_rate=16000)]
    assert texts == [CharVocabulary().decode(row[1].tokens) for row in spelled]


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_lower_precision_spells_too(precision, spelling_model, noise, tmp_path):
    spelling_model.save(tmp_path)
    CharVocabulary().save(tmp_path)
    options = {"policy": "static(2)", "device": "cpu", "decoding": OPTIONS}
    asr = EarlyExitASR.from_pretrained(tmp_path, precision=precision, **options)
    found = asr.transcribe([noise[0].numpy()], sample_rate=16000)
    assert found[0].error is None and found[0].text == " ".join(word.text for word in found[0].words)


def test_a_model_without_a_decoder_is_refused_before_its_weights_are_read(model_folder):
    with pytest.raises(ValueError, match="has CTC exits only"):
        EarlyExitASR.from_pretrained(model_folder, decoding=AttentionOptions())
