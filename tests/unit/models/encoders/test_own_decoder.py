"""The checkpoint's own decoder behind the last exit: transformers' own greedy words, batch, costs, drafts, refusals."""

import numpy as np
import pytest
import torch
from decoder_checkpoint import SHAPE, checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    GenerationMixin,
    MoonshineForConditionalGeneration,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from eeasr_modules.models.encoders import build_encoder
from eeasr_modules.models.encoders.own_decoder import OwnDecoder, most_tokens, shape_of_decoder
from eeasr_modules.models.walk import Walk

KINDS = tuple(SHAPE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: checkpoint(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def wavs():
    rng = np.random.default_rng(4)
    return [torch.from_numpy((0.3 * rng.standard_normal(n)).astype(np.float32)) for n in (9000, 16000, 12345, 19200)]


def decoder_of(folder, **options):
    return OwnDecoder(folder, exit_layer=shape_of_decoder(folder).exit_layer(), **options)


def states_of(encoder, wavs):
    n_samples = torch.tensor([len(wav) for wav in wavs])
    walk = Walk(encoder, torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), n_samples)
    hidden = walk.advance(encoder.n_layers)
    return [states[:n] for states, n in zip(hidden, walk.n_frames.tolist(), strict=True)]


@torch.no_grad()
def said_of(folder, wavs, *, drafts=None, **options):
    encoder, decoder = build_encoder({"encoder": "huggingface", "source": folder}).eval(), decoder_of(folder, **options)
    drafts = drafts or [None] * len(wavs)
    together = zip(states_of(encoder, wavs), wavs, drafts, strict=True)
    return [decoder.decode(encoder, states, wav, draft=draft) for states, wav, draft in together]


class TestTransformersOwnWords:
    def test_moonshine(self, folders, wavs):
        stock = MoonshineForConditionalGeneration.from_pretrained(folders["moonshine"]).eval()
        said = said_of(folders["moonshine"], wavs)
        for wav, one in zip(wavs, said, strict=True):
            most = min(32, 1 + most_tokens(len(wav)))
            theirs = stock.generate(input_values=wav[None], max_length=most, do_sample=False)[0].tolist()
            assert one.tokens == [token for token in theirs[1:] if token != 2]
        assert len({tuple(one.tokens) for one in said}) > 1 and all(one.tokens for one in said)

    def test_whisper_with_its_suppressed_tokens(self, folders, wavs):
        stock = WhisperForConditionalGeneration.from_pretrained(folders["whisper"]).eval()
        decoder = decoder_of(folders["whisper"])
        said, extractor = said_of(folders["whisper"], wavs), WhisperFeatureExtractor(chunk_length=1.2)
        extractor.n_samples = 19200
        for wav, one in zip(wavs, said, strict=True):
            features = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_features
            tokens, start = [*decoder._begins], len(decoder._begins)
            with torch.no_grad():  # transformers' forward, without a cache, and the rules of its generate
                while len(tokens) - start < min(decoder.most_tokens, most_tokens(len(wav))):
                    logits = stock(features, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
                    logits[[stock.generation_config.suppress_tokens[0], *range(decoder._end + 1, len(logits))]] = -1e9
                    if len(tokens) == start:
                        logits[stock.generation_config.begin_suppress_tokens] = -1e9
                    if (token := int(logits.argmax())) == decoder._end:
                        break
                    tokens.append(token)
            assert one.tokens == tokens[start:]
        assert len({tuple(one.tokens) for one in said}) > 1


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_beams_find_what_transformers_beams_find(folders, wavs, kind):
    decoder = decoder_of(folders[kind], beams=3)
    greedy, said = said_of(folders[kind], wavs), said_of(folders[kind], wavs, beams=3)
    options = {"num_beams": 3, "do_sample": False}
    for wav, one in zip(wavs, said, strict=True):
        options["max_length"] = min(32, len(decoder._begins) + most_tokens(len(wav)))
        if kind == "moonshine":
            stock = MoonshineForConditionalGeneration.from_pretrained(folders[kind]).eval()
            theirs = stock.generate(input_values=wav[None], **options)
        else:
            stock = WhisperForConditionalGeneration.from_pretrained(folders[kind]).eval()
            extractor = WhisperFeatureExtractor(chunk_length=1.2)
            extractor.n_samples = 19200
            features = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_features
            never = [*stock.generation_config.suppress_tokens, *range(decoder._end + 1, decoder.shape.vocabulary)]
            options |= {"suppress_tokens": never, "decoder_input_ids": torch.tensor([decoder._begins])}
            theirs = GenerationMixin.generate(stock, input_features=features, **options)
        assert one.tokens == [token for token in theirs[0, len(decoder._begins) :].tolist() if token != decoder._end]
    assert [one.tokens for one in said] != [one.tokens for one in greedy]
    assert all(one.macs > 2 * other.macs for one, other in zip(said, greedy, strict=True) if kind == "moonshine")


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"beams": 3}, {"draft": True, "floor": 0.0}], ids=["greedy", "beams", "draft"])
def test_who_never_ends_is_stopped_by_the_length_of_the_recording(folders, wavs, kind, options):
    encoder = build_encoder({"encoder": "huggingface", "source": folders[kind]}).eval()
    decoder = decoder_of(folders[kind], **options)
    decoder._never[:, decoder._end] = -torch.inf
    short = [wav[:n] for wav, n in zip(wavs, (4000, 8000, 12000), strict=False)]
    for states, wav in zip(states_of(encoder, short), short, strict=True):
        said = decoder.decode(encoder, states, wav, draft="YES NO MAYBE FIVE YES NO MAYBE FIVE YES")
        most = most_tokens(len(wav))
        assert len(said.tokens) == (most - 1 if said.n_drafted else most) < decoder.most_tokens


@pytest.mark.parametrize("kind", KINDS)
def test_batch_and_alone_say_the_same(folders, wavs, kind):
    together = said_of(folders[kind], wavs)
    alone = [said_of(folders[kind], [wav])[0] for wav in wavs]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.signals == pytest.approx(other.signals, abs=1e-4) and one.macs == other.macs


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_costs_what_torch_counts(folders, kind):
    decoder = decoder_of(folders[kind])
    decoder._model.set_attn_implementation("eager")  # whose products are counted
    n_frames, tokens = 40, [3, 4, 5, 6]
    states = torch.randn(1, n_frames, decoder.shape.dim)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        found = decoder._model.model.decoder(torch.tensor([tokens]), encoder_hidden_states=states, use_cache=True)
        decoder._model.proj_out(found.last_hidden_state)
    shape = decoder.shape
    macs = shape.memory_macs(n_frames) + shape.pass_macs(len(tokens), 0, n_frames, n_read=len(tokens))
    assert macs == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
class TestDraft:
    def test_floor_above_one_rejects_all_and_says_what_greedy_says(self, folders, wavs, kind):
        plain = said_of(folders[kind], wavs)
        drafted = said_of(folders[kind], wavs, drafts=["YES NO MAYBE"] * len(wavs), draft=True, floor=1.01)
        assert [one.tokens for one in drafted] == [one.tokens for one in plain]
        assert all(one.n_drafted and not one.n_accepted for one in drafted)
        assert all(one.macs > other.macs for one, other in zip(drafted, plain, strict=True))  # reading is charged

    def test_floor_zero_takes_all(self, folders, wavs, kind):
        drafted = said_of(folders[kind], wavs, drafts=["YES MAYBE FIVE"] * len(wavs), draft=True, floor=0.0)
        assert all(one.n_accepted == one.n_drafted > 0 for one in drafted)
        assert all(one.tokens[: one.n_drafted] == drafted[0].tokens[: one.n_drafted] for one in drafted)


def test_moonshine_hears_only_its_own_frames_and_whisper_is_charged_for_thirty_seconds(folders, wavs):
    encoders = {kind: build_encoder({"encoder": "huggingface", "source": folders[kind]}).eval() for kind in KINDS}
    with torch.no_grad():
        for kind, encoder in encoders.items():
            hidden = states_of(encoder, wavs[:1])[0]
            states, macs = encoder.decoder_states(hidden, wavs[0])
            if kind == "moonshine":
                assert states is hidden and macs == 0
            else:
                assert len(states) == 60 and macs > 0


class TestRefusals:
    def test_an_encoder_saved_alone(self, folders, tmp_path):
        MoonshineForConditionalGeneration.from_pretrained(folders["moonshine"]).model.encoder.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"decoder: own needs a checkpoint with a decoder .* give decoder: null"):
            shape_of_decoder(str(tmp_path))
