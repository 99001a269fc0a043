"""ML-SUPERB on a small tree: one language, all of them with tags, training and scoring by character."""

import json

import numpy as np
import pytest
import soundfile
from tiny_run import tiny_argv

import train
from eeasr_modules.data.manifest import read_description, read_manifest
from eeasr_modules.data.text import load_vocabulary
from eeasr_modules.exits.tables.files import read_table
from eeasr_modules.training.corpora import load_recipe

TEXTS = {"eng": ["Hello, you!", "room 12", "go on"], "deu": ["Straße frei", "zu, los", "ja"]}


@pytest.fixture
def recipe(root):
    return load_recipe(root / "recipes" / "MLSUPERB")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    for language, texts in TEXTS.items():
        where = tmp_path / "corpus" / "mls" / language
        (where / "wav").mkdir(parents=True)
        for split in ("10min_train", "10min_dev", "10min_test"):
            lines = []
            for i, text in enumerate(texts):
                utt_id = f"mls_{language}_{split}_{i}"
                lines.append(f"{utt_id}\tspeaker {text}" if i else f"{utt_id} speaker {text}")
                soundfile.write(where / "wav" / f"{utt_id}.wav", 0.1 * rng.standard_normal(24000), 16000)
            lines.append(f"mls_{language}_{split}_x speaker")
            (where / f"transcript_{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "corpus"


def test_one_language_has_no_tags(recipe, folder, tmp_path):
    manifest = recipe.prepare(folder / "mls" / "deu", tmp_path / "out", splits=["10min_train"])["10min_train"]
    assert [row.text for row in read_manifest(manifest)] == ["STRASSE FREI", "ZU LOS", "JA"]
    assert read_description(manifest)["skipped"] == {"empty text": 1}


def test_all_languages_have_tags_and_one_can_be_taken_out(recipe, folder, tmp_path):
    made = recipe.prepare(folder, tmp_path / "out", splits=["10min_train", "10min_test_eng"])
    texts = [row.text for row in read_manifest(made["10min_train"])]
    assert texts == [
        "<deu> STRASSE FREI",
        "<deu> ZU LOS",
        "<deu> JA",
        "<eng> HELLO YOU",
        "<eng> ROOM 12",
        "<eng> GO ON",
    ]
    assert [row.utt_id for row in read_manifest(made["10min_test_eng"])] == [
        f"mls_eng_10min_test_{i}" for i in range(3)
    ]


@pytest.mark.parametrize(("split", "says"), [("10min_test_fra", "no language 'fra'"), ("dev", "has the splits")])
def test_a_wrong_split_is_said(recipe, folder, tmp_path, split, says):
    with pytest.raises(ValueError, match=says):
        recipe.prepare(folder, tmp_path / "out", splits=[split])


def test_what_is_not_the_corpus_is_said(recipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="found none"):
        recipe.prepare(tmp_path, tmp_path / "out")


def test_a_multilingual_run_learns_tags_and_does_not_score_them(folder, tmp_path):
    run = tmp_path / "run"
    splits = {
        "train_splits": ["10min_train"],
        "valid_splits": ["10min_dev"],
        "test_splits": ["10min_test", "10min_test_deu"],
    }
    argv = tiny_argv(folder, run, corpus="MLSUPERB", shifts=[], n_epochs=1, **splits)
    assert train.main(argv) == 0
    vocabulary = load_vocabulary(run / "model")
    assert vocabulary.tokens[-2:] == ("<deu>", "<eng>") and "1" in vocabulary.tokens
    ids = vocabulary.encode("<deu> JA")
    assert ids[0] == len(vocabulary) - 2 and vocabulary.decode(ids) == "JA"
    table = read_table(run / "tables" / "mlsuperb_10min_test_deu.parquet")
    assert list(table.references) == ["STRASSE FREI", "ZU LOS", "JA"]
    summary = json.loads((run / "report" / "summary.json").read_text())
    assert len(summary["sets"]["mlsuperb_10min_test_deu"]["cer_per_exit"]) == 2
