from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.recalibration import exits_taken, match_exits, match_signal
from eeasr_modules.exits.tuning.replay import replay


def test_a_signal_that_was_only_rescaled_is_matched_to_the_same_decisions(make_table):
    source = make_table(1, n=200)
    target = replace(source, signals={**source.signals, "entropy": 3.0 * source.signals["entropy"] + 1.0})
    pair = {"source_table": source, "target_table": target}
    for text, threshold in (("entropy", 0.305), ("between(4, 8, entropy)", 0.705)):
        filled = parse_policy(text.replace("entropy", f"entropy({threshold})"))
        wanted = replay(filled, source)
        assert (replay(match_signal(parse_policy(text), threshold, **pair), target) == wanted).all()
        matched = match_exits(parse_policy(text), filled, **pair)
        assert np.abs(exits_taken(matched, target) - exits_taken(filled, source)).sum() < 0.05


def test_thresholds_beyond_all_values_stay_beyond(make_table):
    source, target = make_table(1), make_table(2)
    pair = {"source_table": source, "target_table": target}
    assert (replay(match_signal(parse_policy("entropy"), -1.0, **pair), target) == 3).all()
    assert (replay(match_signal(parse_policy("entropy"), 9.0, **pair), target) == 0).all()


def test_no_label_is_looked_at(make_table):
    source, target = make_table(1), make_table(2)
    wrong = replace(target, n_sub=target.n_sub[::-1].copy(), n_ref_words=target.n_ref_words[::-1].copy())
    open_policy, filled = parse_policy("patience(1)"), parse_policy("patience(1, 0.4)")
    found = [match_exits(open_policy, filled, source_table=source, target_table=t) for t in (target, wrong)]
    assert found[0] == found[1]


def test_shares_of_audio_sum_to_one(make_table):
    table = make_table(3)
    shares = exits_taken(parse_policy("entropy(0.3)"), table)
    assert shares.sum() == pytest.approx(1.0)
    assert exits_taken(parse_policy("static(4)"), table).tolist() == [0, 1, 0, 0]


def test_what_has_no_signal_to_match_is_refused(make_table):
    table = make_table(1)
    for text in ("static", "random", "entropy(0.3)"):
        with pytest.raises(ValueError, match="threshold of one signal open"):
            match_signal(parse_policy(text), 0.3, source_table=table, target_table=table)
    with pytest.raises(ValueError, match="same exits"):
        match_exits(
            parse_policy("entropy"),
            parse_policy("entropy(0.3)"),
            source_table=table,
            target_table=make_table(2, layers=(2, 4, 6)),
        )
