"""`eeasr transcribe`, as typed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from eeasr_modules.cli import main
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.models import MultiExit

ENCODER = {"encoder": "conformer", "n_layers": 3, "dim": 16, "n_heads": 2, "ffn_dim": 32, "n_mels": 20}
N_GOOD, BROKEN = 20, {"empty.wav": b"", "text.wav": b"not audio", "cut.flac": b"fLaC\0"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model of random weights, without policies."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    MultiExit({"encoder": ENCODER, "exit_layers": [1, 2, 3], "n_tokens": 29, "blank_index": 0}).save(folder)
    CharVocabulary().save(folder)
    return folder


@pytest.fixture
def recordings(tmp_path):
    """A folder with 20 recordings and 3 broken files."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(N_GOOD):
        soundfile.write(folder / f"r{i:02d}.wav", 0.1 * rng.standard_normal(rng.integers(4000, 12000)), 16000)
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def transcribe(*arguments):
    return main(["transcribe", *map(str, arguments)])


def test_broken_files_are_reported_the_rest_is_done_and_the_status_says_so(
    model_folder, recordings, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(recordings.parent)  # `random` goes by the path
    recordings = recordings.name
    out = tmp_path / "out.jsonl"
    assert transcribe(model_folder, recordings, "--policy", "random(0.5)", "-o", out) == 1
    found = {os.path.basename(line["audio"]): line for line in lines(out)}
    assert len(found) == N_GOOD + len(BROKEN)
    assert {name for name, line in found.items() if line["error"]} == set(BROKEN)
    taken = {line["exit_layer"] for name, line in found.items() if name not in BROKEN}
    assert len(taken) > 1 and taken <= {1, 2, 3}
    assert "3 could not be transcribed" in capsys.readouterr().err
    # again: nothing is done twice, the status still says that some failed
    before = out.read_bytes()
    assert transcribe(model_folder, recordings, "--policy", "random(0.5)", "-o", out) == 1
    assert out.read_bytes() == before
    assert f"{N_GOOD + len(BROKEN)} done before" in capsys.readouterr().err


def test_another_policy_does_not_go_on_with_the_file(model_folder, recordings, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert transcribe(model_folder, recordings / "r00.wav", "-o", out) == 0
    assert transcribe(model_folder, recordings / "r01.wav", "--policy", "static(1)", "-o", out) == 2
    assert "cannot be continued" in capsys.readouterr().err


def test_without_an_output_lines_are_printed(model_folder, recordings, capsys):
    assert transcribe(model_folder, recordings / "r00.wav") == 0
    assert capsys.readouterr().out.startswith(f"{recordings / 'r00.wav'}\t")


def test_json_lines_and_csv_are_printed_when_asked_for(model_folder, recordings, capsys):
    assert transcribe(model_folder, recordings / "r00.wav", "--format", "jsonl") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["audio"] == str(recordings / "r00.wav")
    assert transcribe(model_folder, recordings / "r00.wav", "--format", "csv") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.startswith("audio,text,exit_layer,") and row.startswith(f"{recordings / 'r00.wav'},")


def test_what_every_exit_hears_is_said_as_it_is_heard(model_folder, recordings, tmp_path, capsys):
    audio = recordings / "r00.wav"
    assert transcribe(model_folder, audio, "--progressive", "--policy", "static(3)") == 0
    printed = capsys.readouterr()
    drafts = [line for line in printed.err.splitlines() if line.startswith(f"{audio}, layer")]
    assert [line.split(":")[0].split(", ")[1] for line in drafts] == ["layer 1 of 3", "layer 2 of 3"]
    out = tmp_path / "out.txt"
    assert transcribe(model_folder, audio, "--progressive", "--policy", "static(3)", "-o", out) == 0
    assert out.read_text() == printed.out
    text = printed.out.split("\t")[1].strip()
    assert f"{audio}, layer 3 of 3, final: {text}\n" in capsys.readouterr().err


def test_subtitles_go_to_a_folder(model_folder, recordings, tmp_path):
    assert (
        transcribe(model_folder, recordings / "r00.wav", recordings / "r01.wav", "--format", "srt", "-o", tmp_path) == 0
    )
    assert sorted(path.name for path in tmp_path.glob("*.srt")) == ["r00.srt", "r01.srt"]


def test_a_list_comes_on_standard_input(model_folder, recordings, tmp_path):
    command = [sys.executable, "-m", "eeasr_modules.cli", "transcribe", str(model_folder), "-", "-o", "out.txt"]
    paths = f"{recordings}/r03.wav\n{recordings}/r04.wav\n"
    done = subprocess.run(command, input=paths, text=True, capture_output=True, cwd=tmp_path, env=_environment())
    assert done.returncode == 0, done.stderr
    assert [line.split("\t")[0] for line in (tmp_path / "out.txt").read_text().splitlines()] == paths.split()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{model}", "{audio}", "-o", "out.doc"], "must end in .jsonl, .csv, .txt, .srt"),
        (["{model}", "none.wav"], "none.wav"),
        (["{audio}", "{audio}"], "found a file"),
        (["{model}", "{audio}", "--policy", "entropy"], "was not calibrated"),
        (["{model}", "{audio}", "--format", "srt"], "add -o"),
        (["{model}"], "AUDIO"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, complaint, model_folder, recordings, capsys):
    values = {"model": model_folder, "audio": recordings / "r00.wav"}
    assert transcribe(*(one.format(**values) for one in arguments)) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1


def _environment():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return {**os.environ, "PYTHONPATH": root}


@pytest.mark.slow
def test_after_a_kill_the_same_command_finishes_without_loss_or_repetition(model_folder, recordings, tmp_path):
    out = tmp_path / "out.jsonl"
    list_file = tmp_path / "list.txt"
    names = [f"{recordings}/r{i:02d}.wav" for i in range(N_GOOD)]
    copies = []
    for k in range(40):  # links, so that there is enough to do
        for i, name in enumerate(names):
            link = tmp_path / f"{k}-{i}.wav"
            os.symlink(name, link)
            copies.append(str(link))
    list_file.write_text("\n".join(copies))
    command = [
        sys.executable,
        "-m",
        "eeasr_modules.cli",
        "transcribe",
        str(model_folder),
        str(list_file),
        "-o",
        str(out),
    ]
    command += ["--batch-seconds", "2", "--quiet"]
    process = subprocess.Popen(command, env=_environment(), stderr=subprocess.DEVNULL)
    while not (out.exists() and out.stat().st_size > 4000) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    n_before = out.read_bytes().count(b"\n")
    assert 0 < n_before < len(copies)
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{n_before} done before" in done.stderr
    assert sorted(line["audio"] for line in lines(out)) == sorted(copies)


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no UTF-8")
@pytest.mark.parametrize("format", ["jsonl", "csv", "txt", "srt", None])
def test_a_file_name_that_is_no_utf8_costs_no_recording(format, model_folder, recordings, tmp_path, capfd):
    names = [b"\xff\xfe.wav", "\u00fc.wav".encode()]
    (tmp_path / "in").mkdir()
    for name in names:
        shutil.copy(recordings / "r01.wav", os.path.join(os.fsencode(tmp_path / "in"), name))
    command = ["transcribe", str(model_folder), str(tmp_path / "in"), "--policy", "static(3)"]
    if format is None:
        assert main(command) == 0
        assert capfd.readouterr().out.count(".wav\t") == 2
        return
    command += ["-o", str(tmp_path / "out"), "--format", format]
    assert main(command) == 0
    assert main(command) == 0 and "2 done before" in capfd.readouterr().err
    if format == "jsonl":
        found = [json.loads(line)["audio"] for line in (tmp_path / "out").read_text("utf-8").splitlines()]
        assert sorted(map(os.fsencode, found)) == [os.path.join(os.fsencode(tmp_path / "in"), n) for n in sorted(names)]
