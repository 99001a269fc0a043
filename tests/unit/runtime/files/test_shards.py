"""Work divided over processes: shares, parts, merging."""

import json

import numpy as np
import pytest

from eeasr_modules.runtime.files.shards import Ranks, line_audio, merge, part_path, part_paths, seconds_of, shares


def test_shares_are_nearly_equal_and_hold_everything_once():
    seconds = np.random.default_rng(0).gamma(2.0, 4.0, size=301).tolist()
    found = shares(seconds, 7)
    assert sorted(i for share in found for i in share) == list(range(301))
    loads = [sum(seconds[i] for i in share) for share in found]
    assert max(loads) <= sum(seconds) / 7 + max(seconds) / 3
    assert found == shares(seconds, 7) and all(share == sorted(share) for share in found)


@pytest.mark.parametrize(
    "variables", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "1"}]
)
def test_variables_that_do_not_fit_are_named(variables):
    with pytest.raises(ValueError, match="torchrun's variables must be whole numbers"):
        Ranks.from_environment(variables)


def test_parts_are_merged_in_the_order_of_the_recordings(tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text('{"audio": "old.wav"}\n{"audio": "b.wav", "n": 1}\n')
    part_path(output, 0).write_text('{"audio": "d.wav"}\n{"audio": "b.wav", "n": 2}\n{"audio": "cut')
    part_path(output, 11).write_text('{"audio": "a.wav"}\n{"audio": "c.wav"}\n')
    (tmp_path / "out.jsonl.part-x").write_text("not ours")
    assert [path.name for path in part_paths(output)] == ["out.jsonl.part-0", "out.jsonl.part-11"]
    merge(output, format="jsonl", paths=["a.wav", "b.wav", "c.wav", "d.wav"])
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["audio"] for line in lines] == ["old.wav", "a.wav", "b.wav", "c.wav", "d.wav"]
    assert lines[2]["n"] == 1 and part_paths(output) == []


def test_a_part_that_is_not_there_is_an_error_and_the_others_are_kept(tmp_path):
    output = tmp_path / "out.txt"
    part_path(output, 0).write_text("a.wav\tA\n")
    with pytest.raises(ValueError, match=r"1 recordings have no line .*'b\.wav'.*the parts are kept"):
        merge(output, format="txt", paths=["a.wav", "b.wav"])
    assert part_paths(output) and not output.exists()


def test_csv_keeps_one_header(tmp_path):
    output = tmp_path / "out.csv"
    for rank, name in enumerate(("b", "a")):
        part_path(output, rank).write_text(f'audio,text\n"{name},.wav",X\n')
    merge(output, format="csv", paths=["a,.wav", "b,.wav"])
    assert output.read_text() == 'audio,text\n"a,.wav",X\n"b,.wav",X\n'
    assert line_audio('"a,.wav",X', "csv") == "a,.wav"


def test_lengths_are_read_or_guessed(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"x" * 32000)
    assert seconds_of("talk.sph#t=12.5,17.25") == 4.75
    assert seconds_of(str(tmp_path / "broken.wav")) == 2.0 and seconds_of(str(tmp_path / "none.wav")) == 0.0
