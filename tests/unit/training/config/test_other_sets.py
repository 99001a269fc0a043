"""Other folders as test sets, text rules and vocabularies that follow from them."""

import json

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.manifest import read_manifest
from eeasr_modules.data.text import CharVocabulary
from eeasr_modules.training.fit import build_model, check_run_folder, check_spelling, make_vocabulary, without_long

PURPOSES, SPLITS = ("train", "valid", "test"), ("train", "dev", "test")


def write_release(folder, rows, *, locale="en"):
    """Common Voice with train, dev and test TSVs; `rows`: split -> (speaker, clip, sentence)."""
    (folder / "clips").mkdir(parents=True)
    tone = 0.1 * np.sin(np.arange(16000) / 9)
    for split, clips in rows.items():
        lines = ["client_id\tpath\tsentence\tlocale"]
        for speaker, clip, sentence in clips:
            soundfile.write(folder / "clips" / f"{clip}.mp3", tone, 32000, format="MP3")
            lines.append(f"{speaker}\t{clip}.mp3\t{sentence}\t{locale}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


GERMAN = {
    "train": [("ann", "a1", "Übung macht Spaß"), ("bob", "b1", "Ja")],
    "dev": [("cid", "c1", "Nein, schön")],
    "test": [("dot", "d1", "Gut")],
}


@pytest.fixture
def german(tmp_path, make_config, make_corpora):
    """Configuration and corpora of a German release, by way of the Conformer's YAML."""
    folder = write_release(tmp_path / "cv" / "de", GERMAN, locale="de")

    def make(**changes):
        changes = {"corpus": "CommonVoice", "data_folder": str(folder), "shifts": [], **changes}
        config = make_config(train_splits=["train"], valid_splits=["dev"], test_splits=["test"], **changes)
        return config, make_corpora(config, tmp_path / "manifests")

    return make


def test_another_release_is_tested_without_the_speakers_of_training(german, tmp_path):
    rows = {"test": [("ann", "x1", "Nein"), ("eve", "x2", "Doch")], "dev": [], "train": []}
    other = write_release(tmp_path / "other" / "de", rows, locale="de")
    _, corpora = german(release_old_folder=str(other))
    assert [(one.name, one.label, one.n_seen_speakers) for one in corpora.tests] == [
        ("commonvoice_test", "in_domain", 0),
        ("commonvoice_old_test", "in_domain", 0),
    ]
    assert [row.text for row in read_manifest(corpora.tests[1].manifests[0])] == ["DOCH"]


def test_another_release_is_trained_on_without_the_speakers_kept_for_testing(german, tmp_path):
    rows = {"train": [("dot", "x1", "Nein"), ("cid", "x2", "Ja"), ("eve", "x3", "Doch")], "dev": [], "test": []}
    other = write_release(tmp_path / "other" / "de", rows, locale="de")
    more = {"also_commonvoice_old_folder": str(other), "also_commonvoice_old_train_splits": ["train"]}
    _, corpora = german(**more)
    assert [[row.text for row in read_manifest(manifest)] for manifest in corpora.train][1:] == [["DOCH"]]
    assert [one.name for one in corpora.tests] == ["commonvoice_test"]


def test_several_corpora_are_trained_on_and_each_tested(german, tmp_path, tone_corpus):
    more = {f"also_an4_{purpose}_splits": [split] for purpose, split in zip(PURPOSES, SPLITS, strict=True)}
    config, corpora = german(also_an4_folder=str(tone_corpus), normaliser="english", **more)
    assert [manifest.name for manifest in corpora.train] == ["commonvoice_train.csv", "an4_train.csv"]
    assert (corpora.dev.name, corpora.dev.corpus) == ("mixed_dev", "CommonVoice, AN4")
    assert [(one.name, one.label) for one in corpora.tests] == [
        ("commonvoice_test", "in_domain"),
        ("an4_test", "in_domain"),
    ]
    model = build_model(config, n_tokens=29, blank_index=0)
    model.save(tmp_path / "start")
    with pytest.raises(ValueError, match=r"an4_test is declared ood, but .* it is in_domain"):
        german(init_from=str(tmp_path / "start"), ood_an4_folder=str(tone_corpus))


def test_the_corpus_trained_on_is_not_taken_for_another_one(german, tmp_path):
    other = write_release(tmp_path / "other" / "de", {"test": [("eve", "x2", "Doch")]}, locale="de")
    with pytest.raises(ValueError, match=r"commonvoice_test is declared ood, but .* it is in_domain"):
        german(ood_commonvoice_folder=str(other))


def test_what_a_starting_model_was_trained_on_counts(german, make_config, make_corpora, model, tmp_path):
    (tmp_path / "start").mkdir()
    model.config["corpora"] = ["CommonVoice"]
    model.save(tmp_path / "start")
    other = write_release(tmp_path / "other" / "en", {"test": [("eve", "x2", "Yes")]})
    config = make_config(init_from=str(tmp_path / "start"), ood_commonvoice_folder=str(other))
    with pytest.raises(ValueError, match=r"commonvoice_test is declared ood, but .* it is in_domain"):
        make_corpora(config, tmp_path / "manifests")


def test_a_corpus_with_its_own_rule_has_no_releases_and_no_other_rule(make_config, make_corpora, tmp_path, tone_corpus):
    with pytest.raises(ValueError, match="release_x_folder: AN4 has no releases"):
        make_corpora(make_config(release_x_folder=str(tone_corpus)), tmp_path)
    with pytest.raises(
        ValueError, match="normaliser must be null: no corpus of this run leaves the choice of a rule, there is AN4"
    ):
        make_corpora(make_config(normaliser="letters"), tmp_path)


def test_letters_of_another_language_make_the_vocabulary(german, tmp_path):
    config, corpora = german()
    vocabulary = make_vocabulary(config, corpora, tmp_path / "model")
    assert vocabulary.tokens == ("<blank>", " ", *"ABCEGHIJMNPSTUÖÜ")  # of training and validation
    text = "ÜBUNG MACHT SPASS"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    config, corpora = german(normaliser="english")
    assert make_vocabulary(config, corpora, tmp_path / "other").tokens == CharVocabulary().tokens


def test_texts_that_the_vocabulary_cannot_spell_are_counted():
    check_spelling(CharVocabulary(), ["YES IT'S", "NO"])
    with pytest.raises(ValueError, match="the vocabulary lacks Ö Ü, which 2 of 3 training and validation texts need"):
        check_spelling(CharVocabulary(), ["SCHÖN", "JA", "ÜBUNG"])


def test_long_training_utterances_are_left_out_and_logged(caplog):
    items = {"a": {"duration": 3.0}, "b": {"duration": 31.0}, "c": {"duration": 30.0}}
    assert without_long(items, None) is items
    with caplog.at_level("WARNING"):
        assert list(without_long(items, 30.0)) == ["a", "c"]
    assert "1 training utterances (31.0 s) are longer than train_max_s 30, left out" in caplog.text
    with pytest.raises(ValueError, match="train_max_s 2 leaves no training utterance"):
        without_long(items, 2.0)


def test_a_run_that_began_before_a_key_was_there_goes_on(make_config, tmp_path):
    check_run_folder(make_config(), tmp_path)
    note = tmp_path / "run.json"
    before = json.loads(note.read_text())
    for name in ("head", "head_dim", "normaliser"):
        del before[name]
    note.write_text(json.dumps(before))
    check_run_folder(make_config(), tmp_path)
    with pytest.raises(ValueError, match="holds a run with head linear, this one has mlp"):
        check_run_folder(make_config(head="mlp"), tmp_path)
