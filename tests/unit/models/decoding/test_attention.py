"""Searches by the attention decoder: the best transcript of joint scores, and how sure the decoder is of it."""

import itertools

import pytest
import torch

from eeasr_modules.models.decoding.attention import AttentionOptions, AttentionSearch

SHAPE = {"n_layers": 1, "dim": 16, "n_heads": 2, "ffn_dim": 32}


def opinionated(make_model, seed=0, n_tokens=3):
    """A model whose decoder has opinions, and often ends."""
    model = make_model(seed=seed, n_tokens=n_tokens, decoder=SHAPE)
    torch.nn.init.normal_(model.decoder.to_tokens.w.weight, std=0.7)
    model.decoder.to_tokens.w.bias.data[model.decoder.end_index] = 2.0
    return model


@pytest.fixture
def model(make_model):
    """Of two tokens and the blank."""
    return opinionated(make_model)


@pytest.fixture
def heard():
    """States and CTC log-probs of six frames."""
    return noise(n_tokens=3)


def noise(*, n_tokens, seed=5):
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(6, n_tokens, generator=rng)
    return torch.randn(6, 16, generator=rng), logits.log_softmax(dim=-1)


def decoder_log_probs(model, hidden, tokens):
    """Of each token and of the end, (tokens + 1,), and all of them, (tokens + 1, vocabulary), at the second exit."""
    memory = model.decoder.memory(hidden[None], exit_index=1)
    said = torch.tensor([[*tokens, model.decoder.end_index]])
    with torch.no_grad():
        rows = model.decoder.log_probs(model.decoder.prefixes(said[:, :-1]), memory, None)[0]
    return rows.gather(1, said.T)[:, 0], rows


def joint_scores(model, hidden, log_probs, *, ctc_weight, longest):
    """Joint score per token, the end among them, of every transcript of at most so many tokens."""
    scores = {}
    for length in range(longest + 1):
        texts = torch.tensor([*itertools.product(range(1, log_probs.shape[1]), repeat=length)], dtype=torch.long)
        memory = model.decoder.memory(hidden[None], exit_index=1).expand(len(texts), -1, -1)
        said = torch.nn.functional.pad(texts, (0, 1), value=model.decoder.end_index)
        with torch.no_grad():
            rows = model.decoder.log_probs(model.decoder.prefixes(said[:, :-1]), memory, None)
            ctc = torch.nn.functional.ctc_loss(
                log_probs[:, None].expand(-1, len(texts), -1),
                torch.nn.functional.pad(texts, (0, 1)),
                torch.full((len(texts),), len(hidden)),
                torch.full((len(texts),), length),
                reduction="none",
            )
        own = rows.gather(2, said[..., None]).sum(dim=(1, 2))
        for text, score in zip(texts.tolist(), (1 - ctc_weight) * own - ctc_weight * ctc, strict=True):
            scores[tuple(text)] = score.item() / (length + 1)
    return scores


@pytest.mark.parametrize("ctc_weight", [0.3, 0.8])
def test_a_beam_finds_the_transcript_with_the_best_joint_score_per_token(make_model, ctc_weight):
    found_best = 0
    for seed in range(6):
        model = opinionated(make_model, seed=seed, n_tokens=6)
        hidden, log_probs = noise(n_tokens=6, seed=seed)
        scores = joint_scores(model, hidden, log_probs, ctc_weight=ctc_weight, longest=5)
        search = AttentionSearch(model, options=AttentionOptions(beam_size=5, ctc_weight=ctc_weight))
        found = tuple(search.decode(1, hidden, log_probs).tokens)
        found_best += found == max(scores, key=scores.get)
    assert found_best >= 5  # what the beam has dropped it cannot find


def test_a_beam_of_one_takes_the_decoders_likeliest_token_each_time(model, heard):
    hidden, log_probs = heard
    search = AttentionSearch(model, options=AttentionOptions(beam_size=1))
    tokens = search.decode(1, hidden, log_probs).tokens
    rows = decoder_log_probs(model, hidden, tokens)[1].argmax(dim=-1).tolist()
    assert rows[: len(tokens)] == tokens
    assert len(tokens) == 6 or rows[len(tokens)] == model.decoder.end_index


def test_signals_are_means_over_the_tokens_and_the_end(model, heard):
    hidden, log_probs = heard
    spelled = AttentionSearch(model, options=AttentionOptions(beam_size=4)).decode(1, hidden, log_probs)
    chosen, rows = decoder_log_probs(model, hidden, spelled.tokens)
    entropies = torch.distributions.Categorical(logits=rows).entropy()
    assert spelled.signals["sequence_log_prob"] == pytest.approx(chosen.mean().item(), abs=1e-5)
    assert spelled.signals["token_entropy"] == pytest.approx(entropies.mean().item(), abs=1e-5)


def test_ctc_leads_a_decoder_without_opinions(make_model):
    model = make_model(n_tokens=3, decoder=SHAPE)
    torch.nn.init.zeros_(model.decoder.to_tokens.w.weight)
    torch.nn.init.zeros_(model.decoder.to_tokens.w.bias)
    said = torch.tensor([0, 1, 1, 0, 1, 2])
    log_probs = (8.0 * torch.nn.functional.one_hot(said, 3).float()).log_softmax(dim=-1)
    search = AttentionSearch(model, options=AttentionOptions(beam_size=10, ctc_weight=0.5))
    assert search.decode(0, torch.randn(6, 16), log_probs).tokens == [1, 1, 2]


@pytest.mark.parametrize("beam_size", [1, 3, 40])
@pytest.mark.parametrize("n_frames", [1, 2, 9])
def test_no_blank_is_said_however_few_frames_and_wide_the_beam(model, beam_size, n_frames):
    search = AttentionSearch(model, options=AttentionOptions(beam_size=beam_size))
    log_probs = torch.randn(n_frames, 3, generator=torch.Generator().manual_seed(n_frames)).log_softmax(dim=-1)
    spelled = search.decode(2, torch.randn(n_frames, 16), log_probs)
    assert set(spelled.tokens) <= {1, 2} and len(spelled.tokens) <= n_frames
    assert all(map(torch.isfinite, map(torch.tensor, spelled.signals.values())))


def test_no_frames_say_nothing(model):
    spelled = AttentionSearch(model, options=AttentionOptions()).decode(0, torch.zeros(0, 16), torch.zeros(0, 3))
    assert spelled.tokens == [] and spelled.signals == {"sequence_log_prob": 0.0, "token_entropy": 0.0}


def test_the_same_search_twice_gives_the_same(model, heard):
    search = AttentionSearch(model, options=AttentionOptions(beam_size=5))
    first = search.decode(1, *heard)
    search.decode(2, heard[0][:3], heard[1][:3])
    assert search.decode(1, *heard) == first


def test_multiply_accumulates_are_those_of_the_calls(model, heard):
    decoder = model.decoder
    spelled = AttentionSearch(model, options=AttentionOptions(beam_size=1)).decode(1, *heard)
    n_calls = min(6, len(spelled.tokens) + 1)
    steps = sum(decoder.step_macs(1, n, 6) for n in range(1, n_calls + 1))
    assert spelled.macs == decoder.memory_macs(6) + steps + decoder.step_macs(1, len(spelled.tokens) + 1, 6)


def test_a_model_without_a_decoder_is_refused(make_model):
    with pytest.raises(ValueError, match="trained with attention_decoder: true; this one has CTC exits only"):
        AttentionSearch(make_model(), options=AttentionOptions())


@pytest.mark.parametrize(("wrong", "says"), [({"beam_size": 0}, "beam_size"), ({"ctc_weight": 1.0}, "ctc_weight")])
def test_numbers_out_of_range_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        AttentionOptions(**wrong)
