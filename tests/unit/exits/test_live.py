"""Fitted policies decide exit by exit, in batches of any size and order, as replay of the table does."""

import numpy as np
import pytest
from sentences import sentence_table

from eeasr_modules.exits.policies.text import parse_policy
from eeasr_modules.exits.tuning.calibration import choose
from eeasr_modules.exits.tuning.replay import replay
from eeasr_modules.exits.words.resources import word_resources
from eeasr_modules.exits.words.signals import LEXICAL_SIGNALS, TEXT_SIGNALS, lexical_signals, text_signals_at_exit

TEXTS = ["gain", "gain_text", "between(lexical)", "lexical_text", "between(4, 8, gain)", "any(gain, patience(2, 0))"]


def live(policy, table, rows):
    """Exits of one batch, whose signals are made from what is there while it runs; who stops is gone."""
    chosen = dict.fromkeys(rows.tolist(), table.n_exits - 1)
    state, previous = policy.start(len(rows)), None
    for k in range(table.n_exits - 1):
        texts = [str(text) for text in table.hypotheses[rows, k]]
        text_now = text_signals_at_exit(texts, previous)
        lexical = [name for name in policy.needs if name in LEXICAL_SIGNALS]
        signals = {
            "exit_layer": np.full(len(rows), table.exit_layers[k]),
            "duration_s": table.duration_s[rows],
            "entropy": table.signals["entropy"][rows, k],
            "hypothesis": np.array([*texts], dtype=object),
            **{name: text_now[name] for name in TEXT_SIGNALS},
            **(lexical_signals(texts, words=word_resources("en"), names=lexical) if lexical else {}),
        }
        stop, state = policy.step({name: signals[name] for name in policy.needs}, state)
        chosen.update(dict.fromkeys(rows[stop].tolist(), k))
        rows, state, previous = rows[~stop], state[~stop], [t for t, gone in zip(texts, stop) if not gone]
        if len(rows) == 0:
            break
    return chosen


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 7, 32])
def test_live_and_replay_choose_the_same_exit_at_every_batch_size_and_order(text, size):
    table = sentence_table(1, n=70, name="test")
    policy = choose(sentence_table(0, n=100), parse_policy(text), budget=5).policy
    order = np.random.default_rng(size).permutation(70)
    chosen = {}
    for first in range(0, 70, size):
        chosen |= live(policy, table, order[first : first + size])
    expected = replay(policy, table)
    assert [chosen[i] for i in range(70)] == expected.tolist()
    assert len(set(expected)) > 1
