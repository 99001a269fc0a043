"""The command `eeasr`: what a user types, and what comes back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import eeasr_modules
from eeasr_modules import __version__
from eeasr_modules.cli import main
from eeasr_modules.exits import ExitTable, read_policies, read_table, write_table
from eeasr_modules.runtime.sources import within_budget


@pytest.fixture
def tables(tmp_path):
    """Paths of two exit tables, test and dev, with ten speakers each."""
    paths = {}
    for name, seed in (("test", 0), ("dev", 1)):
        rng = np.random.default_rng(seed)
        words = [" ".join(rng.choice(["go", "left", "right", "stop"], 4)) for _ in range(40)]
        heard = [[w if rng.random() < p else "what" for p in (0.3, 0.6, 0.8)] for w in words]
        table = ExitTable.from_hypotheses(
            heard,
            words,
            utt_ids=[f"{name}{i}" for i in range(40)],
            speakers=[f"s{i % 10}" for i in range(40)],
            exit_layers=[2, 4, 6],
            duration_s=rng.uniform(1, 3, 40),
            n_frames=[50] * 40,
            signals={"entropy": rng.uniform(0, 1, (40, 3))},
            metadata={"set_name": name, "set_label": "in_domain"},
        )
        paths[name] = tmp_path / f"{name}.parquet"
        write_table(table, paths[name])
    return paths


def failure(capsys, *argv):
    """What a failing command says; nothing but one line may be said."""
    assert main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("eeasr: error: ") and captured.err.count("\n") == 1
    return captured.err.removeprefix("eeasr: error: ").strip()


def test_analyze_writes_a_report_and_ends_with_the_lines_that_matter(tables, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(["analyze", str(tables["test"]), "--dev", str(tables["dev"]), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"Report: {out / 'report.md'}" in printed and "oracle" in printed
    assert "left out: between(margin): the tables have no signal margin" in printed
    text = (out / "report.md").read_text("utf-8")
    assert "`eeasr analyze " in text and "Thresholds were chosen on dev" in text


def test_analyze_takes_policies_and_budget_as_texts(tables, tmp_path, capsys):
    argv = ["analyze", str(tables["test"]), "--out", str(tmp_path / "report")]
    argv += ["--policies", "static(4), between(2, 4, entropy)", "--policy", "patience(1, .5)", "--budget", "4"]
    assert main(argv) == 0
    assert "patience(1, 0.5): WER" in capsys.readouterr().out


def test_analyze_takes_policies_as_a_model_folder_fitted_them(tmp_path, capsys):
    """`gain_words` reads references when it is fitted, and the shipped tables have none."""
    folder = Path(eeasr_modules.__file__).parent / "shipped" / "base"
    tables = [folder / "tables" / "an4_test.parquet", "--dev", folder / "tables" / "mixed_dev.parquet"]
    assert "has none" in failure(capsys, "analyze", *tables, "--policies", "gain_words", "--out", tmp_path / "refused")
    argv = ["analyze", *tables, "--fitted", folder, "--policies", "between(entropy), gain_words", "--out", tmp_path]
    assert main([str(word) for word in argv]) == 0
    policies = json.loads((tmp_path / "summary.json").read_text("utf-8"))["sets"]["an4_test"]["policies"]
    entries = read_policies(folder / "policy.json")
    held = {str(one.open_policy): str(within_budget(one, 0.75, 8)) for one in entries[1:]}  # the first starts later
    assert {text: policies[text]["calibrated"] for text in policies} == {text: held[text] for text in policies}
    assert set(policies) == {"between(entropy)", "gain_words"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--policies", "entropy(0.1"], "expected a policy such as entropy(0.12)"),
        (["--policies", "entropie"], "unknown policy 'entropie'"),
        (["--policy", "static(5)"], "names layer 5, but the exits are after layers [2, 4, 6]"),
        (["--policy", "margin"], "the tables have no signal margin"),
        (["--budget", "nine"], "invalid float value: 'nine'"),
        (["--budget", "9"], "must not exceed the encoder's 6 layers"),
        (["--dev", "nowhere.parquet"], "no exit table at nowhere.parquet"),
        (["--fitted", "folder"], "--fitted needs the table that the policies were fitted on, got no --dev"),
        (["--depth", "3"], "unrecognized arguments: --depth 3"),
    ],
)
def test_what_is_wrong_with_analyze_is_said_in_one_sentence(tables, tmp_path, capsys, options, sentence):
    assert sentence in failure(capsys, "analyze", tables["test"], "--out", tmp_path / "report", *options)
    assert not (tmp_path / "report").exists()


def test_a_package_that_is_missing_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert failure(capsys, "demo", "--no-browser") == "the demo needs gradio: pip install 'eeasr[demo]'"


def test_a_table_cannot_calibrate_itself(tables, tmp_path, capsys):
    said = failure(capsys, "analyze", tables["test"], "--dev", tables["test"], "--out", tmp_path / "report")
    assert "calibrated on 'test'" in said


def test_a_file_that_is_no_exit_table_is_refused(tmp_path, capsys):
    (tmp_path / "x.parquet").write_text("hello")
    assert "not an exit table" in failure(capsys, "analyze", tmp_path / "x.parquet", "--out", tmp_path / "report")


def test_an_unknown_command_lists_the_known(capsys):
    said = failure(capsys, "analyse")
    assert said.startswith("unknown command 'analyse'; known: analyze, import-transcripts, score")
    assert "COMMAND" in failure(capsys)


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"eeasr {__version__}\n"


def test_transcripts_are_imported(tmp_path, capsys):
    folder = tmp_path / "traces" / "ee40"
    folder.mkdir(parents=True)
    block = "file: 1-2-{}.flac\nexpected: go left now\n\tlayer_2: go lift\n\tlayer_4: go left now\n"
    (folder / "test.clean_results.txt").write_text(block.format("0001") + block.format("0002"))
    out = tmp_path / "T.parquet"
    argv = ["import-transcripts", "--format", "exit-traces", str(folder.parent), "--split", "clean", "-o", str(out)]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{out}: 2 utterances, exits after layers 2, 4\n"
    assert read_table(out).errors.tolist() == [[2, 0], [2, 0]]


def test_a_folder_without_transcripts_is_refused(tmp_path, capsys):
    argv = ["import-transcripts", "--format", "exit-traces", tmp_path, "--split", "clean", "-o", tmp_path / "T"]
    assert "expected test.clean_results.txt" in failure(capsys, *argv)
    assert "format must be one of exit-traces" in failure(
        capsys, "import-transcripts", "--format", "x", tmp_path, "--split", "clean", "-o", tmp_path / "T"
    )


def test_a_plain_file_is_imported(tmp_path, capsys):
    rows = ["id\texit\thypothesis", "u\t2\tGo.", "u\t4\tgo left", "v\t2\tstop", "v\t4\tstop", "w\t4\tno"]
    (tmp_path / "x.tsv").write_text("\n".join(rows))
    (tmp_path / "r.tsv").write_text("id\treference\nu\tgo left\nv\tstop\nw\tno\n")
    argv = ["import-transcripts", "--format", "plain", str(tmp_path / "x.tsv"), "-o", str(tmp_path / "T.parquet")]
    argv += ["--references", str(tmp_path / "r.tsv"), "--normaliser", "words", "--set-name", "mine"]
    assert "1 of 3 utterances" in failure(capsys, *argv) and not (tmp_path / "T.parquet").exists()
    assert main([*argv, "--drop-incomplete"]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{tmp_path / 'T.parquet'}: 2 utterances, exits after layers 2, 4; 1 incomplete left out\n"
    table = read_table(tmp_path / "T.parquet")
    assert table.errors.tolist() == [[1, 0], [0, 0]] and table.metadata["set_name"] == "mine"


def test_a_table_is_scored(tables, tmp_path, capsys):
    (tmp_path / "c.tsv").write_text("id\texit_layer\n" + "".join(f"test{i}\t4\n" for i in range(40)))
    argv = ["score", str(tables["test"]), "--policy", "static(4), entropy", "--choices", str(tmp_path / "c.tsv")]
    assert main([*argv, "--budgets", "3,0.75", "--out", str(tmp_path / "s")]) == 0
    printed = capsys.readouterr().out
    assert "# ExitBench: test" in printed and "## c.tsv" in printed and "## entropy" in printed
    assert printed.endswith(f"Written: {tmp_path / 's' / 'score.json'}, {tmp_path / 's' / 'score.md'}\n")
    score = json.loads((tmp_path / "s" / "score.json").read_text())
    assert score["policies"][0]["points"][0]["wer"] == score["choices"][0]["points"][0]["wer"]
    assert [b["layers"] for b in score["budgets"]] == [3.0, 4.5]


def test_plain_transcripts_are_scored_without_a_table(tmp_path, capsys):
    rows = ["id\texit\thypothesis\treference", "u\t2\tgo\tgo left", "u\t4\tgo left\tgo left"]
    (tmp_path / "x.tsv").write_text("\n".join([*rows, "v\t2\tno\tno", "v\t4\tno\tno"]))
    assert main(["score", str(tmp_path / "x.tsv"), "--set-name", "mine"]) == 0
    assert "# ExitBench: mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--budgets", "7,x"], "--budgets must be numbers separated by commas, got '7,x'"),
        (["--budgets", "9"], "a budget must lie between the first and the last exit, 2 and 6, got 9"),
        (["--policy", "margin"], "margin"),
        (["--references", "r.tsv"], "are for plain files, not tables"),
        (["--choices", "none.tsv"], "no file of transcripts or references at none.tsv"),
    ],
)
def test_what_is_wrong_with_score_is_said_in_one_sentence(tables, tmp_path, capsys, options, sentence):
    assert sentence in failure(capsys, "score", tables["test"], "--out", tmp_path / "s", *options)
    assert not (tmp_path / "s").exists()


def test_the_module_runs_as_a_program(root):
    done = subprocess.run(
        [sys.executable, "-m", "eeasr_modules.cli", "nothing"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("eeasr: error: unknown command 'nothing'")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command(shell, capsys):
    pytest.importorskip("shtab", reason="no shtab: pip install 'eeasr[completion]'")
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("transcribe", "analyze", "benchmark", "policy"))


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom eeasr_modules.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'speechbrain', 'transformers', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_what_is_fitted_for_a_score_is_said_while_it_takes_its_time(tables, capsys):
    assert main(["score", str(tables["test"]), "--policy", "static(4), entropy", "--budgets", "3"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"entropy: fitting fold 1 of {len(said)}" and said[-1].endswith(f"{len(said)} of {len(said)}")
