"""Several processes share a run: nothing lost, nothing doubled, in the order that was asked for."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eeasr_modules.cli import main
from eeasr_modules.runtime import Transcript
from eeasr_modules.runtime.outputs import LineFile
from eeasr_modules.runtime.sharding import Ranks, line_audio, merge, part_path, part_paths, shares

ROOT = Path(__file__).parents[3]


def written(path, names, *, format="jsonl", text="HELLO"):
    sink = LineFile(path, format=format, policy="p", model="m")
    for name in names:
        sink.add(Transcript(name, text=text, policy="p", model="m", duration_s=1.0))
    sink.close()


def audios(path, format="jsonl"):
    lines = path.read_text("utf-8").split("\n")[:-1]
    return [line_audio(line, format) for line in lines[format == "csv" :]]


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 7])
def test_every_recording_is_in_one_share_and_shares_are_of_nearly_equal_length(n_ranks):
    seconds = np.random.default_rng(0).lognormal(2, 1, 500).tolist()
    found = shares(seconds, n_ranks)
    assert sorted(i for share in found for i in share) == list(range(500))
    loads = [sum(seconds[i] for i in share) for share in found]
    assert max(loads) - min(loads) <= max(seconds)
    assert max(loads) <= max(1.01 * sum(seconds) / n_ranks, max(seconds))  # the long tail is spread


def test_shares_do_not_depend_on_the_order_of_recordings():
    seconds = np.random.default_rng(1).lognormal(2, 1, 60).tolist()
    order = random.Random(0).sample(range(60), 60)
    shuffled = shares([seconds[i] for i in order], 4)
    assert [sorted(order[i] for i in share) for share in shuffled] == shares(seconds, 4)


@pytest.mark.parametrize("format", ["jsonl", "csv", "txt"])
def test_parts_are_merged_in_the_order_asked_for_with_lines_of_earlier_runs_first(format, tmp_path):
    out = tmp_path / f"out.{format}"
    written(out, ["old.wav", "c.wav"], format=format)
    written(part_path(out, 0), ["b, 1.wav", "e.wav"], format=format, text="A\u2028B")
    written(part_path(out, 11), ["d.wav", "a.wav"], format=format)
    merge(out, format=format, paths=["a.wav", "b, 1.wav", "c.wav", "d.wav", "e.wav"])
    assert audios(out, format) == ["old.wav", "a.wav", "b, 1.wav", "c.wav", "d.wav", "e.wav"]
    assert os.listdir(tmp_path) == [out.name]
    if format == "csv":
        assert [row["text"] for row in csv.DictReader(out.open(newline=""))][2] == "A\u2028B"
    written(out, ["z.wav"], format=format)  # a single process can go on with it
    assert len(audios(out, format)) == 7


def test_a_kill_between_the_merging_and_the_removal_of_parts_doubles_nothing(tmp_path):
    out = tmp_path / "out.jsonl"
    written(part_path(out, 0), ["a.wav"])
    written(part_path(out, 1), ["b.wav"])
    kept = part_path(out, 1).read_bytes()
    merge(out, format="jsonl", paths=["a.wav", "b.wav"])
    whole = out.read_bytes()
    part_path(out, 1).write_bytes(kept)
    merge(out, format="jsonl", paths=["a.wav", "b.wav"])
    assert out.read_bytes() == whole and not part_paths(out)


def test_a_part_that_is_not_there_is_said_and_the_others_are_kept(tmp_path):
    out = tmp_path / "out.jsonl"
    written(part_path(out, 0), ["a.wav"])
    with pytest.raises(ValueError, match=r"1 recordings have no line.*first: 'b.wav'.*same file system"):
        merge(out, format="jsonl", paths=["a.wav", "b.wav"])
    assert not out.exists() and audios(part_path(out, 0)) == ["a.wav"]


def test_other_files_beside_the_output_are_no_parts(tmp_path):
    (tmp_path / "out.jsonl.part-x").touch()
    (tmp_path / "out.jsonl.part-10").touch()
    (tmp_path / "out.jsonl.part-9").touch()
    assert [one.name for one in part_paths(tmp_path / "out.jsonl")] == ["out.jsonl.part-9", "out.jsonl.part-10"]


@pytest.mark.parametrize("values", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "one", "WORLD_SIZE": "2"}])
def test_wrong_variables_of_torchrun_are_named(values):
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        Ranks.from_environment(values)


@pytest.mark.parametrize("arguments", [["{audio}"], ["-", "-o", "{out}"]])
def test_several_processes_do_not_print_nor_share_standard_input(
    arguments, model_folder, audio_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    values = {"audio": audio_folder, "out": tmp_path / "out.txt"}
    assert main(["transcribe", str(model_folder), *(one.format(**values) for one in arguments)]) == 2
    assert "several processes need an output" in capsys.readouterr().err


def test_one_process_takes_in_the_parts_of_several(model_folder, audio_folder, tmp_path, capsys):
    once, out = tmp_path / "once.jsonl", tmp_path / "out.jsonl"
    arguments = ["transcribe", str(model_folder), str(audio_folder), "--quiet", "-o"]
    assert main([*arguments, str(once)]) == 0
    lines = once.read_bytes().splitlines(keepends=True)
    part_path(out, 0).write_bytes(lines[3] + lines[1])
    part_path(out, 5).write_bytes(lines[4] + lines[0][:-5])  # the kill
    capsys.readouterr()
    assert main([*arguments, str(out)]) == 0
    assert "3 done before" in capsys.readouterr().err
    assert out.read_bytes() == once.read_bytes() and not part_paths(out)


def torchrun(n, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={n}", "--master_port=0"]
    command += ["-m", "eeasr_modules.cli", "transcribe", *map(str, arguments), "--quiet", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_gloo_processes_write_what_one_writes_and_say_that_some_failed(model_folder, audio_folder, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    inputs = [audio_folder, tmp_path / "broken.wav"]
    once, out = tmp_path / "once.jsonl", tmp_path / "out.jsonl"
    assert main(["transcribe", str(model_folder), *map(str, inputs), "--quiet", "-o", str(once)]) == 1
    lines = once.read_bytes().splitlines(keepends=True)
    part_path(out, 2).write_bytes(lines[2] + lines[5][:30])  # of an earlier run of three, killed
    done = torchrun(2, model_folder, *inputs, "-o", out)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "5 recordings" in done.stderr and "1 done before; 1 could not be transcribed" in done.stderr
    assert [one.name for one in tmp_path.glob("out*")] == ["out.jsonl"]
    found, expected = ([json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in (out, once))
    assert [(one["audio"], one["text"], one["exit_layer"], one["error"]) for one in found] == [
        (one["audio"], one["text"], one["exit_layer"], one["error"]) for one in expected
    ]


@pytest.mark.slow
def test_two_gloo_processes_write_subtitles_each_once(model_folder, audio_folder, tmp_path):
    done = torchrun(2, model_folder, audio_folder, "--format", "srt", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [f"u{i}.srt" for i in range(6)]


@pytest.mark.slow
def test_what_is_wrong_is_said_by_all_processes_and_none_waits(model_folder, audio_folder, tmp_path):
    (tmp_path / "out.txt").write_text("dear diary\n")
    done = torchrun(2, model_folder, audio_folder, "-o", tmp_path / "out.txt")
    assert done.returncode == 1 and "cannot be gone on with" in done.stderr
    assert (tmp_path / "out.txt").read_text() == "dear diary\n" and not part_paths(tmp_path / "out.txt")
