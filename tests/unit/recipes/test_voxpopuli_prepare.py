"""VoxPopuli on a small tree of the published shape."""

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.manifest import read_description, read_manifest
from eeasr_modules.training.corpora import load_recipe

HEADER = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\tis_gold_transcript\taccent"
ROWS = [
    "20180613-0900-PLENARY-15-en_1\tMr President,\tmr president,\t124\ttrain\tmale\tTrue\tNone",
    '20180613-0900-PLENARY-15-en_2\t"No\t"it\'s no\tNone\ttrain\tNone\tTrue\tNone',
    "20180613-0900-PLENARY-15-en_3\tnothing\t\t124\ttrain\tmale\tTrue\tNone",
    "20180613-0900-PLENARY-15-en_4\tlost\tlost\t124\ttrain\tmale\tTrue\tNone",
]


@pytest.fixture
def recipe(root):
    return load_recipe(root / "recipes" / "VoxPopuli")


def tree(tmp_path, language="en"):
    folder = tmp_path / "transcribed_data" / language
    (folder / "2018").mkdir(parents=True)
    for number in (1, 2, 3):
        noise = 0.1 * np.random.default_rng(number).standard_normal(16000)
        soundfile.write(folder / "2018" / f"20180613-0900-PLENARY-15-en_{number}.ogg", noise, 16000)
    (folder / "asr_train.tsv").write_text("\n".join([HEADER, *ROWS]) + "\n", encoding="utf-8")
    return tmp_path / "transcribed_data"


def test_rows_with_text_and_audio_by_year(recipe, tmp_path):
    manifest = recipe.prepare(tree(tmp_path), tmp_path / "out", splits=["train"])["train"]
    rows = read_manifest(manifest)
    assert [(row.speaker, row.text) for row in rows] == [
        ("124", "MR PRESIDENT"),
        ("20180613-0900-PLENARY-15-en_2", "IT'S NO"),
    ]
    assert rows[0].wav == "$data_root/2018/20180613-0900-PLENARY-15-en_1.ogg"
    assert read_description(manifest)["skipped"] == {"missing": 1, "empty text": 1}


def test_the_folder_names_the_rule(recipe, tmp_path):
    manifest = recipe.prepare(tree(tmp_path, "de"), tmp_path / "out", splits=["train"])["train"]
    assert read_description(manifest)["normaliser"] == "letters"


def test_what_is_not_the_corpus_is_said(recipe, tmp_path):
    folder = tree(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks asr_dev\.tsv"):
        recipe.prepare(folder, tmp_path / "out", splits=["dev"])
    tree(tmp_path, "fr"), tree(tmp_path, "de")
    (folder / "en" / "asr_train.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="holds the languages de, fr: name the folder of one"):
        recipe.prepare(folder, tmp_path / "out", splits=["train"])
    (folder / "de" / "asr_train.tsv").write_text("id\ttext\n")
    with pytest.raises(ValueError, match="lacks normalized_text, speaker_id"):
        recipe.prepare(folder / "de", tmp_path / "out", splits=["train"])
