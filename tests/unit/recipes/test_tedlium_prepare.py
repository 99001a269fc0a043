"""TED-LIUM 3 and VoxPopuli, on small trees of the published shape."""

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.manifest import read_description, read_manifest
from eeasr_modules.training.corpora import load_recipe

STM = """;; a comment
AlGore_2006 1 AlGore_2006 0.50 2.00 <o,f0,male> thank you so much <unk> it 's an honor
AlGore_2006 1 inter_segment_gap 2.00 2.50 <o,f0,> ignore_time_segment_in_scoring
AlGore_2006 1 AlGore_2006 2.50 4.00 i have been blown away
AlGore_2006 1 AlGore_2006 4.00 5.00 <o,f0,male> <unk>
AlGore_2006 1 AlGore_2006 nonsense
AlGore_2006 1 AlGore_2006 100.00 102.00 <o,f0,male> after the end
"""


@pytest.fixture
def recipe(root):
    return load_recipe(root / "recipes" / "TEDLIUM")


@pytest.fixture
def folder(tmp_path):
    split = tmp_path / "TEDLIUM_release-3" / "legacy" / "train"
    for name in ("stm", "sph"):
        (split / name).mkdir(parents=True)
    (split / "stm" / "AlGore_2006.stm").write_text(STM)
    (split / "stm" / "Nobody.stm").write_text("Nobody 1 Nobody 0.0 1.0 <o,f0,male> no audio\n")
    noise = 0.1 * np.random.default_rng(1).standard_normal(6 * 16000)
    soundfile.write(split / "sph" / "AlGore_2006.sph", noise, 16000, format="NIST", subtype="PCM_16")
    return tmp_path / "TEDLIUM_release-3"


def test_segments_of_talks_with_their_words(recipe, folder, tmp_path):
    manifest = recipe.prepare(folder, tmp_path / "out", splits=["train"])["train"]
    rows = read_manifest(manifest)
    assert [(row.utt_id, row.text, row.duration_s) for row in rows] == [
        ("AlGore_2006-0002", "THANK YOU SO MUCH IT'S AN HONOR", 1.5),
        ("AlGore_2006-0004", "I HAVE BEEN BLOWN AWAY", 1.5),
    ]
    assert rows[0].wav == "$data_root/legacy/train/sph/AlGore_2006.sph#t=0.5,2"
    assert {row.speaker for row in rows} == {"AlGore_2006"}
    assert read_description(manifest)["skipped"] == {
        "missing": 1,
        "corrupt": 1,
        "not scored": 1,
        "line not understood": 1,
        "text without spelling": 1,
    }


def test_what_is_not_the_corpus_is_said(recipe, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="legacy/dev/stm"):
        recipe.prepare(folder, tmp_path / "out", splits=["dev"])
    with pytest.raises(ValueError, match="has the splits train, dev, test, got valid"):
        recipe.prepare(folder, tmp_path / "out", splits=["valid"])
