"""LibriSpeech: the tree as published, parts of it, and what is wrong with it."""

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.manifest import read_description, read_manifest
from recipes.LibriSpeech.prepare import prepare


@pytest.fixture
def tree(tmp_path):
    """Two subsets; chapter 7-20 lacks its transcripts, 7-3 has an odd line and lacks audio."""
    folder = tmp_path / "LibriSpeech"
    tone = 0.1 * np.sin(np.arange(8000) / 9)
    chapters = {
        "dev-clean/19/100": {"19-100-0000": "HE ISN'T HERE", "19-100-0001": "YES"},
        "train-clean-100/7/3": {"7-3-0000": "GO", "7-3-0001": "Room 12", "7-3-0002": "NO AUDIO"},
        "train-clean-100/103/1": {"103-1-0000": "'TIS LAST"},
    }
    for chapter, texts in chapters.items():
        (folder / chapter).mkdir(parents=True)
        lines = [f"{utt_id} {text}" for utt_id, text in texts.items()]
        name = f"{'-'.join(chapter.split('/')[1:])}.trans.txt"
        (folder / chapter / name).write_text("\n".join(lines) + "\n")
        for utt_id in texts:
            if utt_id != "7-3-0002":
                soundfile.write(folder / chapter / f"{utt_id}.flac", tone, 16000)
    (folder / "train-clean-100/7/20").mkdir()
    soundfile.write(folder / "train-clean-100/7/20/7-20-0000.flac", tone, 16000)
    return folder


def test_any_subset_is_read_and_what_is_left_out_is_named(tree, tmp_path):
    made = prepare(tree.parent, tmp_path / "save", splits=("dev-clean", "train-clean-100"))
    dev, train = (read_manifest(made[name]) for name in ("dev-clean", "train-clean-100"))
    assert [(row.utt_id, row.speaker, row.text) for row in dev] == [
        ("19-100-0000", "19", "HE ISN'T HERE"),
        ("19-100-0001", "19", "YES"),
    ]
    assert [(row.utt_id, row.text, row.duration_s) for row in train] == [
        ("7-3-0000", "GO", 0.5),
        ("103-1-0000", "'TIS LAST", 0.5),  # speakers in the order of their numbers; text as published
    ]
    noted = read_description(made["train-clean-100"])
    assert noted["skipped"] == {"missing": 1, "without transcript": 1, "text not as published": 1}
    skipped = made["train-clean-100"].with_suffix(".skipped.txt").read_text()
    assert all(name in skipped for name in ("7-3-0001 Room 12", "7-3-0002", "7-20-0000"))


def test_audio_is_found_by_its_stem(tree, tmp_path):
    flac = tree / "dev-clean/19/100/19-100-0000.flac"
    audio, rate = soundfile.read(flac)
    flac.unlink()
    soundfile.write(flac.with_suffix(".wav"), audio, rate)
    (tree / "dev-clean/19/100/19-100-0001.flac").rename(flac.with_name("19-100-0001.opus"))
    rows = read_manifest(prepare(tree, tmp_path / "save", splits=("dev-clean",))["dev-clean"])
    assert [row.wav.rpartition(".")[2] for row in rows] == ["wav", "opus"]


def test_a_file_cut_short_is_found_where_decoding_is_asked_for(tree, tmp_path):
    flac = tree / "dev-clean/19/100/19-100-0000.flac"
    soundfile.write(flac, np.random.default_rng(0).standard_normal(32000) / 9, 16000)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    for decode, skipped in ((False, {}), (True, {"corrupt": 1})):
        made = prepare(tree, tmp_path / "save", splits=("dev-clean",), decode=decode)["dev-clean"]
        assert read_description(made)["skipped"] == skipped


def test_what_is_not_librispeech_is_refused_in_a_sentence(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="has the subsets dev-clean, train-clean-100, got test-other"):
        prepare(tree, tmp_path / "save", splits=("dev-clean", "test-other"))
    with pytest.raises(FileNotFoundError, match=r"expected LibriSpeech's subsets .* but it has none"):
        prepare(tree / "dev-clean" / "19", tmp_path / "save")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        prepare(tmp_path / "nowhere", tmp_path / "save")


def test_nothing_is_redone_while_nothing_changed(tree, tmp_path):
    made = prepare(tree, tmp_path / "save", splits=("dev-clean",))["dev-clean"]
    before = made.stat().st_mtime_ns
    prepare(tree, tmp_path / "save", splits=("dev-clean",))
    assert made.stat().st_mtime_ns == before


@pytest.mark.shared_data
def test_real_parts_have_their_numbers(shared_data, tmp_path):
    splits = ("train-clean-100", "dev-clean", "test-other")
    made = prepare(shared_data / "LibriSpeech", tmp_path, splits=splits)
    noted = [read_description(made[split]) for split in splits]
    assert [one["n_utterances"] for one in noted] == [467, 20, 100]
    assert [one["n_speakers"] for one in noted] == [9, 2, 10]
    assert [one["n_words"] for one in noted] == [14127, 419, 1892]
    assert all(one["skipped"] == {} for one in noted)
