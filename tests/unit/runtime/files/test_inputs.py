"""What command-line arguments mean."""

import json

import pytest

from eeasr_modules.runtime.files.inputs import find_recordings


def paths(*inputs, **options):
    return [one.path for one in find_recordings([str(one) for one in inputs], **options)]


@pytest.fixture
def folder(tmp_path):
    """b.wav, sub/a.flac, notes.md: the first two are recordings."""
    (tmp_path / "sub").mkdir()
    for name in ("b.wav", "sub/a.flac", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_folders_are_searched_and_sorted_and_nothing_comes_twice(folder):
    assert paths(folder, folder / "b.wav") == [str(folder / "b.wav"), str(folder / "sub" / "a.flac")]


def test_a_list_may_name_files_beside_it_and_files_that_are_missing(folder):
    (folder / "list.txt").write_text("sub/a.flac\n\n/nowhere/c.wav\n")
    assert paths(folder / "list.txt") == [str(folder / "sub" / "a.flac"), "/nowhere/c.wav"]


def test_a_dash_reads_a_list_from_standard_input(folder):
    assert paths("-", standard_input=[f"{folder}/b.wav\n", "\n"]) == [f"{folder}/b.wav"]


def test_a_manifest_of_training_is_read_with_its_names(folder):
    (folder / "m.csv").write_text("ID,duration,wav,spk_id,wrd\nutt-1,1.0,$data_root/x/a.flac,s,HELLO\n")
    (folder / "m.json").write_text(json.dumps({"data_folder": "/corpus"}))
    (one,) = find_recordings([str(folder / "m.csv")])
    assert (one.name, one.path) == ("utt-1", "/corpus/x/a.flac")


def test_stretches_of_a_file_are_recordings_of_their_own(folder):
    (folder / "m.csv").write_text('ID,wav\none,"b.wav#t=0,1.5"\ntwo,"b.wav#t=1.5,3"\n')
    expected = [f"{folder}/b.wav#t=0,1.5", f"{folder}/b.wav#t=1.5,3"]
    assert paths(folder / "m.csv") == expected and paths(expected[0]) == expected[:1]
    with pytest.raises(FileNotFoundError, match="found nothing"):
        paths(f"{folder}/none.wav#t=0,1")


def test_any_csv_with_a_path_column_will_do(folder):
    (folder / "m.csv").write_text("path,who\nb.wav,me\n")
    assert paths(folder / "m.csv") == [str(folder / "b.wav")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("m.csv", "a,b\n1,2\n", "must say its audio under one of wav, audio, path"),
        ("m.csv", "wav\n$data_root/a.wav\n", "m.json"),
        ("m.csv", 'ID,wav\nu,""\n', "line 2 of .*m.csv names no recording"),
        ("l.txt", "\n", "found none"),
    ],
)
def test_lists_that_name_nothing_are_refused(name, content, complaint, folder):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=complaint):
        paths(folder / name)


def test_an_argument_that_is_not_there_is_refused(folder):
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        paths(folder / "none.wav")


def test_a_list_that_is_not_text_is_refused(folder):
    (folder / "l.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must be UTF-8"):
        paths(folder / "l.txt")


def test_files_that_macos_leaves_beside_recordings_are_passed_over(folder):
    (folder / "._b.wav").write_bytes(b"x")
    assert paths(folder) == [str(folder / "b.wav"), str(folder / "sub" / "a.flac")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "path,start,end\nb.wav,0,1.5\nb.wav,1.5,3\n"),
        ("m.tsv", "path\tstart_time\tend_time\nb.wav\t0\t1.5\nb.wav\t1.5\t3\n"),
        ("m.jsonl", '{"wav": "b.wav", "offset": 0, "duration": 1.5}\n{"wav": "b.wav", "start": 1.5, "end": 3}'),
    ],
)  # fmt: skip
def test_stretches_that_a_listing_names_in_columns_are_heard_alone(folder, name, content):
    (folder / name).write_text(content)
    assert paths(folder / name) == [f"{folder}/b.wav#t=0,1.5", f"{folder}/b.wav#t=1.5,3"]


def test_a_list_in_another_encoding_is_named_with_its_line(folder):
    (folder / "l.txt").write_bytes("b.wav\nété.wav\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"l\.txt' must be UTF-8 text, line 2 is not .* cp1252"):
        paths(folder / "l.txt")
