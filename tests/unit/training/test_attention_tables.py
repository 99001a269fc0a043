"""The test pass by attention decoder: tables beside the greedy ones, whatever the batches."""

import numpy as np
import pytest
import torch

from eeasr_modules.exits import choose, parse_policy
from eeasr_modules.exits.policies.protocol import DECODER_SIGNALS
from eeasr_modules.exits.tables.files import read_table
from eeasr_modules.models.decoding.attention import AttentionOptions, AttentionSearch
from eeasr_modules.training.fit import build_model
from eeasr_modules.training.test_pass import collect, table_metadata
from eeasr_modules.training.test_pass_decoders import chosen_decoder, decode, decode_or_reuse

KEYS = {"attention_decoder": True, "decoder_layers": 1, "decoder_heads": 2, "decoder_ffn_dim": 32}


@pytest.fixture(scope="module")
def spelling_model(make_config, vocabulary):
    """A tiny model whose decoder has opinions and often ends."""
    model = build_model(make_config(**KEYS), n_tokens=len(vocabulary), blank_index=vocabulary.blank_index).eval()
    torch.nn.init.normal_(model.decoder.to_tokens.w.weight, std=0.4)
    model.decoder.to_tokens.w.bias.data[model.decoder.end_index] = 3.0
    return model


@pytest.fixture(scope="module")
def greedy(spelling_model, vocabulary, corpora, read):
    """The greedy table of the first four utterances of the test set."""
    one = corpora.tests[0]
    metadata = table_metadata(one, spelling_model, model_digest="m", seed=7, limit=4)
    how = {"read": read, "batch_seconds": 60.0, "limit": 4, "progress": False}
    return collect(spelling_model, vocabulary, one, metadata=metadata, **how)


@pytest.fixture
def how(spelling_model, vocabulary, read):
    search = AttentionSearch(spelling_model, options=AttentionOptions(beam_size=2))
    return {"decoder": search, "vocabulary": vocabulary, "read": read, "limit": 4, "progress": False}


def test_the_table_does_not_depend_on_the_batch_and_keeps_the_greedy_signals(spelling_model, corpora, greedy, how):
    alone, together = (
        decode(spelling_model, greedy, corpora.tests[0], batch_seconds=seconds, **how) for seconds in (0.1, 60.0)
    )
    assert (alone.hypotheses == together.hypotheses).all() and any(alone.hypotheses.ravel())
    assert (alone.decoder_macs == together.decoder_macs).all() and (alone.decoder_macs > 0).all()
    for name in DECODER_SIGNALS:
        np.testing.assert_allclose(alone.signal(name), together.signal(name), atol=1e-4)
    assert (together.signal("sequence_log_prob") < 0).all() and (together.signal("token_entropy") > 0).all()
    assert (together.signal("entropy") == greedy.signal("entropy")).all() and greedy.decoder_macs is None
    assert together.metadata["decoding"] == {"beam_size": 2, "ctc_weight": 0.3}


def test_a_table_is_kept_until_the_search_changes_and_policies_are_calibrated_on_it(
    spelling_model, corpora, greedy, how, tmp_path
):
    path = tmp_path / "attention" / "test.parquet"
    made = decode_or_reuse(spelling_model, greedy, corpora.tests[0], path, batch_seconds=60.0, **how)
    at = path.stat().st_mtime_ns
    decode_or_reuse(spelling_model, greedy, corpora.tests[0], path, batch_seconds=60.0, **how)
    assert path.stat().st_mtime_ns == at
    kept = read_table(path)
    assert (kept.decoder_macs == made.decoder_macs).all()
    for name in DECODER_SIGNALS:
        assert not choose(kept, parse_policy(name), budget=1.0).policy.is_open
    how["decoder"] = AttentionSearch(spelling_model, options=AttentionOptions(beam_size=1))
    decode_or_reuse(spelling_model, greedy, corpora.tests[0], path, batch_seconds=60.0, **how)
    assert path.stat().st_mtime_ns != at


def test_the_yaml_says_how_the_decoder_searches(make_config, spelling_model, model, vocabulary):
    config = make_config(**KEYS, decoding="attention", attention_beam_size=3, attention_ctc_weight=0.5)
    assert chosen_decoder(config, spelling_model, vocabulary).options == AttentionOptions(3, 0.5)
    assert chosen_decoder(make_config(**KEYS), spelling_model, vocabulary) is None
    with pytest.raises(ValueError, match="CTC exits only"):
        chosen_decoder(config, model, vocabulary)
