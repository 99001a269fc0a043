"""Examples of overthinking."""

import pytest

from eeasr_modules.exits import ExitTable, count_edits
from eeasr_modules.report.numbers.examples import NOTHING, examples_text, marked, overthinking_examples


def table_of(rows, *, references=True):
    """An exit table from (reference, transcripts)."""
    table = ExitTable.from_hypotheses(
        [transcripts for _, transcripts in rows],
        [reference for reference, _ in rows],
        utt_ids=[f"utt{i}" for i in range(len(rows))],
        exit_layers=[2, 4, 6],
        duration_s=[1.0] * len(rows),
        n_frames=[25] * len(rows),
        metadata={"set_name": "test"},
    )
    return table if references else table.without_references()


ROWS = [
    ("go left now", ["go left", "go left now", "go left now"]),  # the last exit is as good as any
    ("go left now", ["go left now", "go left now", "go lift now"]),
    ("a b c", ["a b x", "a b x", "x y z"]),
]


def test_the_clearest_cases_come_first_and_equals_are_no_cases():
    examples = overthinking_examples([table_of(ROWS)])
    assert [example.utt_id for example in examples] == ["utt2", "utt1"]
    assert (examples[0].inner_errors, examples[0].last_errors) == (1, 3)
    assert [example.inner_layer for example in examples] == [2, 2]
    assert [example.utt_id for example in overthinking_examples([table_of(ROWS)], n=1)] == ["utt2"]


def test_the_next_set_fills_up_what_the_first_lacks():
    examples = overthinking_examples([table_of(ROWS), table_of(ROWS)], n=3)
    assert [example.utt_id for example in examples] == ["utt2", "utt1", "utt2"]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("go left now", "go left now", "go left now"),
        ("go left now", "go lift now", "go **lift** now"),
        ("go left now", "go now", "go ~~left~~ now"),
        ("go now", "go left now", "go **left** now"),
        ("go now", "", "~~go~~ ~~now~~"),
        ("", "", NOTHING),
        ("a", "a*", "**a\\***"),
    ],
)
def test_wrong_words_are_bold_and_missing_ones_struck_out(reference, hypothesis, expected):
    assert marked(reference, hypothesis) == expected


def test_there_are_as_many_marks_as_counted_errors():
    reference, hypothesis = "one two three four five", "two too three for five six six"
    text = marked(reference, hypothesis)
    assert text.count("**") // 2 + text.count("~~") // 2 == sum(count_edits(reference, hypothesis))


def test_without_a_reference_marks_show_what_the_last_exit_changed():
    text = examples_text(overthinking_examples([table_of(ROWS, references=False)]))
    assert "said:" not in text
    assert "layer 2, no errors: go left now" in text
    assert "layer 6, 1 error: go **lift** now" in text
