"""Whatever is wrong with what a user gives: one sentence, no traceback, a non-zero exit, before any model is built."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from tiny_run import YAML, tiny_argv

import train
from eeasr_modules.models.multi_exit import MultiExit


def without_audio(corpus, folder):
    """The tone corpus with texts and folders but no recording of the test set."""
    shutil.copytree(corpus, folder)
    for path in (folder / "wav" / "an4test_clstk").rglob("*.wav"):
        path.unlink()
    return folder


def with_broken_audio(corpus, folder):
    """The tone corpus, every training file cut to nothing."""
    shutil.copytree(corpus, folder)
    for path in (folder / "wav" / "an4_clstk").rglob("*.wav"):
        path.write_bytes(b"RIFF")
    return folder


def own_yaml(folder, **changes):
    """A copy of the project's YAML with lines added or replaced."""
    shutil.copytree(YAML.parent, folder / "hparams")
    path = folder / "hparams" / "an4.yaml"
    kept = [line for line in path.read_text().splitlines() if line.split(":")[0] not in changes]
    path.write_text("\n".join([*kept, *(f"{key}: {value}" for key, value in changes.items())]) + "\n")
    return path


# case: (changes to the tiny run, what the sentence must say)
CHANGES = {
    "a wrong policy": ({"exit_policy": "entorpy(0.1)"}, "entorpy"),
    "a policy without its bracket": ({"exit_policy": "entropy(0.1"}, "entropy(0.1"),
    "a policy at a layer without an exit": ({"exit_policy": "static(7)"}, "7"),
    "an exit beyond the last layer": ({"exit_layers": "[1, 9]"}, "must rise and end at 2"),
    "a list that is not closed": ({"exit_layers": "[1, 2"}, "--key value"),
    "an unknown key": ({"exit_polcy": "random"}, "unknown key exit_polcy (did you mean exit_policy?)"),
    "an unknown nested key": ({"dim": "{width: 16}"}, "dim must be int, got {'width': 16}"),
    "a dotted key": ({"dim.width": 16}, "unknown key dim.width"),
    "a value of the wrong type": ({"n_epochs": "many"}, "n_epochs must be int, got 'many'"),
    "a folder that is not there": ({"data_folder": "/nowhere/an4"}, "'/nowhere/an4' does not exist"),
    "a folder that is not the corpus": ({"data_folder": "hparams"}, "expected AN4 with"),
    "no split to test": ({"test_splits": "[]"}, "test_splits is empty"),
    "an unknown split": ({"test_splits": "[eval]"}, "AN4 has the splits"),
    "testing on training data": ({"test_splits": "[train]"}, "are in the training set"),
    "an unknown corpus": ({"corpus": "TIMIT"}, "corpus must be a folder of recipes/"),
    "an unknown shift": ({"shifts": "[wind]"}, "unknown shift 'wind'"),
    "another corpus that is not there": ({"ood_digits_folder": "/nowhere/digits"}, "recordings"),
    "a brain that is none": ({"brain": "os.path"}, "brain must be ExitBrain or a subclass"),
    "a brain that is not there": ({"brain": "no.such.Brain"}, "cannot be found"),
    "a start that is none": ({"init_from": "/nowhere"}, "init_from must be a model folder"),
    "a single-exit run that is none": ({"single_exit_folder": "/nowhere"}, "single_exit_folder '/nowhere' must be"),
    "a budget that cannot be met": ({"exit_budget": 0.1}, "exit_budget 0.1 means 0.2 layers"),
}


def refused(argv, capfd):
    """The one sentence on stderr with which these arguments are refused."""
    code = train.main([str(part) for part in argv])
    err = capfd.readouterr().err
    assert code != 0 and "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("train.py: error: ")]
    assert len(said) == 1, err
    assert err.endswith(said[0] + "\n")  # nothing after it
    return said[0].removeprefix("train.py: error: ")


@pytest.mark.parametrize("case", CHANGES)
def test_one_sentence_says_what_is_wrong(case, tone_corpus, tmp_path, capfd, monkeypatch, root):
    monkeypatch.chdir(root)
    monkeypatch.setattr(MultiExit, "__init__", lambda *_: pytest.fail("a model was built"))
    changes, says = CHANGES[case]
    sentence = refused(tiny_argv(tone_corpus, tmp_path / "run", **changes), capfd)
    assert says in sentence
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_audio, "split 'test' of AN4 has no usable utterance (9 missing)"),
        (with_broken_audio, "split 'train' of AN4 has no usable utterance (33 corrupt)"),
    ],
)
def test_a_split_without_audio_is_refused_with_the_count(spoil, says, tone_corpus, tmp_path, capfd):
    folder = spoil(tone_corpus, tmp_path / "an4")
    assert says in refused(tiny_argv(folder, tmp_path / "run"), capfd)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exit_polcy": "random"}, "unknown key exit_polcy"),
        ({"exit_policy": "{entropy: 0.1}"}, "exit_policy must be str"),
        ({"dim": "\n  width: 3"}, "dim must be int, got {'width': 3}"),
        ({"defaults": "shared/conformer.yaml"}, "defaults must include another YAML"),
        ({"dim": "[1"}, "is not a valid YAML"),
        ({"dim": "!new:no.such.Class"}, "is not a valid YAML"),
    ],
)
def test_the_same_holds_for_what_stands_in_the_yaml(changes, says, tone_corpus, tmp_path, capfd):
    path = own_yaml(tmp_path, **changes)
    given = ["--data_folder", tone_corpus, "--output_folder", tmp_path / "run"]
    assert says in refused([path, *given], capfd)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["True"], "--key value"),
        (["--test_only"], "--test_only needs a trained model"),
        (["--n_tokens", "5000", "--tokens", "bpe"], "cannot make 5000 bpe tokens"),
        (["--precision", "fp16", "--device", "cpu"], "fp16"),
        (["--device", "cuda:99"], "device must be one that torch can use here, such as cpu, got 'cuda:99'"),
    ],
)
def test_what_can_only_be_seen_later_is_one_sentence_too(more, says, tone_corpus, tmp_path, capfd):
    argv = tiny_argv(tone_corpus, tmp_path / "run")
    assert says in refused([argv[0], *more, *argv[1:]] if more == ["True"] else [*argv, *more], capfd)


def test_a_run_folder_of_another_shape_is_refused_and_left_as_it_was(tone_corpus, tmp_path, capfd):
    argv = tiny_argv(tone_corpus, tmp_path / "run", exit_policy="entorpy")
    refused(argv, capfd)
    (tmp_path / "run").mkdir(exist_ok=True)
    note = tmp_path / "run" / "run.json"
    note.write_text('{"exit_layers": [2]}')
    sentence = refused(tiny_argv(tone_corpus, tmp_path / "run"), capfd)
    assert "holds a run with exit_layers [2], this one has [1, 2]" in sentence
    assert note.read_text() == '{"exit_layers": [2]}'


def test_a_yaml_that_is_not_there_is_refused(capfd):
    assert "no such YAML: 'hparams/an5.yaml'; those of this project are in hparams/" in refused(
        ["hparams/an5.yaml"], capfd
    )


def test_without_arguments_it_says_how_to_use_it(capfd):
    assert train.main([]) == 2 and train.main(["--help"]) == 0
    assert capfd.readouterr().out.count("python train.py hparams/an4.yaml") == 2


SLOW_CASES = [
    pytest.param(one, marks=pytest.mark.slow) for one in ("a wrong policy", "a folder that is not the corpus")
]


@pytest.mark.parametrize("case", ["an exit beyond the last layer", *SLOW_CASES])
def test_the_real_command_says_it_soon_and_says_nothing_else(case, tone_corpus, tmp_path, root):
    changes, says = CHANGES[case]
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "train.py", *tiny_argv(tone_corpus, tmp_path / "run", **changes)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    took_s = time.monotonic() - before
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("train.py: error: ")]) == 1
    assert took_s < 60  # 15 s are promised; machines that run tests are busy
