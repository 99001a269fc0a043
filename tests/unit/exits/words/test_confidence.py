"""The confidence map: what it learns from simulated words is the truth they were drawn by."""

import numpy as np
import pytest

from eeasr_modules.exits.measure.edits import matched_words
from eeasr_modules.exits.words.confidence import (
    FEATURES,
    ConfidenceMap,
    fit_confidence_map,
    read_confidence_map,
    word_confidence_features,
)
from eeasr_modules.exits.words.resources import word_resources

KNOWN, UNKNOWN = "GOOD", "QZXW"


def simulated(n, *, seed, shift):
    """Utterances of three words, references in which wrong words are others, and how probably each word is right: in
    log odds, `shift` + those of its confidence, + 2 where the word is known."""
    rng = np.random.default_rng(seed)
    heard, references, truth = [], [], []
    for _ in range(n):
        confidence, known = rng.uniform(0.1, 0.95, 3), rng.random(3) < 0.5
        probability = 1 / (1 + np.exp(-(shift + np.log(confidence / (1 - confidence)) + 2 * known)))
        right = rng.random(3) < probability
        words = [KNOWN if one else UNKNOWN for one in known]
        references.append(" ".join(w if r else "ELSE" for w, r in zip(words, right, strict=True)))
        heard.append((words, confidence.tolist()))
        truth.append(probability)
    return heard, references, truth


def test_it_finds_the_probabilities_that_words_were_drawn_by_at_every_exit():
    first, references, truth_of_first = simulated(1500, seed=0, shift=-3.0)
    found = fit_confidence_map([[one] for one in first], references, exit_layers=[2])
    heard, _, truth = simulated(200, seed=1, shift=-3.0)
    errors = [
        np.abs(found.probabilities(*one, exit_layer=2) - expected) for one, expected in zip(heard, truth, strict=True)
    ]
    assert np.concatenate(errors).mean() < 0.04
    assert np.mean([p.mean() for p in truth_of_first]) < 0.4  # far from what the heads said
    assert (found.n_utterances, found.n_words) == (1500, 4500)


def test_it_is_read_as_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    written = ConfidenceMap((1, 3), rng.normal(size=(2, len(FEATURES))), rng.normal(size=2), "en", "abc", 5, 20)
    written.write(tmp_path / "confidence.json")
    read = read_confidence_map(tmp_path / "confidence.json")
    np.testing.assert_allclose(read.weights, written.weights, atol=1e-6)
    said = (["GOOD", "QZXW"], [0.9, 0.5])
    np.testing.assert_allclose(
        read.probabilities(*said, exit_layer=3), written.probabilities(*said, exit_layer=3), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"has the exits \[1, 3\], got layer 2"):
        read.probabilities(*said, exit_layer=2)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 2, "features": []}', '{"schema_version": 1}'])
def test_a_file_that_is_something_else_is_named(content, tmp_path):
    (tmp_path / "confidence.json").write_text(content)
    with pytest.raises(ValueError, match=r"confidence\.json' is not a confidence map .*eeasr confidence"):
        read_confidence_map(tmp_path / "confidence.json")


def test_an_exit_with_too_few_wrong_words_is_refused():
    heard = [[(["GOOD", "DAY"], [0.9, 0.8])] for _ in range(50)]
    with pytest.raises(ValueError, match="exit after layer 4 has 100 right and 0 wrong words, a map needs 20 of each"):
        fit_confidence_map(heard, ["GOOD DAY"] * 50, exit_layers=[4])


def test_features_stay_finite_and_nothing_said_has_none():
    values = word_confidence_features(["A"], [1.0], resources=word_resources("en"))
    assert values.shape == (1, len(FEATURES)) and np.isfinite(values).all()
    assert word_confidence_features([], [], resources=word_resources("en")).shape == (0, len(FEATURES))


def test_words_are_right_where_a_cheapest_alignment_matches_them():
    assert matched_words(["A"], [])[1].tolist() == []
    assert matched_words(["A", "C"], ["A", "B", "C"])[1].tolist() == [True, False, True]
