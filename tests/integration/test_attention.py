"""Attention-decoder exits from training to transcripts: `train.py`, `eeasr analyze`, `eeasr transcribe`."""

import json

import pytest
from tiny_run import tiny_argv

import train
from eeasr_modules import cli
from eeasr_modules.exits.tables.files import read_table

DECODER = {
    "attention_decoder": "true",
    "decoder_layers": 1,
    "decoder_heads": 2,
    "decoder_ffn_dim": 32,
    "decoding": "attention",
    "attention_beam_size": 2,
    "shifts": "[]",
    "n_epochs": 1,
}


@pytest.mark.slow
def test_a_trained_decoder_is_tabled_analysed_and_transcribes(tone_corpus, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(tiny_argv(tone_corpus, run, **DECODER)) == 0
    greedy = read_table(run / "tables" / "an4_test.parquet")
    tables = run / "tables" / "attention"
    spelled = read_table(tables / "an4_test.parquet")
    assert spelled.utt_ids.tolist() == greedy.utt_ids.tolist() and spelled.decoder_macs is not None
    assert (run / "transcripts" / "attention" / "an4_test" / "exit_02.trn").is_file()

    argv = ["analyze", str(tables / "an4_test.parquet"), "--dev", str(tables / "an4_dev.parquet")]
    argv += ["--policies", "between(entropy), between(token_entropy)", "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "between(token_entropy)" in summary["sets"]["an4_test"]["policies"]

    wav = str(next((tone_corpus / "wav" / "an4test_clstk").rglob("*.wav")))
    capsys.readouterr()
    transcribe = ["transcribe", str(run / "model"), wav, "--decoding", "attention", "--attention-beam-size", "2"]
    assert cli.main([*transcribe, "--policy", "static(2)", "--quiet", "--device", "cpu"]) == 0
    row = next(i for i, name in enumerate(spelled.utt_ids) if name in wav)
    assert str(spelled.hypotheses[row, -1]) in capsys.readouterr().out
    assert cli.main([*transcribe, "--policy", "token_entropy(0.1)", "--quiet", "--device", "cpu"]) == 0
