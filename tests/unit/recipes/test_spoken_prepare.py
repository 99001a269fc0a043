"""The embedded corpus: what lies in the repository, how it is read, and that its text can be made again."""

import re
import shutil
from collections import defaultdict

import pytest
import soundfile

from eeasr_modules.data.audio_files import find_audio
from eeasr_modules.data.manifest import read_description, read_manifest
from eeasr_modules.training.corpora import describe, set_label
from recipes.Spoken import make
from recipes.Spoken.prepare import prepare
from recipes.SpokenUnseen.prepare import prepare as prepare_unseen

CORPUS = make.Path(make.__file__).parent / "corpus"
MOST_BYTES = 8_000_000


@pytest.fixture(scope="module")
def sentences():
    return make.read_table(CORPUS / make.TABLE)


@pytest.fixture
def small(tmp_path, sentences):
    """Two utterances of each split, in the corpus' layout."""
    folder, by_split = tmp_path / "corpus", defaultdict(list)
    for sentence in sentences:
        by_split[sentence.split].append(sentence)
    few = [sentence for split in by_split.values() for sentence in split[:2]]
    make.write_table(folder / make.TABLE, few)
    for sentence in few:
        audio = make.audio_of(folder, sentence)
        audio.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(make.audio_of(CORPUS, sentence), audio)
    return folder


def words_of(sentence):
    return make.normalise_english(sentence.text).split()


def runs_of_five(sentence):
    words = words_of(sentence)
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def test_no_sentence_nor_five_words_in_a_row_are_in_two_splits(sentences):
    splits_of, texts = defaultdict(set), [make.normalise_english(sentence.text) for sentence in sentences]
    assert len(set(texts)) == len(texts)
    for sentence in sentences:
        for run in runs_of_five(sentence):
            splits_of[run].add(sentence.split)
    assert max(map(len, splits_of.values())) == 1


def test_held_out_donors_are_never_heard_in_training(sentences):
    donors = defaultdict(set)
    for sentence in sentences:
        synthesizer, voice = sentence.voice.split("_")
        donors[sentence.split].add(synthesizer if synthesizer == "espeak" else voice)
    assert donors["test_unseen_voices"] == {"kal", "ked"}
    assert donors["train"] == donors["dev"] == donors["test"] == {"awb", "rms", "slt", "espeak"}


def test_there_are_three_thousand_different_words_spelled_with_letters_and_apostrophes(sentences):
    words = {word for sentence in sentences for word in words_of(sentence)}
    assert len(words) >= 3000
    assert all(re.fullmatch("[A-Z']+", word) for word in words)
    assert {len(sentence.text.split()) for sentence in sentences} <= set(range(3, 15))


def test_every_audio_file_is_of_the_table_and_lasts_as_long_as_its_text_would(sentences):
    audio = {make.audio_of(CORPUS, sentence): sentence for sentence in sentences}
    assert set(find_audio(CORPUS).values()) == set(audio)
    for path, sentence in audio.items():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (16000, 1), path
        assert 6 < len(sentence.text) / info.duration < 24, (path, sentence.text)


def test_a_sample_of_the_audio_decodes_to_its_end_and_is_neither_silent_nor_clipped(sentences):
    for sentence in sentences[::40]:
        samples, _ = soundfile.read(make.audio_of(CORPUS, sentence))
        assert 0.03 < (samples**2).mean() ** 0.5 < 0.3, sentence
        assert abs(samples).max() < 1, sentence


def test_the_folder_is_small_and_has_its_licences_beside_it():
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    licences = (CORPUS / "LICENCES.md").read_text("utf-8")
    assert {path.relative_to(CORPUS).parts[0] for path in files} == {"audio", make.TABLE, "LICENCES.md", "kjv.arpa.gz"}
    for name in (
        "bible-kjv-text",
        "kjv.arpa.gz",
        "flite_awb",
        "flite_rms",
        "flite_slt",
        "espeak_",
        "festival_kal",
        "festival_ked",
    ):
        assert name in licences


@pytest.mark.skipif(shutil.which("bible") is None, reason="needs Debian's package bible-kjv")
def test_the_text_stage_makes_the_committed_table_again_bit_by_bit(tmp_path):
    made = make.write_table(tmp_path / make.TABLE, make.choose_sentences(make.read_verses()))
    assert made.read_bytes() == (CORPUS / make.TABLE).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bible") is None, reason="needs Debian's package bible-kjv")
def test_further_training_sentences_are_new_and_share_no_five_words_with_held_out_ones(sentences):
    verses = make.read_verses()
    more = make.more_sentences(verses, 3000)
    assert len({one.text for one in more} - {one.text for one in sentences}) == len(more) == 3000
    assert not {one.utt_id for one in more} & {one.utt_id for one in sentences}
    assert {one.split for one in more} == {"train"} and {one.voice for one in more} <= set(make.TRAINING_VOICES)
    held_out = {run for one in sentences if one.split != "train" for run in runs_of_five(one)}
    assert not held_out & {run for one in more for run in runs_of_five(one)}
    with pytest.raises(ValueError, match="further sentences"):
        make.more_sentences(verses, 10**6)


def test_a_missing_program_is_named_with_the_package_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="apt install bible-kjv"):
        make.read_verses()


def test_too_short_a_text_is_refused():
    with pytest.raises(ValueError, match="split dev needs 72 sentences, the text gave 1"):
        make.choose_sentences(["And the light was good; and the light was good."] * 3)


def test_training_voices_are_in_domain_and_unseen_donors_are_not(small, tmp_path):
    own, unseen = prepare(small, tmp_path), prepare_unseen(small, tmp_path)["test"]
    trained_on = [describe(own["train"])]
    assert set_label(trained_on, describe(own["test"])) == "in_domain"
    assert set_label(trained_on, describe(unseen)) == "ood"
    assert [row.speaker for row in read_manifest(unseen)] == ["festival_kal", "festival_ked"]
    assert unseen.name == "spokenunseen_test.csv"


def test_a_manifest_holds_the_normal_form_of_what_was_spoken(small, tmp_path, sentences):
    rows = read_manifest(prepare(small, tmp_path, splits=("train",))["train"])
    first = sentences[0]
    assert (rows[0].utt_id, rows[0].speaker) == ("train_0001", first.voice)
    assert rows[0].text.split() == words_of(first)
    assert rows[0].wav == "$data_root/audio/train/train_0001.opus"


def test_missing_audio_is_counted(small, tmp_path):
    (small / "audio" / "dev" / "dev_0002.opus").unlink()
    noted = read_description(prepare(small, tmp_path, splits=("dev",))["dev"])
    assert (noted["n_utterances"], noted["skipped"]) == (1, {"missing": 1})


def test_another_folder_and_unknown_splits_are_refused(small, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the embedded corpus Spoken with utterances\.tsv, audio"):
        prepare(tmp_path, tmp_path / "save")
    with pytest.raises(ValueError, match=r"got test_unseen_voices \(unseen voices are the corpus SpokenUnseen\)"):
        prepare(small, tmp_path, splits=("test_unseen_voices",))
    with pytest.raises(ValueError, match="the split test only, got train"):
        prepare_unseen(small, tmp_path, splits=("train",))


@pytest.mark.slow
@pytest.mark.parametrize("voice", ["flite_slt", "espeak_en-gb+f3", "festival_ked"])
@pytest.mark.skipif(any(shutil.which(program) is None for program in make.PROGRAMS), reason="needs the synthesizers")
def test_a_sentence_is_spoken_as_rate_says(tmp_path, voice):
    durations = []
    for rate in (0.75, 1.0):
        path = tmp_path / f"{rate}.opus"
        make.speak(make.Sentence("a", "train", voice, rate, 1.0, "The slothful man roasteth not."), path)
        durations.append(soundfile.info(path).duration)
    assert 1.15 < durations[0] / durations[1] < 1.45
