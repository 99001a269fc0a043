"""Outputs: whole lines only, gone on with after a kill, refused when they are another run's."""

import csv
import json
import resource
import subprocess
import sys

import pytest

from eeasr_modules.runtime import Transcript, Word
from eeasr_modules.runtime.files.outputs import LineFile, SubtitleFiles, in_line, srt
from eeasr_modules.runtime.files.shards import line_audio, merge, part_path

WORDS = (Word("HELLO", 0.5, 0.9, 0.9), Word("THERE", 1.0, 1.4, 0.8))


def transcript(name, text="HELLO THERE", **changes):
    values = {"exit_layer": 2, "layers_run": 2.0, "n_layers": 4, "confidence": 0.9, "duration_s": 2.0}
    values |= {"policy": "static(2)", "model": "m", "words": WORDS, "text": text, **changes}
    return Transcript(name, **values)


def opened(path, format, *, policy="static(2)", model="m"):
    return LineFile(path, format=format, policy=policy, model=model)


@pytest.mark.parametrize("format", ["jsonl", "csv", "txt"])
def test_after_a_kill_whole_lines_stay_and_the_half_one_goes(format, tmp_path):
    path = tmp_path / f"out.{format}"
    sink = opened(path, format)
    sink.add(transcript("a.wav"))
    sink.add(transcript("b, c.wav", "", error="it is broken: 'x'", words=()))
    sink.close()
    whole = path.read_bytes()
    sink = opened(path, format)
    sink.add(transcript("d.wav"))
    sink.close()
    complete = path.read_bytes()
    path.write_bytes(complete[:-7])  # the kill
    again = opened(path, format)
    assert path.read_bytes() == whole
    assert again.done == {"a.wav", "b, c.wav"} and again.n_failed == 1
    again.add(transcript("d.wav"))
    again.close()
    assert path.read_bytes() == complete


def test_a_file_that_another_run_writes_is_refused_until_that_has_ended(tmp_path):
    path = tmp_path / "out.jsonl"
    first = opened(path, "jsonl")
    with pytest.raises(ValueError, match=r"another process writes '.*out\.jsonl': wait for it"):
        opened(path, "jsonl")
    first.add(transcript("a.wav"))
    first.close()
    again = opened(path, "jsonl")
    assert again.done == {"a.wav"}
    again.close()


def test_a_device_is_no_output():
    with pytest.raises(ValueError, match="the output must be a file, '/dev/null' is none: leave -o out"):
        opened("/dev/null", "txt")


def test_a_kill_within_the_first_line_of_a_csv_loses_nothing(tmp_path):
    (tmp_path / "out.csv").write_text("audio,te")
    sink = opened(tmp_path / "out.csv", "csv")
    sink.add(transcript("a.wav"))
    sink.close()
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert (row["audio"], row["text"], row["exit_layer"], row["error"]) == ("a.wav", "HELLO THERE", "2", "")


def test_no_text_of_a_csv_is_a_formula_and_a_run_that_goes_on_knows_what_was_said(tmp_path):
    names = ["=HYPERLINK(1).wav", "-b.wav", "+c.wav", "@d.wav", "'=e.wav", "'plain.wav"]
    sink = opened(tmp_path / "out.csv", "csv", policy="=p", model="-m")
    for name in names:
        sink.add(transcript(name, "=1+1", policy="=p", model="-m"))
    sink.close()
    with (tmp_path / "out.csv").open() as file:
        cells = [cell for row in csv.DictReader(file) for cell in row.values()]
    assert "'=1+1" in cells and "'=HYPERLINK(1).wav" in cells and "''=e.wav" in cells and "'plain.wav" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    again = opened(tmp_path / "out.csv", "csv", policy="=p", model="-m")
    assert again.done == set(names)
    again.close()
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [line_audio(line, "csv") for line in lines] == names


def test_json_lines_hold_words_and_warnings(tmp_path):
    sink = opened(tmp_path / "out.jsonl", "jsonl")
    sink.add(transcript("ä.wav", warnings=("clipped: 2.0 %",)))
    sink.close()
    found = json.loads((tmp_path / "out.jsonl").read_text("utf-8"))
    assert found["audio"] == "ä.wav" and found["warnings"] == ["clipped: 2.0 %"] and found["error"] is None
    assert found["words"][1] == {"text": "THERE", "start_s": 1.0, "end_s": 1.4, "confidence": 0.8}


@pytest.mark.parametrize("format", ["jsonl", "csv"])
@pytest.mark.parametrize("change", [{"policy": "entropy(0.1)"}, {"model": "other"}])
def test_lines_of_another_policy_or_model_are_not_gone_on_with(format, change, tmp_path):
    sink = opened(tmp_path / "out", format)
    sink.add(transcript("a.wav"))
    sink.close()
    before = (tmp_path / "out").read_bytes()
    with pytest.raises(ValueError, match=r"cannot be continued.*name another output"):
        opened(tmp_path / "out", format, **change)
    assert (tmp_path / "out").read_bytes() == before


@pytest.mark.parametrize("format", ["jsonl", "csv", "txt"])
def test_a_file_that_is_something_else_is_left_alone(format, tmp_path):
    (tmp_path / "notes").write_text("dear diary\nand so on")
    with pytest.raises(ValueError, match="cannot be continued"):
        opened(tmp_path / "notes", format)
    assert (tmp_path / "notes").read_text() == "dear diary\nand so on"


def test_on_a_full_disk_written_lines_stay_whole_and_the_next_run_goes_on(tmp_path):
    code = f"""
import resource
from eeasr_modules.runtime import Transcript
from eeasr_modules.runtime.files.outputs import LineFile
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # no file may grow beyond
sink = LineFile({str(tmp_path / "out.txt")!r}, format="txt", policy="p", model="m")
for name in range(50):
    sink.add(Transcript(f"{{name}}.wav", text="HELLO THERE"))
"""
    assert resource.RLIMIT_FSIZE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "no room for" in done.stderr and "lines are whole" in done.stderr
    content = (tmp_path / "out.txt").read_text()
    assert content.endswith("\n") and 3 <= content.count("HELLO THERE\n") <= 8
    assert opened(tmp_path / "out.txt", "txt").done == {f"{i}.wav" for i in range(content.count("\n"))}


def test_subtitles_break_at_pauses_and_when_they_grow_long():
    words = [Word(f"W{i}", 0.4 * i, 0.4 * i + 0.3, 1.0) for i in range(20)] + [Word("END", 3601.5, 3602.0, 1.0)]
    blocks = srt(words).split("\n\n")
    assert [block.count("W") for block in blocks] == [12, 8, 0]
    assert blocks[2].splitlines() == ["3", "01:00:01,500 --> 01:00:02,000", "END"]


def test_subtitle_files_keep_folders_and_are_not_written_twice(tmp_path):
    paths = ["/x/a/one.wav", "/x/b/one.wav"]
    sink = SubtitleFiles(tmp_path / "out", paths=paths)
    sink.add(transcript(paths[0]))
    sink.add(transcript(paths[1], error="broken"))
    assert (tmp_path / "out/a/one.srt").read_text().splitlines()[1] == "00:00:00,500 --> 00:00:01,400"
    assert SubtitleFiles(tmp_path / "out", paths=paths).done == {paths[0]}


def test_subtitles_that_would_share_a_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'/x/a.wav' and '/x/a.flac' would share .*a.srt': rename one"):
        SubtitleFiles(tmp_path, paths=["/x/a.wav", "/x/a.flac"])
    with pytest.raises(ValueError, match="holds one recording's subtitles, got 2"):
        SubtitleFiles(tmp_path / "out.srt", paths=["/x/a.wav", "/x/b.wav"])


def test_stretches_of_one_recording_have_a_subtitle_file_each(tmp_path):
    sink = SubtitleFiles(tmp_path, paths=["/x/a.wav#t=0,1.25", "/x/a.wav#t=0,1.75"])
    assert sorted(one.name for one in sink.files.values()) == ["a.wav#t=0,1.25.srt", "a.wav#t=0,1.75.srt"]


@pytest.mark.parametrize("format", ["jsonl", "csv", "txt"])
def test_names_with_tabs_and_line_ends_are_found_again(format, tmp_path):
    names = ["two\nlines.wav", "a\ttab.wav", "back\r.wav"]
    for path in (tmp_path / "out", part_path(tmp_path / "merged", 0)):
        sink = opened(path, format)
        for name in names:
            sink.add(transcript(name))
        sink.close()
    assert all(in_line(name) in opened(tmp_path / "out", format).done for name in names)
    merge(tmp_path / "merged", format=format, paths=names)
    assert (tmp_path / "merged").read_text() == (tmp_path / "out").read_text()
    assert (tmp_path / "out").read_text().count("\n") == 3 + (format == "csv")
