"""A run whose deepest exit is the checkpoint's own decoder: from `train.py` to files transcribed, live as in replay."""

import json

import pytest
from decoder_checkpoint import checkpoint

import train
from eeasr_modules.cli import main
from eeasr_modules.data.pipeline import manifest_items
from eeasr_modules.exits import decide, parse_policy, read_table
from eeasr_modules.models.encoders.own_decoder import OwnDecoder
from eeasr_modules.models.multi_exit import MultiExit
from eeasr_modules.runtime import EarlyExitASR

pytestmark = pytest.mark.shared_data
SMALL = {"n_epochs": 1, "train_utterances": 8, "test_utterances": 12, "batch_seconds": 60.0, "n_workers": 0}
SMALL |= {
    "exit_layers": "[1,3]",
    "head_dim": 16,
    "exit_policy": "margin",
    "compare_policies": "random, between(patience(1))",
}
SMALL |= {"exit_budget": 0.6, "shifts": "[]", "train_splits": "[train-clean-100]", "valid_splits": "[dev-clean]"}
SMALL |= {"test_splits": "[test-other]", "cache_states": False}


def arguments(root, shared_data, **changes):
    values = {**SMALL, "data_folder": shared_data / "LibriSpeech", "freeze_encoder": True, "decoder": "own", **changes}
    return [
        str(root / "hparams" / "librispeech.yaml"),
        "--noprogressbar",
        *(part for key, value in values.items() for part in (f"--{key}", str(value))),
    ]


ONCE = pytest.mark.parametrize("run", ["moonshine", pytest.param("whisper", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(scope="module", params=["moonshine", "whisper"])
def run(request, root, shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    source = checkpoint(request.param, folder / "checkpoint", long=True)
    assert train.main(arguments(root, shared_data, source=source, output_folder=folder / "run")) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def table(run):
    return read_table(run / "tables" / "librispeech_test-other.parquet")


def paths_of(run, table):
    (manifest,) = (run / "manifests").glob("*test-other*.csv")
    items = manifest_items([manifest])
    return [items[utt_id]["wav"] for utt_id in table.utt_ids]


def live(run, table, text):
    asr = EarlyExitASR.from_pretrained(run / "model", device="cpu", policy=text, seed=table.metadata["seed"])
    found = dict(asr.stream(paths_of(run, table), utt_ids=[*table.utt_ids]))
    return [found[i] for i in range(len(table.utt_ids))]


def test_it_is_an_exit_of_table_and_report(run, table):
    shape = OwnDecoder.of(MultiExit.load(run / "model")).shape
    assert table.exit_layers.tolist() == [1, 3, shape.exit_layer()]
    assert (table.decoder_macs[:, :-1] == 0).all() and (table.decoder_macs[:, -1] > 0).all()
    summary = json.loads((run / "report" / "summary.json").read_text())
    (one,) = summary["sets"].values()
    assert len(one["wer_per_exit"]) == 3
    assert len(set(table.hypotheses[:, -1])) > 6  # it hears something else in every recording


@pytest.mark.parametrize("text", ["static(1)", "static(3)", "deepest", "chosen", "between(patience(1))", "random(0.4)"])
def test_live_is_replay(run, table, text):
    policies = {"deepest": f"static({table.exit_layers[-1]})"}
    if text in ("chosen", "between(patience(1))"):
        names = [one["policy"] for one in json.loads((run / "model" / "policy.json").read_text())["policies"]]
        policies |= {"chosen": names[0], "between(patience(1))": names[-1]}
    policy = policies.get(text, text)
    found = live(run, table, policy)
    emitted = decide(parse_policy(policy), table).emitted
    assert [(one.text, one.exit_layer) for one in found] == [
        (table.hypotheses[i, e], table.exit_layers[e]) for i, e in enumerate(emitted)
    ]
    for one in found:
        assert [word.text for word in one.words] == one.text.split()


def test_two_at_once_say_what_one_says(run, table):
    paths, policy = paths_of(run, table)[:4], f"static({table.exit_layers[-1]})"
    asr = EarlyExitASR.from_pretrained(run / "model", device="cpu", policy=policy)
    assert [one.text for one in asr.transcribe(paths)] == [asr.transcribe(path).text for path in paths]


@ONCE
def test_a_finished_run_gets_it_without_training(root, shared_data, run, tmp_path):
    source, manifest = run.parent / "checkpoint", "librispeech_test-other"
    without = arguments(root, shared_data, source=source, output_folder=tmp_path / "without", decoder="null")
    assert train.main(without) == 0
    given = {"source": source, "output_folder": tmp_path / "with", "init_from": tmp_path / "without/model"}
    assert train.main(arguments(root, shared_data, **given, n_epochs=0)) == 0
    heads, both = (read_table(tmp_path / name / "tables" / f"{manifest}.parquet") for name in ("without", "with"))
    decoded = read_table(run / "tables" / f"{manifest}.parquet")
    assert both.hypotheses[:, :-1].tolist() == heads.hypotheses.tolist()
    assert both.hypotheses[:, -1].tolist() == decoded.hypotheses[:, -1].tolist()


@ONCE
def test_an_encoder_that_has_learnt_does_not_get_it(root, shared_data, run, tmp_path, capsys):
    source, learnt = run.parent / "checkpoint", tmp_path / "learnt"
    changes = {"freeze_encoder": False, "decoder": "null", "encoder_lr": 0.01, "heads_lr": 0.01}
    assert train.main(arguments(root, shared_data, source=source, output_folder=learnt, **changes)) == 0
    given = {"source": source, "output_folder": tmp_path / "with", "init_from": learnt / "model", "n_epochs": 0}
    assert train.main(arguments(root, shared_data, **given)) == 2
    assert "follows the checkpoint's encoder as it was" in capsys.readouterr().err.strip().splitlines()[-1]


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"freeze_encoder": False}, "decoder: own needs freeze_encoder: true"),
            ({"attention_decoder": True}, "decoder: own needs attention_decoder: false"),
            ({"decoder_beams": 2, "decoder_draft": True}, "needs decoder_draft: false with decoder_beams above 1"),
            ({"exit_policy": "patience(1, first)"}, "may emit an earlier exit than it stops at"),
        ],
    )
    def test_what_does_not_go_with_it(self, root, shared_data, tmp_path, capsys, changes, sentence):
        source = checkpoint("moonshine", tmp_path / "checkpoint")
        given = arguments(root, shared_data, source=source, output_folder=tmp_path / "run", **changes)
        assert train.main(given) == 2
        assert sentence in capsys.readouterr().err.strip().splitlines()[-1]

    def test_the_same_folder_without_it(self, root, shared_data, run, capsys):
        given = {"source": run.parent / "checkpoint", "output_folder": run, "decoder": "null"}
        assert train.main([*arguments(root, shared_data, **given), "--test_only"]) == 2
        assert "holds a run with own_decoder {" in capsys.readouterr().err.strip().splitlines()[-1]

    def test_what_does_not_take_it(self, run, capsys):
        from eeasr_modules.demo.app import build
        from eeasr_modules.runtime.sources import find_source

        with pytest.raises(ValueError, match="eeasr export takes models whose exits are all heads"):
            find_source(run / "model").refuse_own_decoder("eeasr export")
        assert main(["fusion", str(run / "model"), str(run / "tables" / "librispeech_dev-clean.parquet")]) == 2
        assert "eeasr fusion takes models whose exits are all heads" in capsys.readouterr().err
        with pytest.raises(ValueError, match="fusion takes models whose exits are all heads"):
            EarlyExitASR.from_pretrained(run / "model", device="cpu", words="fused")
        assert not (run / "model" / "fusion.json").exists()
        with pytest.raises(ValueError, match="the demo takes models whose exits are all heads"):
            build(EarlyExitASR.from_pretrained(run / "model", device="cpu"))
