"""The LibriSpeech and Common Voice recipes on real trees, with a tiny encoder in place of the hub's."""

import json
import re
import shutil

import pytest
import torch
from tiny_checkpoint import LETTERS, save_checkpoint
from transformers import HubertForCTC

import train
from eeasr_modules.data.manifest import read_description, read_manifest
from eeasr_modules.data.text import load_vocabulary
from eeasr_modules.exits.policies.files import read_policies
from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tables.files import read_table
from eeasr_modules.exits.tuning.replay import decide
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime import EarlyExitASR

pytestmark = pytest.mark.shared_data
COMMON_VOICE = "cv-corpus-13.0-delta-2023-03-09/en"
SMALL = {
    "train_utterances": 8,
    "test_utterances": 4,
    "batch_seconds": 60.0,
    "n_workers": 0,
    "compare_policies": "random, between(patience(1))",
    "exit_budget": 1.0,
}
PARTS = {
    "train_splits": "[train-clean-100]",
    "valid_splits": "[dev-clean]",
    "test_splits": "[test-other]",
}


def run(root, yaml, **changes):
    """`train.py` with a YAML of the project and these keys; the run folder's summary."""
    values = {**SMALL, **changes}
    given = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    assert train.main([str(root / "hparams" / yaml), "--noprogressbar", *given]) == 0
    return json.loads((changes["output_folder"] / "report" / "summary.json").read_text())


def labels(summary):
    return {name: one["label"] for name, one in summary["sets"].items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module")
def libri(root, shared_data, folder):
    """A LibriSpeech run of one epoch, taken up again for a second; its checkpoint is gone afterwards."""
    source = save_checkpoint(folder / "wavlm")
    here = {"data_folder": shared_data / "LibriSpeech", "output_folder": folder / "libri", "source": source, **PARTS}
    run(root, "librispeech.yaml", n_epochs=1, **here)
    more = {"n_epochs": 2, "ood_commonvoice_folder": shared_data / COMMON_VOICE}
    summary = run(root, "librispeech.yaml", **here, **more)
    shutil.rmtree(source)
    return folder / "libri", summary


class TestLibriSpeech:
    def test_it_trains_resumes_and_reports_in_and_out_of_domain(self, libri):
        run_folder, summary = libri
        log = (run_folder / "train_log.txt").read_text()
        assert re.findall(r"^epoch: (\d+),", log, re.M) == ["1", "2"]  # the first was not done again
        assert labels(summary) == {"librispeech_test-other": "in_domain", "commonvoice_test": "ood"}
        assert all(len(one["wer_per_exit"]) == 2 for one in summary["sets"].values())  # every 2 of 4 layers
        assert (run_folder / "report" / "report.md").is_file()
        assert (run_folder / "model" / "policy.json").is_file()

    def test_the_model_folder_needs_no_checkpoint(self, libri):
        model = MultiExit.load(libri[0] / "model")
        assert model.exit_layers == [2, 4] and model.config["encoder"]["hf_config"]["model_type"] == "wavlm"

    def test_another_encoder_in_the_same_folder_is_refused(self, root, shared_data, libri, folder, capsys):
        source = save_checkpoint(folder / "other", kind="hubert")
        argv = [str(root / "hparams" / "librispeech.yaml"), "--data_folder", str(shared_data / "LibriSpeech")]
        argv += ["--output_folder", str(libri[0]), "--source", str(source)]
        argv += [part for key, value in PARTS.items() for part in (f"--{key}", value)]
        assert train.main(argv) == 2
        assert f"holds a run with source {folder / 'wavlm'}, this one has {source}" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({"source": "no/such"}, "no checkpoint 'no/such'"),
            ({"test_splits": "[test-clean]"}, "has the subsets dev-clean, test-other, train-clean-100, got test-clean"),
        ],
    )
    def test_what_is_not_there_is_said_in_one_sentence(
        self, root, shared_data, folder, capsys, monkeypatch, given, sentence
    ):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        source = save_checkpoint(folder / "again")
        argv = [str(root / "hparams" / "librispeech.yaml"), "--output_folder", str(folder / "none")]
        values = {"data_folder": shared_data / "LibriSpeech", "source": source, **PARTS, **given}
        assert train.main([*argv, *(part for key, value in values.items() for part in (f"--{key}", str(value)))]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("train.py: error: ") and sentence in error


class TestCheaperEncoders:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["convolution", "signal"])
    def test_the_first_layers_with_shorter_input_train_test_and_transcribe(self, root, shared_data, folder, kind):
        source = save_checkpoint(folder / f"cut_{kind}", kind="wavlm")
        values = {"data_folder": shared_data / "LibriSpeech", "source": source, **PARTS, "n_epochs": 1}
        values |= {"keep_layers": 3, "exit_layers": "every 1", "downsample": kind, "downsample_factor": 2}
        values |= {"freeze_feature_extractor": True, "output_folder": folder / f"cut_{kind}_run"}
        run(root, "librispeech.yaml", **values)
        shutil.rmtree(source)
        model = MultiExit.load(folder / f"cut_{kind}_run" / "model")
        assert model.exit_layers == [1, 2, 3] and model.config["encoder"]["hf_config"]["num_hidden_layers"] == 3
        (table,) = (read_table(path) for path in (folder / f"cut_{kind}_run" / "tables").glob("*test-other.parquet"))
        assert table.n_frames[0] == model.encoder.frames_for(round(table.duration_s[0] * 16000))
        assert table.cost_macs[0, -1] == pytest.approx(model.macs(round(table.duration_s[0] * 16000))[0][-1])
        one = next((shared_data / "LibriSpeech").rglob("*-0000.*"))
        heard = EarlyExitASR.from_pretrained(folder / f"cut_{kind}_run" / "model", policy="static(2)").transcribe(one)
        assert heard.exit_layer == 2 and heard.n_layers == 3


class TestOutOfDomain:
    def test_a_librispeech_model_meets_common_voice_with_its_own_thresholds(self, root, shared_data, libri, folder):
        before, _ = libri
        summary = run(
            root,
            "ood_commonvoice.yaml",
            data_folder=shared_data / "LibriSpeech",
            output_folder=folder / "ood",
            init_from=before / "model",
            ood_commonvoice_folder=shared_data / COMMON_VOICE,
            **PARTS,
        )
        assert labels(summary) == {"librispeech_test-other": "in_domain", "commonvoice_test": "ood"}
        ours, theirs = (MultiExit.load(one / "model").state_dict() for one in (folder / "ood", before))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        tables = [read_table(one / "tables" / "commonvoice_test.parquet") for one in (folder / "ood", before)]
        assert (tables[0].hypotheses == tables[1].hypotheses).all()
        ours, theirs = (read_policies(one / "model" / "policy.json") for one in (folder / "ood", before))
        assert [str(one.policy) for one in ours] == [str(one.policy) for one in theirs]


class TestFrozen:
    def test_only_new_heads_are_trained_and_the_checkpoint_stays_as_it_is(self, root, shared_data, folder):
        source = save_checkpoint(folder / "ctc", kind="hubert", n_layers=4, ctc=True)
        summary = run(
            root,
            "librispeech_frozen.yaml",
            data_folder=shared_data / "LibriSpeech",
            output_folder=folder / "frozen",
            source=source,
            exit_layers="every 1 from 2",
            n_epochs=1,
            **PARTS,
        )
        assert len(summary["sets"]["librispeech_test-other"]["wer_per_exit"]) == 3
        model = MultiExit.load(folder / "frozen" / "model")
        stock = HubertForCTC.from_pretrained(source).eval()
        assert torch.equal(model.heads[-1].projection.weight, stock.lm_head.weight)
        assert not torch.equal(model.heads[0].projection.weight, stock.lm_head.weight)
        assert list(load_vocabulary(folder / "frozen" / "model").tokens) == LETTERS
        wavs = torch.randn(1, 16000)
        normal = (wavs - wavs.mean()) / torch.sqrt(wavs.var(correction=0) + 1e-7)
        with torch.no_grad():
            theirs = torch.log_softmax(stock(normal).logits, dim=-1)
            log_probs, _ = model(wavs, torch.tensor([16000]))
        assert torch.allclose(log_probs[-1], theirs, atol=1e-5)


class TestPaper:
    def test_heads_of_the_paper_learn_on_a_frozen_checkpoint_and_its_rules_are_compared(
        self, root, shared_data, folder
    ):
        source = save_checkpoint(folder / "paper_ctc", kind="hubert", n_layers=4, ctc=True)
        summary = run(
            root,
            "paper.yaml",
            data_folder=shared_data / "LibriSpeech",
            output_folder=folder / "paper",
            source=source,
            exit_layers="[1, 2, 3, 4]",
            compare_policies="paper",
            n_epochs=2,
            head_dim=32,
            **PARTS,
        )
        log = (folder / "paper" / "train_log.txt").read_text()
        assert [float(lr) for lr in re.findall(r"lr: ([0-9.e-]+)", log)] == [2e-4] * 2  # constant
        model = MultiExit.load(folder / "paper" / "model")
        stock = HubertForCTC.from_pretrained(source).eval()
        encoder = stock.hubert.state_dict()
        ours = {name.removeprefix("model."): value for name, value in model.encoder.state_dict().items()}
        frozen = [name for name in encoder if name in ours]
        assert len(frozen) > 20 and all(torch.equal(ours[name], encoder[name]) for name in frozen)
        assert len({id(head.projection) for head in model.heads}) == 1
        assert not torch.equal(model.heads[-1].projection.weight, stock.lm_head.weight)
        (one,) = summary["sets"].values()
        assert {"most_confident", "patience(2, 0.1, pairs, first)", "patience_bce(4, 0.04, pairs, first)"} <= set(
            one["policies"]
        )
        confident = one["policies"]["most_confident"]["at_budget"]
        assert confident["depth"] == 4 >= confident["emitted_depth"] > 0
        table = read_table(next((folder / "paper" / "tables").glob("*test-other.parquet")))
        policy = parse_policy("patience_bce(2, 0.5, pairs, first)")
        chosen = decide(policy, table)
        asr = EarlyExitASR.from_pretrained(folder / "paper" / "model", policy=str(policy))
        for i, name in enumerate(table.utt_ids):
            (path,) = (shared_data / "LibriSpeech" / "test-other").rglob(f"{name}.*")
            heard = asr.transcribe(path)
            assert heard.text == table.hypotheses[i, chosen.emitted[i]]
            assert heard.exit_layer == table.exit_layers[chosen.emitted[i]]
            assert heard.decided_layers == (table.exit_layers[chosen.decided[i]],)


class TestCommonVoice:
    @pytest.mark.slow
    def test_it_trains_on_one_release_and_is_tested_on_others_without_its_speakers(self, root, shared_data, folder):
        source = save_checkpoint(folder / "base", kind="wav2vec2")
        summary = run(
            root,
            "commonvoice.yaml",
            data_folder=shared_data / COMMON_VOICE,
            output_folder=folder / "cv",
            source=source,
            n_epochs=1,
            release_6_1_folder=shared_data / "cv-corpus-6.1-2020-12-11",
            release_6_1_splits="[validated]",
            release_20_folder=shared_data / "cv-corpus-20.0-delta-2024-12-06",
            release_20_splits="[test, dev]",
            ood_librispeech_folder=shared_data / "LibriSpeech",
            ood_librispeech_splits="[test-other]",
        )
        assert labels(summary) == {
            "commonvoice_test": "in_domain",
            "commonvoice_6_1_validated": "in_domain",
            "commonvoice_20_test": "in_domain",
            "commonvoice_20_dev": "in_domain",
            "librispeech_test-other": "ood",
        }
        manifests = folder / "cv" / "manifests"
        heard = {row.speaker for row in read_manifest(manifests / "commonvoice_train.csv")}
        old = manifests / "commonvoice_6_1" / "commonvoice_validated.csv"
        assert read_description(old)["skipped"] == {"speaker excluded": 5}
        assert not heard & {row.speaker for row in read_manifest(old)}


def same_speech_twice(source, folder):
    """The 20 utterances of dev-clean as two subsets under other names, so that what was learned can be read off."""
    for subset, first in (("learn", "8"), ("again", "9")):
        for transcript in sorted(source.glob("*/*/*.trans.txt")):
            speaker, chapter = (first + transcript.parts[-3], transcript.parts[-2])
            there = folder / subset / speaker / chapter
            there.mkdir(parents=True)
            lines = transcript.read_text().splitlines()
            (there / f"{speaker}-{chapter}.trans.txt").write_text("".join(f"{first}{line}\n" for line in lines))
            for flac in transcript.parent.glob("*.flac"):
                shutil.copy(flac, there / f"{first}{flac.name}")


@pytest.mark.slow
def test_a_tiny_encoder_learns_20_real_utterances_by_heart(root, shared_data, folder):
    data = folder / "LibriSpeech"
    same_speech_twice(shared_data / "LibriSpeech" / "dev-clean", data)
    shutil.copytree(shared_data / "LibriSpeech" / "test-other", data / "test-other")
    shape = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256, "conv_dim": (48,) * 7}
    stable = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_conv_pos_embeddings": 32}
    source = save_checkpoint(folder / "learner", kind="wav2vec2", n_layers=2, **shape, **stable)
    run(
        root,
        "librispeech.yaml",
        data_folder=data,
        output_folder=folder / "learned",
        source=source,
        train_splits="[learn]",
        valid_splits="[again]",
        test_splits="[test-other]",
        exit_layers="[1, 2]",
        train_utterances="null",
        train_max_s="null",
        test_utterances=20,
        cache_audio_mb=50,
        freeze_feature_extractor="false",
        speeds="[100]",
        mask_time_prob=0.0,
        dropout=0.0,
        head_dropout=0.0,
        weight_decay=0.0,
        encoder_lr=1e-3,
        heads_lr=2e-3,
        batch_seconds=24.0,
        n_epochs=40,
        average_checkpoints=1,
    )
    table = read_table(folder / "learned" / "tables" / "librispeech_again.parquet")
    assert table.n_utterances == 20
    assert table.wer_per_exit[-1] < 10.0
