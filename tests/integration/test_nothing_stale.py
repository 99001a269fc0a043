"""One's own data that changes between sittings, and what is refused: nothing stale, and nothing in the way."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from small_corpus import make_corpus
from tiny_run import tiny_argv

import train
from eeasr_modules.exits.tables.files import read_table


@pytest.fixture
def corpus(tmp_path):
    """Tones as speech, listed in `train.csv`, `dev.csv` and `test.csv`."""
    return make_corpus(tmp_path / "corpus")


@pytest.fixture
def argv(corpus, tmp_path):
    """A tiny run on it; `changes` as of `tiny_argv`."""

    def made(run="run", folder=corpus, **changes):
        own = {"corpus": "Custom", "train_splits": "[train]", "valid_splits": "[dev]", "shifts": "[]", "n_epochs": 1}
        return tiny_argv(folder, tmp_path / run, **{**own, "compare_policies": "random", **changes})

    return made


def refused(argv, capsys):
    """The one sentence of a run that is refused."""
    capsys.readouterr()
    assert train.main(argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: error: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("train.py: error: ")


def rewrite(file, *, seed):
    """Other samples, as many, with a time of change of its own."""
    samples, rate = soundfile.read(file)
    soundfile.write(file, 0.3 * np.random.default_rng(seed).standard_normal(len(samples)), rate)


class TestStale:
    @pytest.mark.parametrize("split", ["test", "dev"])
    def test_a_recording_overwritten_in_place_is_heard_again(self, argv, corpus, tmp_path, split):
        assert train.main(argv()) == 0
        table = tmp_path / "run" / "tables" / f"custom_{split}.parquet"
        before = read_table(table)
        for file in corpus.glob(f"{split}*.wav"):
            rewrite(file, seed=3)
        assert train.main([*argv(), "--test_only"]) == 0
        after = read_table(table)
        assert not np.array_equal(before.signal("entropy"), after.signal("entropy"))
        assert before.metadata["manifest_digest"] == after.metadata["manifest_digest"]

    def test_recordings_that_were_only_touched_are_not(self, argv, corpus, tmp_path):
        assert train.main(argv()) == 0
        tables = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "tables").iterdir()}
        for file in corpus.glob("*.wav"):
            os.utime(file, (1, 1))
        assert train.main([*argv(), "--test_only"]) == 0
        assert {file: file.stat().st_mtime_ns for file in tables} == tables

    def test_a_shorter_listing_does_not_change_what_the_model_has_heard(self, argv, corpus, tmp_path, capsys):
        (corpus / "test.csv").write_text((corpus / "test.csv").read_text().replace("test0\n", "train0\n"))

        def seen():
            return json.loads((tmp_path / "run" / "report" / "summary.json").read_text())["sets"]["custom_test"]

        assert train.main(argv()) == 0
        assert "1 speakers heard in training" in capsys.readouterr().err
        lines = (corpus / "train.csv").read_text().splitlines()
        (corpus / "train.csv").write_text(
            "\n".join([lines[0], *(line for line in lines[1:] if "train0\n" not in line + "\n")])
        )
        before = seen()
        assert train.main(argv()) == 0
        said = capsys.readouterr().err
        assert (
            "the training data have changed (12 utterances before, 8 now, 8 of them in both): the model is as" in said
        )
        assert "1 speakers heard in training" in said and seen()["wer_per_exit"] == before["wer_per_exit"]


class TestPaths:
    def test_two_folders_that_differ_behind_a_hash_are_two(self, argv, corpus, tmp_path):
        other = corpus.rename(tmp_path / "t corpus #1: b=c")
        for run in ("run #1", "run #2"):
            assert train.main(argv(run, folder=other)) == 0
            assert (tmp_path / run / "report" / "summary.json").is_file()
        assert not (tmp_path / "run").exists()


class TestRunFolder:
    def test_a_second_process_is_told_who_holds_the_folder(self, argv, root, tmp_path, capsys):
        hold = "from eeasr_modules.training.run_folder import hold; import sys; hold(sys.argv[1])"
        code = f"{hold}; print(1, flush=True); input()"
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            other.stdout.readline()
            assert f"is in use by process {other.pid} on " in refused(argv(), capsys)
            other.stdin.close()
        assert train.main(argv()) == 0

    def test_the_advice_of_a_refusal_can_be_followed(self, argv, corpus, tmp_path, capsys):
        lines = (corpus / "train.csv").read_text().splitlines()
        (corpus / "train.csv").write_text("\n".join([lines[0], lines[1].replace(",", ",É ", 1), *lines[2:]]) + "\n")
        options = {"normaliser": "letters", "tokens": "unigram"}
        assert "SentencePiece cannot make 9999" in refused(argv(**options, n_tokens=9999), capsys)
        assert not (tmp_path / "run" / "run.json").exists()
        assert train.main(argv(normaliser="letters")) == 0


class TestOneSentence:
    def spoil(self, corpus, how, split):
        file = corpus / f"{split}1.wav"
        if how == "nan":
            samples, rate = soundfile.read(file)
            samples[100] = np.nan
            soundfile.write(file, samples, rate, subtype="FLOAT")
        else:
            rng = np.random.default_rng(0)
            soundfile.write(file, 0.3 * rng.standard_normal(32000), 16000, format="FLAC")
            file.write_bytes(file.read_bytes()[:20000])

    @pytest.mark.parametrize("how", ["nan", "cut"])
    @pytest.mark.parametrize("split", ["test", "dev"])
    def test_a_test_recording_that_does_not_open_is_named_before_training(
        self, argv, corpus, tmp_path, capsys, how, split
    ):
        self.spoil(corpus, how, split)
        said = refused(argv(), capsys)
        assert said.startswith("1 of 8 validation and test recordings cannot be read, the first: ")
        assert f"{split}1.wav" in said
        assert not (tmp_path / "run" / "save").exists() and not (tmp_path / "run" / "run.json").exists()

    @pytest.mark.parametrize("how", ["nan", "cut"])
    @pytest.mark.parametrize("n_workers", [0, 1])
    def test_a_training_recording_is_named(self, argv, corpus, tmp_path, capsys, how, n_workers):
        self.spoil(corpus, how, "train")
        said = refused(argv(n_workers=n_workers), capsys)
        assert "train1.wav" in said and "Traceback" not in said
        assert "Traceback" in (tmp_path / "run" / "log.txt").read_text()
        assert not (tmp_path / "run" / "run.json").exists()

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"decoding": "beam", "lm_file": "/no/such #1.arpa"}, r"lm_file '/no/such #1.arpa' does not exist"),
            ({"test_splits": "[dev]"}, "test_splits and valid_splits both name dev"),
            ({"test_splits": "[test, test]"}, "test_splits names test twice"),
            ({"train_splits": "[train, train]"}, "train_splits names train twice"),
            ({"train_max_s": 0.01}, "train_max_s 0.01 leaves no training utterance"),
        ],
    )
    def test_settings_that_cannot_be_met(self, argv, tmp_path, capsys, changes, named):
        assert named in refused(argv(**changes), capsys)
        assert not (tmp_path / "run" / "save" / "CKPT").exists() and not (tmp_path / "run" / "run.json").exists()

    @pytest.mark.parametrize("change", ["cut", "gone"])
    def test_weights_that_are_not_whole(self, argv, tmp_path, capsys, change):
        assert train.main(argv()) == 0
        weights = tmp_path / "run" / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:3000]) if change == "cut" else weights.unlink()
        said = refused(argv("again", init_from=tmp_path / "run" / "model"), capsys)
        assert "model.safetensors" in said

    def test_letters_that_an_existing_vocabulary_lacks(self, argv, corpus, tmp_path, capsys):
        assert train.main(argv(normaliser="letters")) == 0
        lines = (corpus / "train.csv").read_text().splitlines()
        (corpus / "train.csv").write_text("\n".join([lines[0], lines[1].replace(",", ",É ", 1), *lines[2:]]) + "\n")
        assert "the vocabulary lacks É, which 1 of 16" in refused(argv(normaliser="letters", n_epochs=2), capsys)
