"""Test sets and their labels, computed from what the model is trained on; false claims are refused."""

import numpy as np
import pytest
import soundfile
from tones import make_tone_corpus

from eeasr_modules.data.manifest import Utterance, read_manifest, write_manifest
from eeasr_modules.training.corpora import (
    SetDescription,
    check_label,
    describe,
    load_recipe,
    n_seen_speakers,
    prepare_corpora,
    set_label,
    texts_of,
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder shaped like the spoken digits: two of them by two speakers."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "recordings").mkdir()
    rng = np.random.default_rng(0)
    for name in ("0_ann_0", "7_ann_0", "0_bob_0", "7_bob_1"):
        soundfile.write(folder / "recordings" / f"{name}.wav", 0.1 * rng.standard_normal(4000), 8000)
    return folder


def labels(corpora):
    return {one.name: one.label for one in corpora.tests}


def test_labels_of_test_shifts_and_other_corpora_are_computed(make_config, make_corpora, digits, tmp_path):
    config = make_config(shifts=["noise_10db", "fast"], ood_digits_folder=str(digits))
    corpora = make_corpora(config, tmp_path)
    assert labels(corpora) == {
        "an4_test": "in_domain",
        "an4_test_noise_10db": "shifted",
        "an4_test_fast": "shifted",
        "digits_test": "ood",
    }
    assert [one.shift for one in corpora.tests] == [None, "noise_10db", "fast", None]
    assert [one.corpus for one in corpora.tests] == ["AN4", "AN4", "AN4", "Digits"]
    assert {row.text for row in read_manifest(corpora.tests[-1].manifests[0])} == {"ZERO", "SEVEN"}
    assert (corpora.dev.name, corpora.dev.label) == ("an4_dev", "in_domain")


def test_a_shift_that_training_has_seen_is_in_domain(make_config, make_corpora, tmp_path):
    config = make_config(shifts=["fast", "reverb"], speeds=[100, 120])
    assert labels(make_corpora(config, tmp_path)) == {
        "an4_test": "in_domain",
        "an4_test_fast": "in_domain",
        "an4_test_reverb": "shifted",
    }


def test_a_corpus_that_was_trained_on_is_not_out_of_domain(make_config, make_corpora, tmp_path):
    other = make_tone_corpus(tmp_path / "other", n_train_speakers=1, seed=1)
    with pytest.raises(ValueError, match="an4_test is declared ood, but by what the model was trained on it is in_dom"):
        make_corpora(make_config(ood_an4_folder=str(other)), tmp_path / "save")


@pytest.mark.parametrize("changes", [{"test_splits": ["train"]}, {"valid_splits": ["train"]}])
def test_testing_or_choosing_on_what_is_trained_on_is_refused(make_config, make_corpora, tmp_path, changes):
    with pytest.raises(ValueError, match=r"utterances of AN4 train are in the training set AN4 train .*test on other"):
        make_corpora(make_config(**changes), tmp_path)


@pytest.mark.parametrize("key", ["train_splits", "valid_splits", "test_splits"])
def test_an_empty_list_of_splits_is_refused(make_config, make_corpora, tmp_path, key):
    with pytest.raises(ValueError, match=f"{key} is empty: it must name at least one split of AN4"):
        make_corpora(make_config(**{key: []}), tmp_path)


def test_an_unknown_split_is_refused_with_those_there_are(make_config, make_corpora, tmp_path):
    with pytest.raises(ValueError, match=r"AN4 has the splits train, dev, test.*, got eval"):
        make_corpora(make_config(test_splits=["eval"]), tmp_path)


@pytest.mark.parametrize("may_download", [True, False])
def test_a_folder_that_is_not_there_is_never_replaced_by_a_download_where_there_is_none(
    make_config, root, tmp_path, may_download
):
    config = make_config(corpus="Digits", data_folder=str(tmp_path / "none"))  # the digits have no `fetch`
    with pytest.raises(FileNotFoundError, match=r"data_folder '.*none' does not exist"):
        prepare_corpora(config, recipes=root / "recipes", save_folder=tmp_path, may_download=may_download)


def test_a_folder_that_the_user_named_is_never_downloaded_into(make_config, root, tmp_path):
    config = make_config(data_folder=str(tmp_path / "an4"))
    with pytest.raises(FileNotFoundError, match=r"data_folder '.*an4' does not exist"):
        prepare_corpora(config, recipes=root / "recipes", save_folder=tmp_path / "save", may_download=False)
    assert list(tmp_path.iterdir()) == []


def test_speakers_of_dev_and_test_were_not_heard_in_training(corpora):
    assert [one.n_seen_speakers for one in (corpora.dev, *corpora.tests)] == [0, 0, 0]


def test_texts_of_several_manifests_follow_each_other(corpora):
    one, two = corpora.train[0], corpora.valid[0]
    assert texts_of([one, two]) == texts_of([one]) + texts_of([two])
    assert len(texts_of([one])) == 33  # 11 of 12 speakers; the tenth is dev


def test_a_recipe_is_loaded_from_its_folder(root):
    assert load_recipe(root / "recipes" / "Digits").CORPUS == "Digits"


def described(corpus="AN4", ids=("a",), speakers=("s1",), audio=None):
    audio = frozenset(audio or {f"/{corpus}/{each}" for each in ids})
    return SetDescription(corpus, f"{corpus} set", frozenset(ids), frozenset(speakers), audio)


TRAIN = [described(ids=("a", "b"), speakers=("s1", "s2"))]
TEST = described(ids=("t1", "t2"), speakers=("s2", "s3"))


@pytest.mark.parametrize(
    ("train", "test", "shift", "augmentation", "label"),
    [
        (TRAIN, TEST, None, (), "in_domain"),
        (TRAIN, TEST, "reverb", (), "shifted"),
        (TRAIN, TEST, "reverb", ("fast",), "shifted"),
        (TRAIN, TEST, "fast", ("fast",), "in_domain"),
        (TRAIN, described("Digits", ("t1",)), None, (), "ood"),
        (TRAIN, described("Digits", ("t1",)), "fast", ("fast",), "ood"),
        ([*TRAIN, described("Digits", ("x",))], described("Digits", ("t1",)), None, (), "in_domain"),
        ([], TEST, None, (), "unknown"),
    ],
)
def test_the_label_follows_from_training(train, test, shift, augmentation, label):
    assert set_label(train, test, shift=shift, train_augmentation=augmentation) == label


def test_a_false_label_is_refused_and_a_true_or_absent_one_kept():
    assert check_label(None, "ood", name="digits") == "ood"
    assert check_label("ood", "ood", name="digits") == "ood"
    with pytest.raises(ValueError, match=r"digits is declared in_domain, but .* it is ood"):
        check_label("in_domain", "ood", name="digits")
    with pytest.raises(ValueError, match="one of in_domain, shifted, ood, unknown, got 'near'"):
        check_label("near", "ood", name="digits")


def test_test_utterances_that_were_trained_on_are_refused():
    with pytest.raises(ValueError, match=r"1 of 2 utterances of AN4 set are in the training set .*first: b"):
        set_label(TRAIN, described(ids=("b", "t"), audio=("/other/b", "/other/t")))
    with pytest.raises(ValueError, match="first: /AN4/a"):
        set_label(TRAIN, described("Renamed", ids=("z",), audio=("/AN4/a",)))
    assert set_label(TRAIN, described("Digits", ids=("a",))) == "ood"  # ids are known by name within a corpus only


def test_speakers_heard_in_training_are_counted():
    assert n_seen_speakers(TRAIN, TEST) == 1
    assert n_seen_speakers(TRAIN, described("Digits", speakers=("s1", "s2"))) == 0


def test_a_manifest_describes_itself(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(800), 16000)
    manifest = write_manifest(
        tmp_path / "m.csv",
        [Utterance("a", "s", tmp_path / "a.wav", "A")],
        corpus="Toy",
        split="test",
        data_folder=tmp_path,
        normaliser="english",
    )
    audio = frozenset([str(tmp_path / "a.wav")])
    assert describe(manifest) == SetDescription("Toy", "Toy test", frozenset("a"), frozenset("s"), audio)
