"""What `eeasr accelerate` ends with."""

from types import SimpleNamespace

import pytest

from eeasr_modules.exits import parse_policy
from eeasr_modules.exits.tuning.risk_losses import parse_risk
from eeasr_modules.training.accelerate import _sentence

TARGET = parse_risk("changed=2,delta=0.1")


@pytest.mark.parametrize(
    ("policy", "saved", "times_faster", "begins"),
    [
        ("between(2, 4, entropy(0.1))", 0.3, 1.4, "1.4 x faster, 1.3 % of words changed on hold-out, certified"),
        ("static(2)", 0.5, 1.9, "not worth it: layer 2 for all is as good"),
        ("between(2, 4, entropy(0.1))", 0.02, 1.0, "not worth it: full depth is as good"),
        ("between(4, 4, margin(0.61))", 0.0, 1.2, "not worth it: no earlier exit keeps to 2 % changed (90 %)"),
        ("static(4)", -0.01, 1.2, "not worth it: no earlier exit"),
    ],
)
def test_nothing_is_called_faster_that_saves_no_layer(policy, saved, times_faster, begins):
    found = SimpleNamespace(policy=parse_policy(policy), promise={"certified": True})
    said = _sentence(found, TARGET, times_faster=times_faster, changed=1.3, saved=saved, what="speakers")
    assert said.startswith(begins), said
