"""In domain, shifted or out of domain is computed, and false claims are refused."""

import numpy as np
import pytest
import soundfile

from eeasr_modules.data.labels import SetDescription, check_label, describe, n_seen_speakers, set_label
from eeasr_modules.data.manifest import Utterance, write_manifest


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
