"""`eeasr leaderboard`: their manifest, their score, and results as the hub reads them."""

import json
import sys

import pytest
import soundfile
import yaml
from talkative import audio_folder, dev, model, model_folder, wavs

from eeasr_modules.cli import main
from eeasr_modules.common import normalise
from eeasr_modules.common.normalise import normalise_whisper
from eeasr_modules.data.text import NORMALISERS
from eeasr_modules.exits.tables.plain_transcripts import NORMALISERS as OF_TABLES
from eeasr_modules.runtime import EarlyExitASR

__all__ = ["audio_folder", "dev", "model", "model_folder", "wavs"]


@pytest.fixture
def folder(audio_folder, model_folder, tmp_path):
    """An audiofolder: u0 is said as it is heard but for a word, u1 as heard, u2 has no reference."""
    split = tmp_path / "corpus" / "test"
    split.mkdir(parents=True)
    asr = EarlyExitASR.from_pretrained(model_folder, device="cpu")
    texts = [asr.transcribe(audio_folder / f"u{i}.wav").text for i in range(2)]
    texts = [f"{texts[0].lower()} twenty-one!", texts[1], "uh, (noise)"]
    rows = [f'u{i}.wav,"{text}"' for i, text in enumerate(texts)]
    (split / "metadata.csv").write_text("\n".join(["file_name,transcription", *rows]) + "\n")
    for i in range(3):
        samples, rate = soundfile.read(audio_folder / f"u{i}.wav")
        soundfile.write(split / f"u{i}.wav", samples, rate, subtype="FLOAT")
    return tmp_path / "corpus"


def test_manifest_and_results_say_what_was_heard(folder, model_folder, tmp_path, capsys):
    command = ["leaderboard", str(model_folder), str(folder), "--model-id", "me/small", "-o", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu", "--batch-size", "2", "--task", "ami_wer"]) == 0
    said = capsys.readouterr().out
    path = tmp_path / "out" / "results" / "MODEL_me-small_DATASET_corpus__test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["text"].endswith("twenty-one!") for row in rows] == [True, False]  # raw, u2 left out
    assert rows[0]["norm_text"].endswith(" 21") and rows[0]["pred_text"] == rows[0]["pred_text"].upper()
    n_words = sum(len(row["norm_text"].split()) for row in rows)
    [result] = yaml.safe_load((tmp_path / "out" / ".eval_results" / "corpus_ami_wer.yaml").read_text())
    assert result["dataset"] == {"id": "hf-audio/open-asr-leaderboard", "task_id": "ami_wer"}
    assert result["value"] == pytest.approx(100 / n_words, abs=0.006)  # one word of them
    rtfx = sum(row["duration"] for row in rows) / sum(row["time"] for row in rows)
    assert f"RTFx {rtfx:.2f}" in result["notes"] and f"RTFx {rtfx:.2f}" in said and "batch size 2" in said
    assert "1 left out without reference" in result["notes"] and "parameters" in said


@pytest.mark.parametrize("how", ["save_to_disk", "parquet", "one parquet"])
def test_sets_of_datasets_that_hold_their_audio_score_as_their_files_do(folder, model_folder, tmp_path, how):
    datasets = pytest.importorskip("datasets")
    rows = [line.split(",", 1) for line in (folder / "test" / "metadata.csv").read_text().splitlines()[1:]]
    audio = [{"bytes": (folder / "test" / name).read_bytes(), "path": name} for name, _ in rows]
    made = datasets.Dataset.from_dict({"audio": audio, "text": [text.strip('"') for _, text in rows]})
    made = made.cast_column("audio", datasets.Audio(decode=False)).cast_column("audio", datasets.Audio())
    where = tmp_path / "set"
    if how == "save_to_disk":
        made.save_to_disk(str(where))
    else:
        where.mkdir()
        made.to_parquet(str(where / "test.parquet"))
        where = where / "test.parquet" if how == "one parquet" else where
    lines = []
    for data, out in ((folder, tmp_path / "files"), (where, tmp_path / "tables")):
        names = ["--model-id", "m", "--dataset-id", "d", "-o", str(out), "--device", "cpu"]
        assert main(["leaderboard", str(model_folder), str(data), *names]) == 0
        found = (out / "results" / "MODEL_m_DATASET_d__test.jsonl").read_text().splitlines()
        lines.append([json.loads(line) for line in found])
    kept = ("duration", "text", "pred_text", "norm_text", "norm_pred_text")
    assert [[row[key] for key in kept] for row in lines[0]] == [[row[key] for key in kept] for row in lines[1]]
    for row in lines[1]:  # their manifest names files that stay
        assert soundfile.info(row["audio_filepath"]).duration == row["duration"]


def test_without_the_package_datasets_one_sentence_says_so(model_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for dataset in (str(tmp_path), "hf:me/set,clean"):
        assert main(["leaderboard", str(model_folder), dataset, "-o", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert f"{dataset} is a set of the package datasets: pip install" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--split", "dev"], "expected the split 'dev'"),
    ],
)
def test_what_is_wrong_is_one_sentence(folder, model_folder, capsys, change, says):
    assert main(["leaderboard", str(model_folder), str(folder), "--device", "cpu", *change]) == 2
    assert says in capsys.readouterr().err


def test_whisper_is_a_normaliser_everywhere_and_its_spelling_map_is_found(tmp_path, monkeypatch, caplog):
    assert NORMALISERS["whisper"] is OF_TABLES["whisper"] is normalise_whisper
    normalise._normaliser.cache_clear()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv(normalise.VARIABLE, raising=False)
    if normalise.spelling_file() is None:
        assert normalise_whisper("The colour, it isn't") == "the colour it is not"
        assert "British spelling counts as an error" in caplog.text
    (tmp_path / "normalizer.json").write_text('{"colour": "color"}')
    monkeypatch.setenv(normalise.VARIABLE, str(tmp_path / "normalizer.json"))
    assert normalise_whisper("The colour, it isn't") == "the color it is not"
    monkeypatch.setenv(normalise.VARIABLE, str(tmp_path / "none.json"))
    with pytest.raises(FileNotFoundError, match="must name Whisper's"):
        normalise_whisper("A")
    normalise._normaliser.cache_clear()
