"""Which tables may stand in one report."""

from dataclasses import replace

import numpy as np
import pytest

from eeasr_modules.report.numbers.summary import check_tables, match_single_exits, ordered


def named(table, **changes):
    return replace(table, metadata={**table.metadata, **changes})


def test_a_table_that_calibrated_is_refused(make_table):
    table = make_table()
    dev = named(make_table("dev", seed=1), manifest_digest=table.metadata["manifest_digest"])
    with pytest.raises(ValueError, match="calibrated on 'dev'"):
        check_tables([table], dev=dev, single_exit=[])


def test_sets_without_distinct_names_are_refused(make_table):
    with pytest.raises(ValueError, match="its own set_name, but 'test' comes 2 times"):
        check_tables([make_table(), make_table(seed=1)], dev=None, single_exit=[])
    with pytest.raises(ValueError, match="needs a set_name"):
        check_tables([named(make_table(), set_name=None)], dev=None, single_exit=[])
    with pytest.raises(ValueError, match="at least one exit table"):
        check_tables([], dev=None, single_exit=[])


def test_dev_of_another_model_is_refused(make_table):
    with pytest.raises(ValueError, match="model digests are model-b and model-a"):
        check_tables([make_table()], dev=make_table("dev", digest="model-b"), single_exit=[])
    with pytest.raises(ValueError, match=r"exits are after layers \[4, 8\] and \[2, 4, 6, 8\]"):
        check_tables([make_table()], dev=make_table("dev", layers=(4, 8)), single_exit=[])


def test_tables_of_different_models_are_refused(make_table):
    with pytest.raises(ValueError, match=r"'test' and 'b' must be of one model, but their exits .* by --single-exit"):
        check_tables([make_table(), make_table("b", layers=(8,))], dev=None, single_exit=[])
    with pytest.raises(ValueError, match="make a report of each"):
        check_tables([make_table(), make_table("b", digest="model-b")], dev=None, single_exit=[])
    others = [named(make_table(name, digest=None), model_name=name) for name in ("ee40", "kd4")]
    with pytest.raises(ValueError, match="their models are ee40 and kd4"):
        check_tables(others, dev=None, single_exit=[])


def test_a_single_exit_table_with_several_exits_is_refused(make_table):
    with pytest.raises(ValueError, match="must have one exit"):
        check_tables([make_table()], dev=None, single_exit=[make_table()])


def test_sets_are_ordered_in_domain_shifted_out_of_domain(make_table):
    labels = ["ood", "unknown", "shifted", "in_domain", "shifted"]
    tables = [make_table(f"set{i}", n=5, label=label) for i, label in enumerate(labels)]
    assert [table.metadata["set_name"] for table in ordered(tables)] == ["set3", "set2", "set4", "set0", "set1"]


def test_a_single_exit_table_is_put_into_the_order_of_its_set(make_table):
    table = make_table()
    shuffled = make_table(layers=(8,)).select(np.random.default_rng(0).permutation(table.n_utterances))
    matched, left_out = match_single_exits([table], [shuffled], dev=None)
    assert left_out == {}
    assert np.array_equal(matched["test"].utt_ids, table.utt_ids)


def test_single_exit_tables_that_do_not_fit_are_left_out_with_their_reason(make_table):
    table, dev = make_table(), make_table("dev", seed=1)
    single = make_table(layers=(8,))
    singles = [make_table("other", layers=(8,)), make_table("dev", seed=1, layers=(8,)), single.select(np.arange(50))]
    matched, left_out = match_single_exits([table], singles, dev=dev)
    assert matched == {}
    assert left_out == {
        "single-exit table of other": "no such set is reported",
        "single-exit table of test": "it holds other utterances (50 and 60, 50 shared)",
    }
