import gzip
import json

import numpy as np
import pytest

from eeasr_modules.exits.tables.files import read_table, write_table
from eeasr_modules.exits.tables.plain_transcripts import read_plain

HEADER = "id\texit\thypothesis\treference\tspeaker\tduration_s\tentropy"
ROWS = [
    "u1\t6\ta bg dog\ta big dog\tann\t1.5\t0.4",
    "u1\t12\ta big dog\ta big dog\tann\t1.5\t0.1",
    "u2\t12\tyes\tyes\tbob\t0.5\t0.2",
    "u2\t6\t\tyes\tbob\t0.5\t0.9",
]


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def whole(tmp_path):
    return write(tmp_path / "mine.tsv", [HEADER, *ROWS])


def test_a_tsv_becomes_an_exit_table(whole):
    table = read_plain(whole)
    assert table.utt_ids.tolist() == ["u1", "u2"] and table.speakers.tolist() == ["ann", "bob"]
    assert table.exit_layers.tolist() == [6, 12]
    assert table.errors.tolist() == [[1, 0], [1, 0]]
    assert table.hypotheses[1].tolist() == ["", "yes"]
    assert table.signal("entropy").tolist() == [[0.4, 0.1], [0.9, 0.2]]
    assert table.duration_s.tolist() == [1.5, 0.5] and table.n_frames.tolist() == [75, 25]
    assert table.metadata["duration_is_approximate"] is False and table.metadata["set_name"] == "mine"


def test_json_lines_with_references_of_their_own_give_the_same_table(whole, tmp_path):
    rows = [dict(zip(HEADER.split("\t"), line.split("\t"))) for line in ROWS]
    said = {row["id"]: {k: row[k] for k in ("id", "reference", "speaker", "duration_s")} for row in rows}
    heard = [
        {"id": r["id"], "exit": int(r["exit"]), "hypothesis": r["hypothesis"], "entropy": float(r["entropy"])}
        for r in rows
    ]
    with gzip.open(tmp_path / "mine.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, heard)))
    references = write(
        tmp_path / "references.tsv", ["\t".join(said["u1"]), *("\t".join(r.values()) for r in said.values())]
    )
    table, same = read_plain(tmp_path / "mine.jsonl.gz", references), read_plain(whole)
    for name in ("utt_ids", "speakers", "errors", "duration_s", "hypotheses", "references"):
        assert getattr(table, name).tolist() == getattr(same, name).tolist()
    assert {k: v.tolist() for k, v in table.signals.items()} == {k: v.tolist() for k, v in same.signals.items()}


def test_it_survives_the_table_file(whole, tmp_path):
    write_table(read_plain(whole), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").errors.tolist() == [[1, 0], [1, 0]]


def test_without_durations_they_are_guessed_and_said_to_be(tmp_path):
    table = read_plain(write(tmp_path / "x.tsv", ["id\texit\thypothesis\treference", "u\t3\ta\ta big dog"]))
    assert table.duration_s == pytest.approx([0.5 + 9 / 15.5])
    assert table.metadata["duration_is_approximate"] is True and table.speakers.tolist() == [""]


@pytest.mark.parametrize(("normaliser", "errors"), [("none", 3), ("upper", 2), ("words", 0)])
def test_case_and_punctuation_count_unless_normalised(tmp_path, normaliser, errors):
    row = "u\t3\tDon\u2019t, go.\tdon't go"
    file = write(tmp_path / "x.tsv", ["id\texit\thypothesis\treference", row, "v\t3\tA\ta"])
    table = read_plain(file, normaliser=normaliser)
    assert table.errors.sum() == errors and table.metadata["normaliser"] == normaliser


def test_incomplete_utterances_are_counted_and_refused_or_dropped(whole, tmp_path):
    lines = [HEADER, *ROWS, "u3\t6\tno\tno\tann\t1\t0.5"]
    file = write(tmp_path / "short.tsv", lines)
    with pytest.raises(ValueError, match=r"1 of 3 utterances of .*short.tsv .*'u3', which lacks exit 12 of \[6, 12\]"):
        read_plain(file)
    table = read_plain(file, drop_incomplete=True)
    assert table.utt_ids.tolist() == ["u1", "u2"] and table.metadata["n_dropped"] == 1
    references = write(tmp_path / "r.tsv", ["id\treference", "u1\ta big dog", "u2\tyes", "u9\tmore"])
    with pytest.raises(ValueError, match="'u9', which lacks its transcripts"):
        read_plain(whole, references)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({1: "u1\t6\ta"}, r"line 2 of .*x.tsv must have 7 cells, as the header has, got 3"),
        ({1: ROWS[0].replace("0.4", "nan")}, "line 2 of .*: entropy must be a finite number, got 'nan'"),
        ({2: ROWS[1].replace("0.1", "")}, "line 3 of .*: entropy must be a finite number, got ''"),
        ({2: ROWS[0]}, "line 3 of .* says again what exit 6 of 'u1' heard"),
        ({2: ROWS[1].replace("12", "twelve")}, "line 3 of .*: the exit must be its number of encoder layers"),
        ({2: ROWS[1].replace("12", "0")}, "line 3 of .*: the exit must be its number of encoder layers"),
        ({2: ROWS[1].replace("ann", "eve")}, "line 3 of .*: the speaker of 'u1' must be the same .* got 'eve'"),
        ({1: ROWS[0].replace("1.5", "-2")}, "line 2 of .*: duration_s must be above 0, got -2"),
        ({3: ROWS[2].replace("0.5", "")}, r"duration_s|the same"),
        ({0: HEADER.replace("exit", "layer")}, "line 1 of .* must be a header .* exit not there"),
        ({0: HEADER.replace("entropy", "id")}, "line 1 of .* 'id' occurs more than once"),
        ({0: HEADER.replace("entropy", "char_change")}, "char_change is computed from the transcripts; leave it out"),
        ({0: HEADER.replace("entropy", "n_sub")}, "signal names must differ"),
        ({1: "\t" + ROWS[0].partition("\t")[2]}, "line 2 of .*: the id must not be empty"),
        ({0: HEADER.replace("reference", "other")}, "other must be a finite number"),
    ],
)
def test_a_bad_line_is_named(tmp_path, changed, sentence):
    lines = [changed.get(i, line) for i, line in enumerate([HEADER, *ROWS])]
    if changed == {3: ROWS[2].replace("0.5", "")}:  # u2 without a duration in both of its rows
        lines[3], lines[4] = (line.replace("\t0.5\t", "\t\t") for line in ROWS[2:])
        sentence = "duration_s of .* must be given for all utterances or none, got 1 of 2"
    with pytest.raises(ValueError, match=sentence):
        read_plain(write(tmp_path / "x.tsv", lines))


def test_bad_json_is_named(tmp_path):
    good = {"id": "u", "exit": 2, "hypothesis": "a", "reference": "a", "entropy": 0.1}
    for bad, sentence in [
        ("{", "line 2 of .* must be a JSON object"),
        ("[1]", "line 2 of .* must be a JSON object"),
        (json.dumps({**good, "id": "v", "hypothesis": None}), "hypothesis is not there"),
        (json.dumps({**good, "id": "v", "hypothesis": 3}), "hypothesis must be text, got 3"),
        (json.dumps({**good, "id": "v", "margin": 1}), "the same signals, but margin is not in all"),
        (json.dumps({**good, "id": "v", "entropy": float("inf")}), "entropy must be a finite number"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            read_plain(write(tmp_path / "x.jsonl", [json.dumps(good), bad]))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of transcripts or references at .*none.tsv"):
        read_plain(tmp_path / "none.tsv")
    (tmp_path / "e.tsv").write_text("\n")
    with pytest.raises(ValueError, match="it is empty"):
        read_plain(tmp_path / "e.tsv")
    (tmp_path / "b.tsv.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="cannot be read as text"):
        read_plain(tmp_path / "b.tsv.gz")
    file = write(tmp_path / "n.tsv", ["id\texit\thypothesis", "u\t2\ta"])
    with pytest.raises(ValueError, match="holds no references"):
        read_plain(file)
    with pytest.raises(ValueError, match="normaliser must be one of none, upper, words, whisper, got 'lower'"):
        read_plain(file, normaliser="lower")
    with pytest.raises(ValueError, match=r"line 3 of .*r.tsv: 'u' occurs more than once"):
        read_plain(file, write(tmp_path / "r.tsv", ["id\treference", "u\ta", "u\tb"]))


def test_an_empty_hypothesis_and_an_empty_reference_are_data(tmp_path):
    rows = ["id\texit\thypothesis\treference", "u\t2\t\ta b", "v\t2\toh\t"]
    table = read_plain(write(tmp_path / "x.tsv", rows))
    assert table.errors.tolist() == [[2], [1]] and np.isfinite(table.signal("char_change")).all()


@pytest.mark.parametrize("normaliser", ["none", "upper", "words"])
def test_composed_and_decomposed_letters_are_the_same(tmp_path, normaliser):
    file = tmp_path / "t.tsv"
    said = "été côté\te\u0301te\u0301 co\u0302te\u0301"
    file.write_text(f"id\texit\thypothesis\treference\nu\t1\t{said}\n", encoding="utf-8")
    assert read_plain(file, normaliser=normaliser).errors.sum() == 0


def test_words_of_hindi_are_counted_as_written(tmp_path):
    file = tmp_path / "t.tsv"
    said = "क्या हाल है मेरे दोस्त अब बताओ"
    file.write_text(f"id\texit\thypothesis\treference\nu\t1\t{said}\t{said}।\n", encoding="utf-8")
    table = read_plain(file, normaliser="words")
    assert table.n_ref_words.tolist() == [7] and table.errors.sum() == 0


def test_transcripts_in_another_encoding_are_named_with_their_line(tmp_path):
    file = tmp_path / "t.tsv"
    file.write_bytes("id\texit\thypothesis\treference\nu\t1\tété\tété\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"t\.tsv' must be UTF-8 text, line 2 is not"):
        read_plain(file)
