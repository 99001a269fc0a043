"""`eeasr fusion`, and what is said with `words="fused"`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from live_cases import SEED, engine_for
from talkative import noises, table_of

from eeasr_modules.cli import main
from eeasr_modules.data.audio import AudioReader
from eeasr_modules.exits import (
    ExitTable,
    choose,
    decide,
    parse_policy,
    read_policies,
    read_table,
    write_policies,
    write_table,
)
from eeasr_modules.exits.measure.fusion import fuse, read_fusion
from eeasr_modules.exits.policies.files import write_fitted
from eeasr_modules.models.decoding.ctc import BeamOptions
from eeasr_modules.models.folder import model_digest
from eeasr_modules.runtime import EarlyExitASR

SHIPPED = Path(__file__).resolve().parents[3] / "eeasr_modules/shipped/base"
POLICIES = ("entropy", "between(2, 3, entropy)", "patience(1)", "random(0.4)", "static(3)", "static(5)", "lexical")


def referenced(table, **metadata):
    """The table as if what was said were now this exit's transcript, now that one's: which is worth fusing."""
    said = [row[i % len(row)] for i, row in enumerate(table.hypotheses)]
    whole = ExitTable.from_hypotheses(
        table.hypotheses.tolist(),
        said,
        utt_ids=table.utt_ids,
        speakers=table.speakers,
        exit_layers=table.exit_layers,
        duration_s=table.duration_s,
        n_frames=table.n_frames,
        signals=table.signals,
        metadata={**table.metadata, **metadata},
    )
    return whole


@pytest.fixture(scope="module")
def dev_table(model, model_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("dev") / "dev.parquet"
    table = table_of(model, noises(90, seed=8), shift=2000)
    write_table(referenced(table, model_digest=model_digest(model_folder), corpus="AN4"), path)
    return path


@pytest.fixture(scope="module")
def fused_folder(model_folder, dev_table, tmp_path_factory):
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("fused") / "model")
    assert main(["fusion", str(folder), str(dev_table), "--anyway"]) == 0
    return folder


@pytest.fixture(scope="module")
def fused(table, fused_folder):
    return fuse(table, read_fusion(fused_folder))


@pytest.mark.parametrize("text", POLICIES)
def test_live_says_what_the_fused_exit_table_has(text, model, wavs, table, dev, fused, fused_folder):
    policy = parse_policy(text)
    policy = choose(dev, policy, budget=0.7).policy if policy.is_open else policy
    decided = decide(policy, table).decided
    expected = fused[np.arange(len(wavs)), decided].tolist()
    engine = engine_for(model, policy, fusion=read_fusion(fused_folder))
    for pooled in (False, True):
        found = engine.run_all(wavs, utt_ids=[*table.utt_ids], batch_seconds=5.0, pool_survivors=pooled)
        assert [one.text for one in found] == expected
        assert [one.exit_layer for one in found] == table.exit_layers[decided].tolist()
        assert [" ".join(word.text for word in one.words) for one in found] == expected


def test_fused_words_are_others_than_those_of_the_exits(table, fused):
    alike = [sum(a.split() == b.split() for a, b in zip(*columns)) for columns in zip(fused.T, table.hypotheses.T)]
    assert alike[0] == len(fused) and all(0 < n < len(fused) for n in alike[1:])


def test_a_file_is_heard_fused_and_words_lie_where_their_exit_has_them(
    fused_folder, audio_folder, table, fused, tmp_path, capsys
):
    paths = [audio_folder / f"u{i}.wav" for i in range(6)]
    argv = ["transcribe", str(fused_folder), *map(str, paths), "--policy", "static(5)", "-o", f"{tmp_path}/a.jsonl"]
    assert main([*argv, "--words", "fused", "--quiet", "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == fused[:6, -1].tolist()
    assert {line["policy"] for line in lines} == {"static(5) + fusion"}
    assert "static(5) + fusion: 6 recordings" in capsys.readouterr().err
    own = [EarlyExitASR.from_pretrained(fused_folder, policy=f"static({k})").transcribe(paths) for k in (1, 2, 3, 5)]
    for i, line in enumerate(lines):
        starts = [word["start_s"] for word in line["words"]]
        assert starts == sorted(starts)
        ends = {(word.text, round(word.end_s, 3)) for exits in own for word in exits[i].words}
        assert {(w["text"], round(w["end_s"], 3)) for w in line["words"] if w["end_s"] > w["start_s"]} <= ends
    # the output of other words is not continued
    assert main([*argv, "--quiet", "--device", "cpu"]) == 2
    assert "static(5) + fusion, this run is" in capsys.readouterr().err


@pytest.mark.parametrize(("ending", "format", "subtype"), [("mp3", "MP3", None), ("opus", "OGG", "OPUS")])
def test_compressed_files_are_fused_as_what_they_decode_to(
    ending, format, subtype, model, wavs, fused_folder, tmp_path
):
    paths = [tmp_path / f"u{i}.{ending}" for i in range(6)]
    for path, wav in zip(paths, wavs[:6]):
        soundfile.write(path, wav.numpy(), 16000, format=format, subtype=subtype)
    argv = ["transcribe", str(fused_folder), *map(str, paths), "--policy", "static(5)", "-o", f"{tmp_path}/a.jsonl"]
    assert main([*argv, "--words", "fused", "--quiet", "--device", "cpu"]) == 0
    said = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    table = table_of(model, [torch.cat([*AudioReader(path, 16000).blocks_of_speech()]) for path in paths])
    fused = fuse(table, read_fusion(fused_folder))[:, -1].tolist()
    assert said == fused != table.hypotheses[:, -1].tolist()


@pytest.mark.shared_data
def test_the_shipped_model_says_of_real_mp3_files_what_its_table_fuses_to(shared_data):
    table = read_table(SHIPPED / "tables" / "commonvoice_test.parquet").select(np.arange(0, 260, 32))
    decided = decide(read_policies(SHIPPED / "policy.json")[0].policy, table).decided
    rows = np.arange(table.n_utterances)
    expected = fuse(table, read_fusion(SHIPPED))[rows, decided].tolist()
    clips = {path.stem: path for path in (shared_data / "cv-corpus-13.0-delta-2023-03-09").rglob("*.mp3")}
    found = EarlyExitASR.from_pretrained(SHIPPED, words="fused", device="cpu").transcribe(
        [clips[utt_id] for utt_id in table.utt_ids]
    )
    assert [one.text for one in found] == expected != table.hypotheses[rows, decided].tolist()


def test_chunks_of_a_long_recording_are_fused_each(fused_folder, wavs, tmp_path):
    soundfile.write(tmp_path / "long.wav", torch.cat(wavs[:8]).numpy(), 16000, subtype="FLOAT")
    asr = EarlyExitASR.from_pretrained(fused_folder, policy="random(0.5)", longest_s=1.5, words="fused", seed=SEED)
    one = asr.transcribe(tmp_path / "long.wav")
    assert len(one.exit_layers) > 1 and one.text == " ".join(word.text for word in one.words) != ""


def test_fitting_says_what_it_won_and_what_speech_was_missing(model, model_folder, dev_table, table, tmp_path, capsys):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    for i, corpus in enumerate(("AN4", "CommonVoice, AN4")):
        write_table(replace(table, metadata={**table.metadata, "corpus": corpus}), tmp_path / f"{i}.parquet")
    argv = ["fusion", str(folder), str(dev_table), "--for", f"{tmp_path}/0.parquet", f"{tmp_path}/1.parquet"]
    assert main(argv) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"Not written: {folder}/fusion.json, fused words win nothing for sure")
    assert said[1].startswith("WER there, all exits passed, trees of other speakers: fused ")
    assert float(said[1].split(", ")[-1].rstrip("])")) > 0  # the interval's upper end
    assert said[2].startswith("No dev speech of CommonVoice: ")
    assert not (folder / "fusion.json").exists()


def test_a_table_of_another_model_is_refused(dev_table, model_folder, table, tmp_path, capsys):
    write_table(table, tmp_path / "other.parquet")
    assert main(["fusion", str(model_folder), str(tmp_path / "other.parquet")]) == 2
    said = capsys.readouterr().err
    assert "was heard by model None" in said and said.count("\n") == 1
    assert not (model_folder / "fusion.json").exists()


def test_what_cannot_be_fused_is_refused(fused_folder, model_folder, audio_folder, dev, tmp_path, capsys):
    with pytest.raises(ValueError, match="words must be one of exit, fused, got 'all'"):
        EarlyExitASR.from_pretrained(fused_folder, words="all")
    with pytest.raises(ValueError, match="fit it on exit tables of dev with eeasr fusion MODEL TABLE"):
        EarlyExitASR.from_pretrained(model_folder, words="fused")
    with pytest.raises(ValueError, match="fitted on greedy words"):
        EarlyExitASR.from_pretrained(fused_folder, words="fused", decoding=BeamOptions())
    with pytest.raises(ValueError, match="most_confident chooses whose words are said"):
        EarlyExitASR.from_pretrained(fused_folder, words="fused", policy="most_confident")
    assert main(["export", str(fused_folder), "-o", f"{tmp_path}/onnx", "--words", "fused"]) == 2
    assert "an exported model says the words of the exit it takes" in capsys.readouterr().err


def test_what_was_certified_for_fused_words_says_those(fused_folder, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(fused_folder, tmp_path / "model")
    first, *others = read_policies(folder / "policy.json")
    promise = {"certified": True, "words": "fused", "fusion": write_fitted(folder, read_fusion(folder))}
    write_policies(folder / "policy.json", [replace(first, promise=promise), *others])
    assert EarlyExitASR.from_pretrained(folder).rule == f"{first.policy} + fusion"
    assert EarlyExitASR.from_pretrained(folder, policy="static(3)").rule == "static(3)"
    with pytest.raises(ValueError, match="was certified for fused words, which the words of the exit it takes are not"):
        EarlyExitASR.from_pretrained(folder, words="exit")
    monkeypatch.setattr("eeasr_modules.runtime.onnx.export._check_packages", lambda: None)
    assert main(["export", str(folder), "-o", f"{tmp_path}/onnx"]) == 2
    assert "was certified for fused words" in capsys.readouterr().err
    write_fitted(folder, replace(read_fusion(folder), margin=0.5))
    with pytest.raises(ValueError, match="is not the file that was written with its policies"):
        EarlyExitASR.from_pretrained(folder)


@pytest.mark.parametrize("certified", [True, False])
def test_words_that_were_not_certified_are_not_said_in_their_place(certified, fused_folder, tmp_path):
    folder = shutil.copytree(fused_folder, tmp_path / "model")
    first, *others = read_policies(folder / "policy.json")
    write_policies(folder / "policy.json", [replace(first, promise={"certified": certified}), *others])
    if certified:
        with pytest.raises(ValueError, match="was certified for the words of the exit it takes"):
            EarlyExitASR.from_pretrained(folder, words="fused")
    else:
        assert EarlyExitASR.from_pretrained(folder, words="fused").rule == f"{first.policy} + fusion"
    assert EarlyExitASR.from_pretrained(folder, words="fused", policy="static(3)").rule == "static(3) + fusion"
