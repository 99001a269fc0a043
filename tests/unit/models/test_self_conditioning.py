"""Self-conditioned CTC: exits tell the layers after them what they heard, in every way to run the model."""

import numpy as np
import pytest
import torch

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.models.walk import Walk
from eeasr_modules.runtime.engine import Engine
from eeasr_modules.training.test_pass import read_exits

TINY_WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def told_on(model):
    """The model with a projection that does something."""
    torch.manual_seed(5)
    torch.nn.init.normal_(model.conditioning.projection.weight, std=2.0)
    return model


@pytest.fixture(params=["conformer", "wav2vec2", "attention heads"])
def model(request, make_model):
    """A self-conditioned model with a projection that does something."""
    if request.param == "wav2vec2":
        torch.manual_seed(1)
        encoder = {"encoder": "huggingface", "hf_config": TINY_WAV2VEC2}
        settings = {"exit_layers": [1, 2, 4], "n_tokens": 7, "blank_index": 0}
        return told_on(MultiExit({"encoder": encoder, **settings, "self_condition": True}).eval())
    head = "attention" if request.param == "attention heads" else "linear"
    return told_on(make_model(self_condition=True, head=head))


@torch.no_grad()
def last_log_probs(model, wavs, n_samples):
    return list(model.exits(wavs, n_samples))[-1].log_probs


@torch.no_grad()
def test_an_untrained_projection_changes_nothing(make_model, batch):
    plain, told = make_model(), make_model(self_condition=True)
    told.load_state_dict(plain.state_dict(), strict=False)
    for ours, theirs in zip(told(*batch)[0], plain(*batch)[0], strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_what_exits_hear_changes_the_exits_after_them_only(model, batch):
    told = model(*batch)[0]
    torch.nn.init.zeros_(model.conditioning.projection.weight)
    plain = model(*batch)[0]
    assert torch.equal(told[0], plain[0])
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(told[1:], plain[1:], strict=True))


@torch.no_grad()
def test_the_walk_reads_the_heads_itself_where_nobody_tells_it(model, batch):
    expected = model(*batch)[0]
    walk = model.walk(*batch)
    for layer, head, log_probs in zip(model.exit_layers, model.heads, expected, strict=True):
        assert torch.equal(head(walk.advance(layer), walk.n_frames), log_probs)
    jump = model.walk(*batch)  # exits are told on even where the walk does not stop
    assert torch.equal(model.heads[-1](jump.advance(4), jump.n_frames), expected[-1])


@torch.no_grad()
def test_results_do_not_depend_on_the_batch_or_on_who_left(model, batch):
    wavs, n_samples = batch
    walk = model.walk(wavs, n_samples)
    walk.advance(1)
    walk.keep(torch.tensor([True, False, True, True]))
    walk.advance(2)
    walk.keep(torch.tensor([True, True, False]))
    left = model.heads[-1](walk.advance(4), walk.n_frames)
    for row, utterance in enumerate(walk.rows.tolist()):
        n = int(n_samples[utterance])
        alone = last_log_probs(model, wavs[utterance : utterance + 1, :n], n_samples[utterance : utterance + 1])[0]
        torch.testing.assert_close(left[row, : len(alone)], alone, atol=2e-4, rtol=1e-4)


def test_the_engine_and_the_exit_table_hear_the_same(model, batch):
    wavs, n_samples = batch
    vocabulary = CharVocabulary(["<blank>", " ", *"ABCDE"])
    with torch.no_grad():
        tokens, _, _ = read_exits(model, wavs, n_samples)
    for exit_index, layer in enumerate(model.exit_layers):
        engine = Engine(model, vocabulary, policy=parse_policy(f"static({layer})"))
        heard = engine.run(wavs, n_samples, utt_ids=list("abcd"))
        assert [one.text for one in heard] == [vocabulary.decode(said) for said in tokens[exit_index]]


def test_the_model_folder_keeps_it(model, batch, tmp_path):
    model.save(tmp_path)
    again = MultiExit.load(tmp_path)
    assert again.config["self_condition"] is True
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(again(*batch)[0], model(*batch)[0], strict=True))


def test_gradients_reach_the_projection_and_the_inner_heads_from_the_last_exit(model, batch):
    model.train()
    model(*batch)[0][-1].sum().backward()
    assert model.conditioning.projection.weight.grad.abs().max() > 0
    assert model.heads[0].projection.weight.grad.abs().max() > 0


def test_costs_hold_what_is_told_on(make_model):
    plain, told = make_model(), make_model(self_condition=True)
    n_frames = int(plain.encoder.frames_for(16000))
    more = np.subtract(told.macs(16000)[0], plain.macs(16000)[0])
    projection = 7 * 16 * n_frames  # the head and the projection back, each once
    np.testing.assert_allclose(more, [0, 2 * projection, 4 * projection])


def test_a_walk_without_conditioning_is_the_encoder_alone(model, batch):
    with torch.no_grad():
        plain = Walk(model.encoder, *batch).advance(4)
        told = model.walk(*batch).advance(4)
    assert not torch.allclose(plain, told)
