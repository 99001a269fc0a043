"""Training with an attention decoder: which keys go together, what an update trains, and that it learns to listen."""

import math
import re

import numpy as np
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.run_opts import RunOptions

from eeasr_modules.data.pipeline import build_dataset, manifest_items
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.models.decoding.attention import AttentionOptions, AttentionSearch, spelling_losses
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.training.brain import ExitBrain
from eeasr_modules.training.fit import build_model, check_run_folder, fit
from eeasr_modules.training.objectives import Spelling

SMALL = {"attention_decoder": True, "decoder_layers": 1, "decoder_heads": 2, "decoder_ffn_dim": 32}
SHAPE = {"n_layers": 1, "dim": 16, "n_heads": 2, "ffn_dim": 32, "dropout": 0.15}

KINDS = ("WER", "attention_TER")


class TestConfiguration:
    def test_keys_become_the_decoder_of_the_model(self, make_config, vocabulary):
        sizes = {"n_tokens": len(vocabulary), "blank_index": vocabulary.blank_index}
        model = build_model(make_config(**SMALL), **sizes)
        assert model.config["decoder"] == SHAPE and len(model.decoder.norms) == 2
        assert build_model(make_config(**SMALL, decoder_dim=8), **sizes).decoder.dim == 8
        assert build_model(make_config(), **sizes).decoder is None

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"decoding": "attention"}, "decoding: attention needs a decoder: give attention_decoder: true"),
            ({**SMALL, "regime": "two_step", "n_epochs": 4}, "a decoder that is shared by the exits would not"),
            ({**SMALL, "attention_weight": 1.0}, "CTC heads would not learn, got 1"),
            ({**SMALL, "attention_weight": 0.0}, "attention_weight must be above 0"),
            ({**SMALL, "attention_ctc_weight": 1.0}, "for CTC alone give decoding: beam"),
            ({**SMALL, "decoder_dim": 10, "decoder_heads": 4}, "multiple of decoder_heads, got 10 and 4"),
            ({**SMALL, "decoder_dim": 9, "decoder_heads": 3}, "must be even"),
            ({"exit_policy": "between(token_entropy)"}, "reads token_entropy, which tables of CTC transcripts lack"),
            ({**SMALL, "compare_policies": "entropy, sequence_log_prob"}, "eeasr analyze with the tables of decoding"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, make_config, changes, sentence):
        with pytest.raises(ValueError, match=sentence):
            make_config(**changes)

    def test_a_run_without_training_needs_a_model_with_a_decoder(self, make_config, model, tmp_path):
        model.save(tmp_path)
        with pytest.raises(ValueError, match="has no attention decoder: train one, or give attention_decoder: false"):
            make_config(**SMALL, n_epochs=0, init_from=str(tmp_path))

    def test_a_run_goes_on_with_the_decoder_it_began_with_only(self, make_config, tmp_path):
        check_run_folder(make_config(), tmp_path / "without")
        with pytest.raises(ValueError, match=r"holds a run with decoder None, this one has {'n_layers': 1"):
            check_run_folder(make_config(**SMALL), tmp_path / "without")
        check_run_folder(make_config(**SMALL), tmp_path / "with")
        check_run_folder(make_config(**SMALL), tmp_path / "with")
        with pytest.raises(ValueError, match=r"holds a run with decoder {.*this one has None"):
            check_run_folder(make_config(), tmp_path / "with")


class TestStart:
    def built(self, config, vocabulary):
        return build_model(config, n_tokens=len(vocabulary), blank_index=vocabulary.blank_index)

    @pytest.fixture
    def folder(self, make_config, vocabulary, tmp_path):
        """A model with a decoder and an exit after its last layer only."""
        model = self.built(make_config(**SMALL, exit_layers=[2], exit_policy="static(2)", seed=5), vocabulary)
        model.save(tmp_path / "start")
        vocabulary.save(tmp_path / "start")
        return tmp_path / "start"

    def test_the_decoder_is_taken_over_with_the_norms_of_exits_that_both_have(self, make_config, vocabulary, folder):
        start = MultiExit.load(folder)
        model = self.built(make_config(**SMALL, init_from=str(folder)), vocabulary)
        assert torch.equal(model.decoder.to_tokens.w.weight, start.decoder.to_tokens.w.weight)
        with torch.no_grad():
            start.decoder.norms[0].weight.mul_(3.0)
        start.save(folder)
        model = self.built(make_config(**SMALL, init_from=str(folder)), vocabulary)
        assert [norm.weight.mean().item() for norm in model.decoder.norms] == [1.0, 3.0]

    def test_a_decoder_of_another_shape_is_refused(self, make_config, vocabulary, folder):
        with pytest.raises(ValueError, match=r"the attention decoder of init_from .* has another shape"):
            self.built(make_config(**{**SMALL, "decoder_layers": 2}, init_from=str(folder)), vocabulary)

    def test_leaving_the_decoder_out_is_said(self, make_config, vocabulary, folder, caplog):
        assert self.built(make_config(init_from=str(folder)), vocabulary).decoder is None
        assert "is left out: attention_decoder is false" in caplog.text


class TestChoice:
    def test_checkpoints_are_chosen_by_the_decoder_too(self, make_config, corpora, tmp_path):
        config = make_config(**SMALL, attention_weight=0.25, n_epochs=1)
        fit(config, corpora, folder=tmp_path, run_opts=RunOptions(device="cpu", noprogressbar=True))
        log = (tmp_path / "train_log.txt").read_text()
        errors = {kind: [float(x) for x in re.findall(rf"valid {kind}_\d: ([\d.e+-]+)", log)] for kind in KINDS}
        (kept,) = (tmp_path / "save").glob("CKPT*/CKPT.yaml")
        chosen = float(re.search(r"^WER: (\S+)", kept.read_text(), re.M).group(1))
        wer, ter = (sum(values) / 2 for values in errors.values())
        assert len(errors["WER"]) == len(errors["attention_TER"]) == 2
        assert chosen == pytest.approx(0.75 * wer + 0.25 * ter, rel=2e-3)


class TestDraws:
    def test_exits_are_drawn_as_often_as_they_weigh_and_never_where_they_do_not(self):
        torch.manual_seed(0)
        drawn = [Spelling(0.5, 0.0).drawn((0.25, 0.0, 0.75))[0] for _ in range(2000)]
        counts = np.bincount(drawn, minlength=3)
        assert counts[1] == 0
        assert abs(counts[0] - 500) < 4 * math.sqrt(2000 * 0.25 * 0.75)


@pytest.fixture
def make_brain(make_config, vocabulary, tmp_path):
    """A brain on a fresh tiny model, in the middle of its first epoch."""
    import speechbrain as sb

    def make(**changes):
        config = make_config(**{**SMALL, **changes})
        model = build_model(config, n_tokens=len(vocabulary), blank_index=vocabulary.blank_index)
        brain = ExitBrain(
            model,
            config,
            vocabulary=vocabulary,
            n_batches=10,
            run_opts=RunOptions(device="cpu"),
            checkpointer=None,
            train_log=str(tmp_path / "log.txt"),
        )
        brain.init_optimizers()
        brain.modules.train()
        brain.on_stage_start(sb.Stage.TRAIN, 1)
        brain.step = 1
        return brain

    return make


@pytest.fixture(scope="module")
def batch(corpora, vocabulary, read):
    """Four utterances of the tone corpus."""
    dataset = build_dataset(manifest_items(corpora.train, limit=4), read=read, encode=vocabulary.encode)
    return PaddedBatch([dataset[i] for i in range(4)])


def changed_by(brain, batch):
    """Parts of the model that one update changes."""
    model = brain.modules.model
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    brain.fit_batch(batch)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    deeper = {"heads": 2, "decoder": 2}
    parts = {".".join(name.split(".")[: deeper.get(name.split(".")[0], 1)]) for name in changed}
    return parts | {name.rpartition(".")[0] for name in changed if name.startswith("decoder.norms")}


DECODER = {"decoder.embedding", "decoder.layers", "decoder.norms", "decoder.to_memory", "decoder.to_tokens"}


class TestUpdates:
    def test_one_update_trains_encoder_heads_and_the_decoder_at_one_exit(self, make_brain, batch):
        changed = changed_by(make_brain(), batch)
        drawn = changed & {"decoder.norms.0", "decoder.norms.1"}
        assert len(drawn) == 1
        assert changed - drawn == {"encoder", "heads.0", "heads.1", *DECODER}

    def test_last_only_trains_the_decoder_at_the_last_exit(self, make_brain, batch):
        brain = make_brain(regime="last_only")
        assert changed_by(brain, batch) == {"encoder", "heads.1", "decoder.norms.1", *DECODER}

    def test_the_loss_is_the_share_of_ctc_and_the_share_of_the_decoder(self, make_brain, batch):
        import speechbrain as sb

        keys = {"attention_weight": 0.3, "label_smoothing": 0.2, "regime": "last_only", "speeds": [100]}
        keys |= {"time_masks": 0, "freq_masks": 0, "dropout": 0.0, "head_dropout": 0.0, "decoder_dropout": 0.0}
        brain = make_brain(**keys)
        brain.weights = (0.0, 1.0)
        loss = brain.compute_objectives(brain.compute_forward(batch, sb.Stage.TRAIN), batch, sb.Stage.TRAIN)
        ctc = brain.loss_sums[1]
        model, tokens = brain.modules.model, batch.tokens.data
        n_tokens = torch.tensor([len(brain.vocabulary.encode(words)) for words in batch.words])
        n_samples = torch.tensor([len(wav) for wav in batch.sig.data]) * batch.sig.lengths
        prefixes = model.decoder.prefixes(tokens)
        wavs = (batch.sig.data, n_samples.round().long())
        log_probs = model(*wavs, prefixes=prefixes, spelling_exits=(1,))[2][1]
        own = spelling_losses(log_probs, tokens, n_tokens, decoder=model.decoder, label_smoothing=0.2).sum()
        assert loss.item() == pytest.approx(0.7 * ctc.item() + 0.3 * own.item() / n_tokens.sum().item(), rel=1e-5)

    def test_validation_reads_every_exit_and_its_loss_stays_that_of_ctc(self, make_brain, batch):
        import speechbrain as sb

        brain = make_brain()
        brain.modules.eval()
        brain.on_stage_start(sb.Stage.VALID)
        with torch.no_grad():
            predictions = brain.compute_forward(batch, sb.Stage.VALID)
            loss = brain.compute_objectives(predictions, batch, sb.Stage.VALID)
        assert [len(sums) for sums in brain.spelling_sums] == [1, 1]
        assert loss.item() == pytest.approx(brain.loss_sums.mean().item(), rel=1e-5)

    def test_heads_only_leaves_the_encoder_and_trains_the_decoder(self, make_brain, batch, model, vocabulary, tmp_path):
        model.save(tmp_path / "start")
        vocabulary.save(tmp_path / "start")
        changed = changed_by(make_brain(regime="heads_only", init_from=str(tmp_path / "start")), batch)
        assert "encoder" not in changed and changed >= {"heads.0", "heads.1", *DECODER}


class Dies(ExitBrain):
    """Dies at the start of the third epoch, once."""

    alive = True

    def on_stage_start(self, stage, epoch=None):
        if Dies.alive and epoch == 3 and stage.name == "TRAIN":
            Dies.alive = False
            raise KeyboardInterrupt
        super().on_stage_start(stage, epoch)


def test_a_run_that_died_goes_on_as_if_it_had_not(make_config, corpora, tmp_path):
    options = RunOptions(device="cpu", noprogressbar=True)
    keys = {**SMALL, "n_epochs": 3, "average_checkpoints": 1}
    whole = fit(make_config(**keys), corpora, folder=tmp_path / "whole", run_opts=options).state_dict()
    Dies.alive = True
    config = make_config(**keys, brain=f"{__name__}.Dies")
    with pytest.raises(KeyboardInterrupt):
        fit(config, corpora, folder=tmp_path / "died", run_opts=options)
    resumed = fit(config, corpora, folder=tmp_path / "died", run_opts=options).state_dict()
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []


LEARNS = {
    "n_epochs": 30,
    "encoder_lr": 4e-3,
    "heads_lr": 4e-3,
    "batch_seconds": 4.0,
    "dim": 32,
    "ffn_dim": 64,
    "n_mels": 40,
    "speeds": [100],
    "time_masks": 0,
    "freq_masks": 0,
    "dropout": 0.0,
    "head_dropout": 0.0,
    "decoder_dropout": 0.0,
    "label_smoothing": 0.0,
}


@pytest.mark.slow
def test_the_decoder_learns_the_tones_at_every_exit_and_by_listening(make_config, corpora, vocabulary, read, tmp_path):
    config = make_config(**{**SMALL, **LEARNS})
    model = fit(config, corpora, folder=tmp_path, run_opts=RunOptions(device="cpu", noprogressbar=True))
    last = (tmp_path / "train_log.txt").read_text().strip().splitlines()[-1]
    loss = {name: float(value) for name, value in re.findall(r"valid (\w*loss_\d): ([\d.e+-]+)", last)}
    assert max(loss["loss_1"], loss["loss_2"]) < 1.5, loss
    assert max(loss["attention_loss_1"], loss["attention_loss_2"]) < 2.0, loss
    dataset = build_dataset(manifest_items(corpora.train, limit=12), read=read, encode=vocabulary.encode)
    heard = PaddedBatch([dataset[i] for i in range(12)])
    n_samples = (heard.sig.lengths * heard.sig.data.shape[1]).round().long()
    n_tokens = (heard.tokens.lengths * heard.tokens.data.shape[1]).round().long()
    prefixes = model.decoder.prefixes(heard.tokens.data)
    for e in (0, 1):
        own, others = (
            spelling_losses(
                model(wavs, n, prefixes=prefixes, spelling_exits=(e,))[2][e],
                heard.tokens.data,
                n_tokens,
                decoder=model.decoder,
            ).sum()
            / n_tokens.sum()
            for wavs, n in ((heard.sig.data, n_samples), (heard.sig.data.roll(1, 0), n_samples.roll(1)))
        )
        assert own < 0.5 and own < others / 3, (e, own, others)
    search = AttentionSearch(model, options=AttentionOptions(beam_size=3))
    wrong, n_words = [0, 0], sum(len(words.split()) for words in heard.words)
    for wav, n, words in zip(heard.sig.data, n_samples, heard.words, strict=True):
        with torch.no_grad():
            for e, output in enumerate(model.exits(wav[None, :n], n[None])):
                text = vocabulary.decode(search.decode(e, output.hidden[0], output.log_probs[0]).tokens)
                wrong[e] += sum(count_edits(words, text))
    assert max(wrong) < 0.3 * n_words, wrong
