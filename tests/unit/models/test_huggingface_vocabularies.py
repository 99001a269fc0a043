"""Vocabularies of other people's CTC checkpoints: phones, lower case, several languages, none."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoint import save_checkpoint
from transformers import AutoModelForCTC, Wav2Vec2PhonemeCTCTokenizer

from eeasr_modules.data.text import CharVocabulary, load_vocabulary
from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_vocabulary, read_checkpoint
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.config.keys import Config
from eeasr_modules.training.fit import check_spelling, has_checkpoint_vocabulary, in_case_of

PHONES = ["<pad>", "<s>", "</s>", "<unk>", "m", "e", "iː", "n", "tʃ"]
LOWER = ["<pad>", "<s>", "</s>", "<unk>", "|", *"etaonihsrdlumwcfgypbvk'xjqz"]


def checkpoint(folder, tokens, *, settings=None, **shape):
    """A tiny `...ForCTC` checkpoint with these tokens."""
    save_checkpoint(folder, kind="wav2vec2", **{"n_layers": 1, **shape}, ctc=True, vocab_size=len(tokens))
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


class TestPhones:
    @pytest.fixture
    def source(self, tmp_path):
        settings = {
            "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
            "phone_delimiter_token": " ",
            "word_delimiter_token": None,
            "do_phonemize": False,
        }
        return checkpoint(tmp_path / "phones", PHONES, settings=settings)

    def test_they_are_apart_as_transformers_has_them(self, source, tmp_path):
        vocabulary = CharVocabulary(checkpoint_vocabulary(source))
        stock = Wav2Vec2PhonemeCTCTokenizer.from_pretrained(source)
        for ids in ([4, 5, 6], [6, 4, 4], [8]):
            collapsed_by_stock = stock.decode(ids, group_tokens=False)
            assert vocabulary.decode(ids) == collapsed_by_stock
            assert vocabulary.encode(collapsed_by_stock) == ids
        assert vocabulary.decode([4, 5, 6]) == "m e iː" and vocabulary.blank_index == 0
        vocabulary.save(tmp_path)
        assert load_vocabulary(tmp_path).encode("m e iː") == [4, 5, 6]
        assert "".join(vocabulary.spellings[i] for i in (4, 6)) == " m iː"

    def test_texts_of_phones_can_be_trained_on_and_others_are_refused(self, source):
        vocabulary = CharVocabulary(checkpoint_vocabulary(source))
        check_spelling(vocabulary, ["m e iː", "tʃ n"])
        with pytest.raises(ValueError, match="the vocabulary lacks mei, which 1 of 2 training"):
            check_spelling(vocabulary, ["m e iː", "mei"])


class TestLowerCase:
    def test_it_is_read_in_the_case_of_the_texts(self, tmp_path):
        source = checkpoint(tmp_path / "lower", LOWER)
        stock = CharVocabulary(checkpoint_vocabulary(source))
        vocabulary = in_case_of(["YES", "IT'S"], stock)
        check_spelling(vocabulary, ["YES", "IT'S"])
        assert vocabulary.decode(stock.encode("it's")) == "IT'S"
        assert in_case_of(["yes"], stock) is stock
        config = Config(
            {
                "encoder": "huggingface",
                "init_from": None,
                "source": source,
                "tokens": "characters",
                "checkpoint_head": True,
                "target_lang": None,
            }
        )
        assert has_checkpoint_vocabulary(config, vocabulary) and has_checkpoint_vocabulary(config, stock)
        assert not has_checkpoint_vocabulary(config, CharVocabulary())


def test_a_token_and_its_bracketed_twin_are_told_apart(tmp_path):
    settings = {"unk_token": "[UNK]", "pad_token": "<pad>"}
    source = checkpoint(tmp_path / "both", ["<pad>", "<unk>", "[UNK]", "|", "A"], settings=settings)
    vocabulary = CharVocabulary(checkpoint_vocabulary(source))
    assert vocabulary.tokens == ("<pad>", "<unk>", "<unk_2>", "|", "A")
    assert vocabulary.decode([1, 2, 4]) == "A"
    with pytest.raises(ValueError, match="must be unique, got A twice"):
        CharVocabulary(["<pad>", "A", "A"])


def test_a_folder_without_tokenizer_is_one_sentence_and_lends_its_encoder(tmp_path):
    source = checkpoint(tmp_path / "none", LOWER)
    (tmp_path / "none" / "vocab.json").unlink()
    with pytest.raises(ValueError, match=r"no readable vocab\.json: copy its tokenizer's files .* or give tokens: uni"):
        checkpoint_vocabulary(source)
    config = Config(
        {
            "encoder": "huggingface",
            "init_from": None,
            "source": source,
            "tokens": "unigram",
            "checkpoint_head": True,
            "target_lang": None,
        }
    )
    assert not has_checkpoint_vocabulary(config, CharVocabulary())
    assert read_checkpoint(source, attention=None, dropout=None).ctc is not None


@pytest.mark.parametrize("language", [None, "eng"])
def test_several_languages_are_one_sentence(tmp_path, language):
    settings = {"target_lang": language, "tokenizer_class": "Wav2Vec2CTCTokenizer"}
    source = checkpoint(tmp_path / "mms", LOWER, settings=settings)
    by_language = {name: {token: index for index, token in enumerate(LOWER)} for name in ("eng", "fra")}
    (tmp_path / "mms" / "vocab.json").write_text(json.dumps(by_language))
    with pytest.raises(
        ValueError, match=r"several languages \(eng, fra\): choose one by target_lang, or give tokens: unigram"
    ):
        checkpoint_vocabulary(source)


FRENCH = [*LOWER, "é", "ç"]


@pytest.fixture
def mms(tmp_path):
    """A tiny checkpoint with an adapter, a head and a vocabulary for English and for French, as stock saves them."""
    torch.manual_seed(0)
    source = checkpoint(
        tmp_path / "mms",
        LOWER,
        settings={"target_lang": None},
        n_layers=2,
        adapter_attn_dim=4,
        do_stable_layer_norm=True,
    )
    vocabularies = {"eng": LOWER, "fra": FRENCH}
    by_language = {name: {token: i for i, token in enumerate(tokens)} for name, tokens in vocabularies.items()}
    (tmp_path / "mms" / "vocab.json").write_text(json.dumps(by_language))
    for language, tokens in vocabularies.items():
        model = AutoModelForCTC.from_pretrained(source, vocab_size=len(tokens), ignore_mismatched_sizes=True)
        adapters = model._get_adapters()
        for weights in adapters.values():
            torch.nn.init.normal_(weights)
        save_file(
            {k: v.detach().clone() for k, v in adapters.items()}, tmp_path / "mms" / f"adapter.{language}.safetensors"
        )
    return source


class TestLanguages:
    @pytest.mark.parametrize(("language", "tokens"), [("eng", LOWER), ("fra", FRENCH)])
    def test_the_chosen_one_has_its_adapter_head_and_vocabulary(self, mms, tmp_path, language, tokens):
        assert len(checkpoint_vocabulary(mms, target_lang=language)) == len(tokens)
        stock = AutoModelForCTC.from_pretrained(mms)
        stock.load_adapter(language)
        encoder = {"encoder": "huggingface", "source": mms, "target_lang": language, "normalise_wavs": False}
        config = {"encoder": encoder, "exit_layers": [2], "n_tokens": len(tokens), "blank_index": 0}
        model = MultiExit({**config, "checkpoint_head": True}).eval()
        wav = torch.randn(1, 8000)
        with torch.no_grad():
            theirs = torch.log_softmax(stock.eval()(wav).logits, dim=-1)
            ours = model(wav, torch.tensor([8000]))[0][-1]
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
            model.save(tmp_path / "model")
            assert torch.equal(MultiExit.load(tmp_path / "model")(wav, torch.tensor([8000]))[0][-1], ours)

    def test_a_language_that_it_has_not_or_whose_adapter_is_gone(self, mms, tmp_path):
        with pytest.raises(ValueError, match=r"target_lang must be null or a language of .* \(eng, fra\), got 'deu'"):
            checkpoint_vocabulary(mms, target_lang="deu")
        (tmp_path / "mms" / "adapter.fra.safetensors").unlink()
        with pytest.raises(ValueError, match=r"the weights of checkpoint '.*mms' cannot be read"):
            read_checkpoint(mms, attention=None, dropout=None, target_lang="fra")

    def test_a_language_of_a_checkpoint_that_has_one_only(self, tmp_path):
        source = checkpoint(tmp_path / "one", LOWER)
        with pytest.raises(ValueError, match=r"target_lang must be null or a language of .* \(it has one only\)"):
            checkpoint_vocabulary(source, target_lang="fra")
        with pytest.raises(ValueError, match="has no adapters for languages"):
            read_checkpoint(source, attention=None, dropout=None, target_lang="fra")


@pytest.mark.parametrize("change", ["cut", "gone"])
def test_weights_that_are_not_whole_are_one_sentence(tmp_path, change):
    source = checkpoint(tmp_path / "broken", LOWER)
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000]) if change == "cut" else weights.unlink()
    with pytest.raises(ValueError, match=r"the weights of checkpoint '.*broken' cannot be read"):
        read_checkpoint(source, attention=None, dropout=None)
