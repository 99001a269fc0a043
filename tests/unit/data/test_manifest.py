"""Manifests: what is written, what is skipped, what is kept."""

import csv
import logging
import os

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.dataset import DynamicItemDataset

from eeasr_modules.data import audio_files
from eeasr_modules.data.manifest import (
    Utterance,
    audio_path,
    manifest_digest,
    read_description,
    read_manifest,
    require_files,
    write_manifest,
)


def tone(path, seconds=0.5, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(int(seconds * rate)) / 20), rate)
    return path


def corpus(folder, n=4):
    return [
        Utterance(f"u{index}", f"s{index % 2}", tone(folder / "wav" / f"u{index}.flac", 0.1 * (index + 1)), "A B")
        for index in range(n)
    ]


def write(tmp_path, utterances, **choices):
    return write_manifest(
        tmp_path / "out" / "toy_train.csv",
        utterances,
        **{
            "corpus": "Toy",
            "split": "train",
            "data_folder": tmp_path / "toy",
            "normaliser": "english",
            **choices,
        },
    )


def test_a_manifest_has_speechbrains_columns_and_durations(tmp_path):
    path = write(tmp_path, corpus(tmp_path / "toy"))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["ID", "duration", "wav", "spk_id", "wrd"]
    assert [float(row["duration"]) for row in rows] == [0.1, 0.2, 0.3, 0.4]
    assert rows[1]["wav"] == "$data_root/wav/u1.flac"
    noted = read_description(path)
    assert (noted["corpus"], noted["n_utterances"], noted["n_speakers"], noted["n_words"]) == ("Toy", 4, 2, 8)
    assert noted["duration_s"] == pytest.approx(1.0)
    assert noted["csv_digest"] == manifest_digest(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["toy_train.csv", "toy_train.json"]


def test_speechbrain_and_our_reader_see_the_same_rows(tmp_path):
    path = write(tmp_path, corpus(tmp_path / "toy"))
    data = DynamicItemDataset.from_csv(path, replacements={"data_root": str(tmp_path / "toy")}).data
    for row in read_manifest(path):
        seen = data[row.utt_id]
        assert seen["wav"] == str(audio_path(row.wav, tmp_path / "toy"))
        assert os.path.exists(seen["wav"])
        assert (float(seen["duration"]), seen["spk_id"], seen["wrd"]) == (
            row.duration_s,
            row.speaker,
            row.text,
        )


def test_the_digest_does_not_depend_on_where_the_corpus_lies(tmp_path):
    digests = [manifest_digest(write(tmp_path / place, corpus(tmp_path / place / "toy"))) for place in ("a", "b")]
    assert digests[0] == digests[1]


def test_a_corpus_behind_a_link_is_written_relative_to_it(tmp_path):
    utterances = corpus(tmp_path / "elsewhere")
    (tmp_path / "toy").symlink_to(tmp_path / "elsewhere")
    linked = [
        Utterance(each.utt_id, each.speaker, tmp_path / "toy" / "wav" / each.audio.name, each.text)
        for each in utterances
    ]
    assert read_manifest(write(tmp_path, linked))[0].wav == "$data_root/wav/u0.flac"


def test_audio_outside_the_corpus_is_written_with_its_own_path(tmp_path):
    outside = tone(tmp_path / "outside.wav")
    path = write(tmp_path, [Utterance("x", "s", outside, "A")])
    assert read_manifest(path)[0].wav == str(outside)


def test_nothing_is_redone_while_the_inputs_stay_the_same(tmp_path):
    utterances = corpus(tmp_path / "toy")
    path = write(tmp_path, utterances)
    os.utime(path, (1, 1))
    write(tmp_path, utterances)
    assert path.stat().st_mtime == 1


def _edit_text(utterances, path):
    utterances[0] = Utterance("u0", "s0", utterances[0].audio, "OTHER")


def _replace_audio(utterances, path):
    tone(utterances[0].audio, 1.5)


def _remove_audio(utterances, path):
    utterances[0].audio.unlink()


def _damage_manifest(utterances, path):
    path.write_text(path.read_text()[:-5])


def _damage_description(utterances, path):
    path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize("change", [_edit_text, _replace_audio, _remove_audio, _damage_manifest, _damage_description])
def test_a_change_of_the_inputs_makes_the_manifest_anew(tmp_path, change):
    utterances = corpus(tmp_path / "toy")
    path = write(tmp_path, utterances)
    os.utime(path, (1, 1))
    change(utterances, path)
    write(tmp_path, utterances)
    assert path.stat().st_mtime != 1
    assert read_description(path)["csv_digest"] == manifest_digest(path)


def test_another_option_makes_the_manifest_anew(tmp_path):
    utterances = corpus(tmp_path / "toy")
    path = write(tmp_path, utterances, options={"n": 1})
    os.utime(path, (1, 1))
    write(tmp_path, utterances, options={"n": 2})
    assert path.stat().st_mtime != 1


def test_missing_and_corrupt_audio_is_skipped_counted_named_and_logged(tmp_path, caplog):
    utterances = corpus(tmp_path / "toy")
    noise = tmp_path / "toy" / "wav" / "noise.wav"
    noise.write_bytes(b"not audio at all")
    empty = tmp_path / "toy" / "wav" / "empty.wav"
    empty.touch()
    silent = tmp_path / "toy" / "wav" / "silent.wav"
    soundfile.write(silent, np.zeros(0), 16000)
    cut = tone(tmp_path / "toy" / "wav" / "cut.flac", 3)
    cut.write_bytes(cut.read_bytes()[:-8000])
    bad = [Utterance(file.stem, "s9", file, "A") for file in (noise, empty, silent, cut)]
    gone = [Utterance("gone", "s9", tmp_path / "gone.wav", "A"), Utterance("unfound", "s9", None, "A")]
    with caplog.at_level(logging.WARNING):
        path = write(tmp_path, utterances + bad + gone, left_out={"empty text": ["quiet"]})
    assert [row.utt_id for row in read_manifest(path)] == ["u0", "u1", "u2", "u3"]
    noted = read_description(path)
    assert noted["skipped"] == {"missing": 2, "corrupt": 4, "empty text": 1}
    assert [line.split("\t")[0] for line in noted["skipped_first"]["corrupt"]] == [
        "noise",
        "empty",
        "silent",
        "cut",
    ]
    listed = path.with_suffix(".skipped.txt").read_text().splitlines()
    assert len(listed) == 7
    assert any(line.startswith("missing\tgone\t") for line in listed)
    assert "2 utterances left out, missing: gone" in caplog.text


def test_only_the_first_twenty_are_named_in_the_description_but_all_in_the_list(tmp_path):
    gone = [Utterance(f"g{index}", "s", None, "A") for index in range(30)]
    path = write(tmp_path, corpus(tmp_path / "toy") + gone)
    noted = read_description(path)
    assert (noted["skipped"]["missing"], len(noted["skipped_first"]["missing"])) == (30, 20)
    assert len(path.with_suffix(".skipped.txt").read_text().splitlines()) == 30


def test_headers_alone_do_not_see_a_file_cut_short(tmp_path):
    cut = tone(tmp_path / "toy" / "cut.flac", 3)
    cut.write_bytes(cut.read_bytes()[:-8000])
    path = write(tmp_path, [Utterance("cut", "s", cut, "A")], decode=False)
    assert read_manifest(path)[0].duration_s == 3.0


def test_an_empty_split_is_one_sentence_and_leaves_no_manifest(tmp_path):
    with pytest.raises(ValueError, match=r"split 'train' of Toy has no usable utterance \(1 missing\)") as caught:
        write(tmp_path, [Utterance("gone", "s", None, "A")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "toy_train.csv").exists()
    with pytest.raises(ValueError, match="none listed"):
        write(tmp_path, [])


def test_an_id_that_occurs_twice_is_refused(tmp_path):
    utterances = corpus(tmp_path / "toy")
    with pytest.raises(ValueError, match="u0 twice"):
        write(tmp_path, [*utterances, utterances[0]])


def test_texts_with_commas_and_quotes_come_back_as_they_were(tmp_path):
    audio = tone(tmp_path / "toy" / "a.wav")
    path = write(tmp_path, [Utterance("a", "s", audio, 'SAID "HI", AND LEFT')])
    assert read_manifest(path)[0].text == 'SAID "HI", AND LEFT'


def test_what_is_not_a_manifest_or_a_corpus_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the corpus' prepare first"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("ID,wav\n")
    with pytest.raises(ValueError, match="lacks duration, spk_id, wrd"):
        read_manifest(tmp_path / "other.csv")
    with pytest.raises(FileNotFoundError, match=r"other\.json"):
        read_description(tmp_path / "other.csv")
    with pytest.raises(FileNotFoundError, match=r"expected Toy with etc, wav in .*lacks etc, wav"):
        require_files(tmp_path, ("etc", "wav"), corpus="Toy")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        require_files(tmp_path / "nowhere", ("etc",), corpus="Toy")


@pytest.mark.parametrize("decode", [True, False])
def test_headers_with_rates_of_no_speech_cost_their_recordings_alone(tmp_path, decode):
    utterances = corpus(tmp_path / "toy")
    for rate in (1, 999_983, 2_000_000_000, 44_101, 11_127):
        file = tmp_path / "toy" / "wav" / f"{rate}.wav"
        soundfile.write(file, 0.1 * np.sin(np.arange(30000) / 20), rate)
        utterances.append(Utterance(f"r{rate}", "s9", file, "A"))
    path = write(tmp_path, utterances, decode=decode)
    assert [row.utt_id for row in read_manifest(path)][-2:] == ["r44101", "r11127"]
    noted = read_description(path)
    assert noted["skipped"] == {"corrupt": 3}
    assert "must be 4000 to 384000 Hz, got 1" in noted["skipped_first"]["corrupt"][0]


def test_whatever_goes_wrong_with_a_file_is_that_files_fault(tmp_path, monkeypatch):
    utterances = corpus(tmp_path / "toy")
    stock = audio_files.audio_duration_s

    def failing(path, **options):
        if path == utterances[1].audio:
            raise MemoryError
        return stock(path, **options)

    monkeypatch.setattr(audio_files, "audio_duration_s", failing)
    path = write(tmp_path, utterances)
    assert [row.utt_id for row in read_manifest(path)] == ["u0", "u2", "u3"]
    assert "needs more memory than there is" in read_description(path)["skipped_first"]["corrupt"][0]
