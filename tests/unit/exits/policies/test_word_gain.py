from dataclasses import replace

import numpy as np
import pytest
from sentences import sentence_table

from eeasr_modules.exits.measure.bounds import auroc
from eeasr_modules.exits.policies import word_gain as word_gain_fit
from eeasr_modules.exits.policies.files import read_fitted, write_fitted
from eeasr_modules.exits.policies.word_gain import WordGainModel, _fit_trees, _Rows, fit_word_gain
from eeasr_modules.exits.tables.table import speaker_folds
from eeasr_modules.exits.tuning.replay import cross_fitted, fit_model, scores_of
from eeasr_modules.exits.words.resources import word_spelling
from eeasr_modules.exits.words.signals import feature_names, word_features

SIGNALS = ("entropy", "rare_share", "char_change")


@pytest.fixture(scope="module")
def dev():
    return sentence_table(0, n=200)


@pytest.fixture(scope="module")
def fitted(dev):
    return WordGainModel.fit_scored([dev], name="gain_words", signals=SIGNALS)


@pytest.fixture(scope="module")
def model(fitted):
    return fitted[0]


@pytest.fixture(scope="module")
def small():
    return sentence_table(2, n=40)


@pytest.fixture(scope="module")
def table():
    return sentence_table(1, n=64, name="test")


def columns(texts, passed=None, exit_index=0, scalars=None, word_signals=None):
    features, utterance, left = word_features(
        [text.split() for text in texts],
        passed or [None] * len(texts),
        exit_index=exit_index,
        scalars=scalars or {},
        word_signals=word_signals or {},
        spelling=word_spelling("en"),
    )
    names = feature_names(tuple(scalars or {}), tuple(word_signals or {}))
    assert features.shape == (len(utterance), len(names)) and np.isfinite(features).all()
    return dict(zip(names, features.T)), left


def test_features_follow_a_word_through_the_exits():
    _, passed = columns(["the kat sat", "of"])
    _, passed = columns(["the cat sat", "of"], passed, 1)
    now, _ = columns(["the cat sat down", "of"], passed, 2)
    assert now["exits_unchanged"].tolist() == [2, 1, 2, 0, 2]
    assert now["same"].tolist() == [1, 1, 1, 0, 1]
    assert now["same_two_exits_ago"].tolist() == [1, 0, 1, 0, 1]
    assert now["changes_of_place"].tolist() == [1, 2, 1, 1, 1]
    assert now["zipf_before"][4] == now["zipf_after"][3] == 9.0  # neighbours end with the utterance
    assert now["earlier_distance"].tolist() == [0, 0, 0, 2, 0]
    assert now["n_words"].tolist() == [4, 4, 4, 4, 1]


def test_two_words_run_together_have_a_frequent_best_split():
    now, _ = columns(["ofthe xqzk"])
    zipf = word_spelling("en").resources.zipf
    assert now["split_zipf"][0] == min(zipf("of"), zipf("the"))
    assert now["split_zipf"][1] < now["split_zipf"][0]


def test_signals_of_words_reach_the_neighbours_and_the_next_exit():
    lists = np.empty(1, dtype=object)
    lists[0] = [0.1, 0.2]
    first, passed = columns(["a b"], word_signals={"word_entropy": lists})
    assert first["word_entropy_before"].tolist() == [0.0, 0.1] and first["word_entropy_earlier"].tolist() == [-1, -1]
    second, _ = columns(["a b"], passed, 1, word_signals={"word_entropy": lists})
    assert second["word_entropy_earlier"].tolist() == [0.1, 0.2]
    with pytest.raises(ValueError, match=r"word_entropy must have a number for each word.*2 for 3 words"):
        columns(["a b c"], word_signals={"word_entropy": lists})


def test_empty_transcripts_and_empty_batches_have_no_rows(model):
    now, passed = columns(["", "a", ""], scalars={"entropy": np.ones(3)})
    assert now["zipf"].shape == (1,) and passed[0].words == []
    signals = {name: np.zeros(0) for name in model.needs}
    score, state = model.step(signals, model.start(0))
    assert score.shape == (0,) and state.shape == (0, 1)
    signals = {name: np.ones(2) for name in model.needs}
    signals |= {"exit_layer": np.array([2, 2]), "hypothesis": np.array(["", ""], dtype=object)}
    assert np.isfinite(model.step(signals, model.start(2))[0]).all()


def test_a_row_has_the_same_bits_alone_and_in_every_batch(model, table):
    whole = scores_of(model, table)
    for rows in (np.array([5]), np.arange(7), np.random.default_rng(0).permutation(64)[:33]):
        assert (scores_of(model, table.select(rows)) == whole[rows]).all()


def test_dropping_who_stopped_changes_nothing_for_the_others(model, table):
    signals = {name: table.signal(name) for name in model.needs}
    rows, state = np.arange(64), model.start(64)
    whole = scores_of(model, table)
    for k in range(table.n_exits - 1):
        score, state = model.step({name: values[rows, k] for name, values in signals.items()}, state)
        assert (score == whole[rows, k]).all()
        stays = rows % (k + 2) != 0
        rows, state = rows[stays], state[stays]


def test_the_score_tells_utterances_that_still_gain_from_those_that_do_not(model, table):
    per_second = (table.errors[:, 1] - table.errors[:, -1]) / table.duration_s
    assert auroc(scores_of(model, table)[:, 1], per_second > np.median(per_second)) > 0.9


def test_scores_of_fitting_come_from_trees_that_never_saw_the_speaker(fitted, dev):
    model, (scores,) = fitted
    assert scores.shape == dev.errors.shape and (scores[:, -1] == 0).all()
    seen = scores_of(model, dev)
    assert not np.array_equal(scores[:, :-1], seen[:, :-1])
    assert np.corrcoef(scores[:, 0], seen[:, 0])[0, 1] > 0.4


def test_the_text_form_needs_transcripts_alone(table):
    silent = sentence_table(0, n=60, entropy=False)
    model = fit_model("gain_words_text", [silent])
    assert set(model.needs) <= {"rare_share", "char_change", "hypothesis", "duration_s", "exit_layer"}
    assert np.isfinite(scores_of(model, table)).all()


def test_signals_of_words_are_used_where_all_tables_have_them(small):
    def with_lists(table):
        lists = [[np.arange(len(text.split()), dtype=float) for text in row] for row in table.hypotheses]
        return replace(table, word_lists={"word_entropy": lists})

    both = fit_model("gain_words", [with_lists(small), with_lists(small)])
    assert both.word_signals == ("word_entropy",) and "word_entropy" in both.needs
    assert fit_model("gain_words", [with_lists(small), small]).word_signals == ()
    with pytest.raises(ValueError, match="word_entropy"):
        scores_of(both, small)


def test_a_fitted_file_gives_the_same_scores_back(model, table, tmp_path):
    write_fitted(tmp_path, model)
    again = read_fitted(tmp_path, "gain_words")
    assert (scores_of(again, table) == scores_of(model, table)).all()


def test_a_file_of_other_features_is_refused(model):
    content = {**model.content(), "name": "gain_words", "exit_layers": [2, 4, 6, 8], "features": ["zipf"]}
    with pytest.raises(ValueError, match=r"other features.*fit it again"):
        WordGainModel.from_content(content, model.arrays())


def test_what_cannot_be_fitted_on_is_refused(dev):
    with pytest.raises(ValueError, match="fitted on references"):
        fit_model("gain_words", [dev.without_references()])
    german = replace(dev, metadata={**dev.metadata, "language": "de"})
    with pytest.raises(ValueError, match=r"one language.*de, en"):
        fit_model("gain_words", [dev, german])
    silent = sentence_table(0, n=40, entropy=False)
    with pytest.raises(ValueError, match="entropy"):
        fit_model("gain_words", [silent])


def test_tables_of_one_speaker_or_two_exits_can_be_fitted_on():
    small = sentence_table(3, n=20, layers=(3, 6), n_speakers=1)
    model = fit_model("gain_words", [small])
    assert model.steps == (1,) and np.isfinite(scores_of(model, small)).all()


@pytest.fixture(scope="module")
def rows(dev):
    return _Rows.of([dev], signals=SIGNALS, word_signals=())


def test_word_gains_of_a_part_of_the_speakers_never_depend_on_its_own_labels(rows):
    own, others = rows.part == 0, rows.part != 0
    poisoned = [gains + 2.0 * own[of_word][:, None] for gains, of_word in zip(rows.gains, rows.utterance)]
    (_, before), (_, after) = (_fit_trees(one, (1, 2)) for one in (rows, replace(rows, gains=poisoned)))
    assert (after[own] == before[own]).all()
    assert (after[others] > before[others]).any()


def test_scores_of_a_part_of_the_speakers_never_depend_on_its_own_errors(dev, rows, monkeypatch):
    no_trees = (), np.zeros((dev.n_utterances, dev.n_exits - 1, 1))
    monkeypatch.setattr(word_gain_fit, "_fit_trees", lambda rows, steps: no_trees)  # they see other parts' labels
    own, others = rows.part == 0, rows.part != 0
    poisoned = replace(dev, n_ins=dev.n_ins + (own[:, None] & (np.arange(dev.n_exits) < 2)))
    (before,), (after,) = (fit_word_gain([table], signals=SIGNALS, word_signals=()).scores for table in (dev, poisoned))
    assert (after[own] == before[own]).all()
    assert (after[others] != before[others]).any()


def test_cross_fitting_looks_at_the_words_once_and_scores_as_fold_by_fold(monkeypatch):
    table, looks = sentence_table(5, n=60), []
    of_words = word_gain_fit.word_gains
    monkeypatch.setattr(word_gain_fit, "word_gains", lambda *args: looks.append(1) or of_words(*args))
    _, scores = cross_fitted("gain_words_text", table, n_folds=2)
    assert len(looks) == 1
    fold = speaker_folds(table, 2)
    for i in range(2):
        model = fit_model("gain_words_text", [table.select(fold != i)])  # nothing is worked out of `table` itself
        assert (scores[fold == i] == scores_of(model, table.select(fold == i))).all()
    assert len(looks) == 3


def test_what_was_worked_out_of_a_table_goes_when_a_signal_is_replaced():
    table = sentence_table(5, n=4)
    assert table.once("rows", lambda: np.arange(4)).tolist() == [0, 1, 2, 3]
    assert table.select([2, 0]).once("rows", lambda: np.zeros(2)).tolist() == [2, 0]
    assert table.with_signals({"new": np.zeros(table.hypotheses.shape)}).once("rows", lambda: np.zeros(4))[3] == 3
    replaced = table.with_signals({"char_change": np.zeros(table.hypotheses.shape)})
    assert replaced.once("rows", lambda: np.zeros(4)).tolist() == [0, 0, 0, 0]
