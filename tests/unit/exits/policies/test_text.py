import pytest

from eeasr_modules.exits.policies.text import parse_policies, parse_policy

SAME = [
    "static(4)",
    "static",
    "random(0.25)",
    "entropy",
    "entropy(0.12)",
    "entropy(0)",
    "entropy(1e-05)",
    "entropy(-0.5)",
    "patience(2)",
    "patience(2, 0)",
    "patience_ce(1, 0.3333333333333333)",
    "between(entropy)",
    "between(4, 10, patience(2))",
    "any(entropy(0.1), all(margin(0.5), similarity(0.9)))",
]


@pytest.mark.parametrize("text", SAME)
def test_a_policy_prints_the_text_that_made_it(text):
    policy = parse_policy(text)
    assert str(policy) == text
    assert parse_policy(str(policy)) == policy


def test_spaces_and_ways_to_write_a_number_do_not_matter():
    assert parse_policy(" entropy( .120 ) ") == parse_policy("entropy(0.12)")
    assert parse_policy("patience(2, 0.0)") == parse_policy("patience(2,0)")


def test_what_is_left_out_is_open():
    for text in (
        "static",
        "random",
        "entropy",
        "patience(3)",
        "between(entropy(1))",
        "between(2, 4, entropy)",
    ):
        assert parse_policy(text).is_open, text
    assert parse_policy("any(entropy, margin(1))").is_open
    assert not parse_policy("between(2, 4, any(entropy(1), margin(1)))").is_open


def test_lists_split_at_commas_outside_parentheses():
    texts = ["entropy", "patience(2, 0.1)", "between(2, 4, any(entropy(1), margin(2)))"]
    assert [str(p) for p in parse_policies(", ".join(texts))] == texts
    assert [str(p) for p in parse_policies(texts)] == texts


REFUSED = [
    ("entropi(0.1)", "unknown policy 'entropi'.*known: static, random, entropy.*did you mean entropy"),
    ("entropy(0.1, 2)", r"entropy must be written entropy\(threshold\).*got 2 arguments"),
    ("entropy('a')", "only names of policies and numbers, got 'a'"),
    ("entropy(True)", "only names of policies and numbers, got True"),
    ("entropy(t=0.1)", "arguments of a policy have no names"),
    ("entropy(1e999)", "threshold must be a finite number, got inf"),
    ("entropy(entropy(1))", "threshold must be a finite number"),
    ("entropy(0.1", "cannot be read"),
    ("", "cannot be read"),
    ("0.5", "expected a policy such as"),
    ("entropy(0.1) + 1", "only names of policies and numbers"),
    ("__import__('os').system('true')", "only names of policies and numbers"),
    ("patience", r"patience must be written patience\(k, threshold\).*got 0 arguments"),
    ("patience(0, 0.1)", "k must be a whole number of exits from 1, got 0"),
    ("patience(1.5, 0.1)", "k must be a whole number of exits from 1, got 1.5"),
    ("static(0)", "layer must be a whole number from 1, got 0"),
    ("static(2.5)", "layer must be a whole number from 1, got 2.5"),
    ("random(1.5)", "between 0 and 1, got 1.5"),
    ("any(entropy(1))", r"any must be written any\(policy, policy, ...\), got 1 argument"),
    ("all(entropy(1), 2)", "got the argument 2"),
    ("between(4, entropy)", "between must be written .* got 2 arguments"),
    ("between(6, 4, entropy)", "floor layer must not lie above the ceiling layer, got 6 and 4"),
    ("between(2, 4, 0.5)", "got 0.5 as its policy"),
    ("exit_risk(1, 0.1)", "unknown policy 'exit_risk'"),
    ("entropy, margin", "expected one policy, got 2"),
]


@pytest.mark.parametrize("text, message", REFUSED)
def test_a_wrong_text_is_refused_in_one_sentence_that_quotes_it(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_policy(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)
