"""Fine-tuned CTC checkpoints of transformers: their own head is the last exit, their vocabulary is ours."""

import json
import shutil

import pytest
import torch
from small_checkpoints import CHECKPOINTS, config_of, folders, strong
from transformers import AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.models.decoding.ctc import greedy_decode
from eeasr_modules.models.encoders.front_end import normalised
from eeasr_modules.models.encoders.huggingface_checkpoint import checkpoint_vocabulary
from eeasr_modules.models.multi_exit import MultiExit

__all__ = ["folders"]
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


@pytest.fixture(scope="module", params=["wav2vec2-base", "hubert-large"])
def ctc_folder(request, tmp_path_factory):
    """A tiny fine-tuned checkpoint: 12 tokens, the blank is number 2."""
    kind, shape = CHECKPOINTS[request.param]
    folder = tmp_path_factory.mktemp("ctc-" + request.param)
    torch.manual_seed(5)
    config = config_of(kind, shape)
    config.vocab_size, config.pad_token_id = 12, 2
    model = strong(AutoModelForCTC.from_config(config))
    with torch.no_grad():
        model.lm_head.bias[[5, 10, 11]] = -50.0  # specials are never said: transformers would write them out
    model.save_pretrained(folder)
    tokens = ["|", "E", "[PAD]", "T", "A", "[UNK]", "O", "N", "'", "S"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "unk_token": "[UNK]"}))
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


class TestFineTunedCheckpoint:
    @pytest.fixture
    def model(self, ctc_folder):
        def make(**config):
            torch.manual_seed(0)
            encoder = {"encoder": "huggingface", "source": ctc_folder}
            settings = {"exit_layers": [2, 3, 4], "n_tokens": 12, "blank_index": 2, "checkpoint_head": True, **config}
            return MultiExit({"encoder": encoder, **settings}).eval()

        return make

    def test_the_last_exit_says_exactly_what_the_checkpoint_says(self, model, ctc_folder, batch):
        stock = AutoModelForCTC.from_pretrained(ctc_folder).eval()
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(ctc_folder)
        tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(ctc_folder)
        vocabulary = CharVocabulary(checkpoint_vocabulary(ctc_folder))
        ours = model()
        assert (len(vocabulary), vocabulary.blank_index) == (12, 2)
        wavs, n_samples = batch
        with torch.no_grad():
            together, n_frames = ours(wavs, n_samples)
            for i, n in enumerate(n_samples.tolist()):
                alone = wavs[i : i + 1, :n]
                logits = stock(normalised(alone, n_samples[i : i + 1])).logits
                assert torch.equal(ours(alone, n_samples[i : i + 1])[0][-1], torch.log_softmax(logits, dim=-1))
                inputs = extractor(alone[0].numpy(), sampling_rate=16000, return_tensors="pt")
                said = tokenizer.batch_decode(stock(inputs.input_values).logits.argmax(dim=-1))[0]
                heard = greedy_decode(together[-1][i : i + 1], n_frames[i : i + 1], blank_index=2)
                assert vocabulary.decode(heard[0]) == " ".join(said.split()) != ""

    def test_inner_exits_start_from_its_projection_with_norms_of_their_own(self, model):
        heads = model().heads
        assert all(torch.equal(head.projection.weight, heads[-1].projection.weight) for head in heads)
        assert len({head.projection.weight.data_ptr() for head in heads}) == 3
        assert isinstance(heads[-1].norm, torch.nn.Identity)
        assert all(isinstance(head.norm, torch.nn.LayerNorm) for head in heads[:-1])

    @pytest.mark.parametrize("head", ["mlp", "attention"])
    def test_other_heads_leave_the_last_exit_alone(self, model, batch, tmp_path, head):
        ours = model(head=head)
        with torch.no_grad():
            said, plain = ours(*batch)[0], model()(*batch)[0]
        assert torch.equal(said[-1], plain[-1]) and not torch.equal(said[0], plain[0])
        ours.save(tmp_path)
        with torch.no_grad():
            assert torch.equal(MultiExit.load(tmp_path)(*batch)[0][-1], plain[-1])

    def test_heads_only_training_leaves_the_last_exit_as_it_is(self, model, batch):
        ours = model(head_dropout=0.5)
        before = ours(*batch)[0]
        ours.freeze_encoder()
        ours.freeze_last_head()
        ours.train()
        optimizer = torch.optim.SGD([p for p in ours.heads.parameters() if p.requires_grad], lr=1.0)
        sum(one[..., 1].mean() for one in ours(*batch)[0]).backward()
        optimizer.step()
        assert torch.equal(ours(*batch)[0][-1], before[-1])  # in training mode too
        assert not torch.equal(ours.eval()(*batch)[0][0], before[0])
        with pytest.raises(ValueError, match="share_projection is true"):
            model(share_projection=True).freeze_last_head()

    def test_its_vocabulary_reads_as_ours(self, ctc_folder):
        tokens = checkpoint_vocabulary(ctc_folder)
        assert tokens == ["|", "E", "<pad>", "T", "A", "<unk>", "O", "N", "'", "S", "<s>", "</s>"]
        vocabulary = CharVocabulary(tokens)
        assert vocabulary.encode("TO SEE") == [3, 6, 0, 9, 1, 1]
        assert vocabulary.decode([10, 3, 5, 6, 0, 0, 9, 1, 1, 11]) == "TO SEE"

    def test_another_vocabulary_is_refused(self, model):
        for wrong in ({"n_tokens": 11}, {"blank_index": 0}):
            with pytest.raises(ValueError, match=r"head has 12 tokens with blank 2, the vocabulary .* own vocabulary"):
                model(**wrong)

    def test_a_checkpoint_without_head_has_no_vocabulary_and_gives_no_head(self, folders):
        assert checkpoint_vocabulary(folders["hubert-base"]) is None
        encoder = {"encoder": "huggingface", "source": folders["hubert-base"]}
        config = {"exit_layers": [4], "n_tokens": 12, "blank_index": 2, "checkpoint_head": True}
        with pytest.raises(ValueError, match=r"checkpoint_head needs an encoder that is read from a \.\.\.ForCTC"):
            MultiExit({"encoder": encoder, **config})

    def test_a_head_without_readable_vocabulary_is_named(self, ctc_folder, tmp_path):
        shutil.copytree(ctc_folder, tmp_path / "copy")
        for path in (tmp_path / "copy").glob("*o*k*en*"):
            path.unlink()
        (tmp_path / "copy" / "vocab.json").unlink()
        with pytest.raises(ValueError, match=r"copy' has a CTC head but no readable vocab\.json"):
            checkpoint_vocabulary(str(tmp_path / "copy"))
