"""Watching live speech while it is transcribed: is it still that of calibration, is no more lost than allowed?

The drift watch reads what comes out; the watch on the risk lets a random share of the utterances run to the end as
well, and compares words (`exits.tuning.watches`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tuning.calibration import Calibrated
from eeasr_modules.exits.tuning.watches import DriftReference, DriftWatch, RiskWatch, drift_score
from eeasr_modules.runtime.batch import Recognised

logger = logging.getLogger(__name__)

ON_DRIFT = ("off", "warn", "full_depth")
LIVE_SIGNAL = "blank_rate"  # known at any exit from the greedy path; docs/drift.md says what it finds


def reference_of(calibrated: Sequence[Calibrated], policy: Policy) -> DriftReference:
    """What a policy's utterances looked like when it was calibrated.

    ValueError when nothing is known of that very policy.
    """
    for one in calibrated:
        if one.drift is not None and one.drift.signal == LIVE_SIGNAL and str(one.policy) == str(policy):
            return one.drift
    known = ", ".join(str(one.policy) for one in calibrated if one.drift is not None) or "none"
    raise ValueError(
        f"on_drift needs what calibration saw under {policy}, and policy.json has that of {known}: take one of these, "
        f"without a budget, or train again with exit_policy and exit_budget as wanted"
    )


class LiveWatch:
    """One drift watch over everything that a recogniser hears; safe for several threads."""

    def __init__(self, reference: DriftReference, *, alpha: float):
        self.watch = DriftWatch(reference.scores, alpha)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def alarm(self) -> bool:
        """Whether there has been an alarm."""
        return self.watch.alarm

    def hear(self, recognised: Sequence[Recognised], *, exit_layers: Sequence[int]) -> bool:
        """Add what was recognised, in its order; True when that raised the alarm.

        `recognised`: utterances, or chunks of long recordings, all decided by the policy that is watched.
        """
        with self._lock:
            before = self.watch.alarm
            for one in recognised:
                self.watch.add(float(drift_score(exit_layers.index(one.exit_layer), one.blank_rate)))
            raised = self.watch.alarm and not before
        if raised:
            logger.warning(
                "drift: after %d utterances the exits taken and the blank rates are not those of calibration (false "
                "alarm probability %g); thresholds, and what they promise, may not hold",
                self.watch.alarm_at,
                self.watch.alpha,
            )
        return raised


@dataclass(frozen=True)
class Audit:
    """How the risk is watched: who runs to the end, and what an alarm does.

    ValueError when one is out of range.

    Arguments
    ---------
    share : float
        Of the utterances, drawn at random, above 0 and up to 1; each costs one more run through all layers.
    limit : float or None
        Words that leaving may change, per 100 words of the last exit; None takes what `policy.json` promises.
    alpha : float
        Probability of ever raising a false alarm, above 0 and below 1.
    on_alarm : str
        "warn" logs it, "full_depth" moreover takes everybody to the last exit from then on.
    seed : int
        Of the draws.
    """

    share: float = 0.05
    limit: float | None = None
    alpha: float = 0.01
    on_alarm: str = "warn"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1 (of the utterances to audit), got {self.share}")
        if self.on_alarm not in ON_DRIFT[1:]:
            raise ValueError(f"on_alarm must be one of {', '.join(ON_DRIFT[1:])}, got {self.on_alarm!r}")


def promised_change(calibrated: Sequence[Calibrated], policy: Policy) -> float:
    """Words per 100 that a policy's certificate lets leaving change. ValueError when there is no such certificate."""
    for one in calibrated:
        promise = one.promise or {}
        if str(one.policy) == str(policy) and promise.get("certified") and promise.get("loss") == "changed":
            return float(promise["eps"])
    raise ValueError(
        f"an audit compares words with the last exit's, and policy.json promises nothing of that under {policy}: "
        "certify with exit_risk {changed: 2, delta: 0.1}, or give the limit, such as 2 (words in 100)"
    )


class LiveRisk:
    """One watch on the risk of everything that a recogniser hears."""

    def __init__(self, audit: Audit, *, calibrated: Sequence[Calibrated], policy: Policy):
        limit = promised_change(calibrated, policy) if audit.limit is None else audit.limit
        self.audit, self.watch = audit, RiskWatch(limit, alpha=audit.alpha)
        self._rng = np.random.default_rng(audit.seed)

    @property
    def alarm(self) -> bool:
        """Whether there has been an alarm."""
        return self.watch.alarm

    def chosen(self, n: int) -> list[int]:
        """Positions, among the next n utterances, of those to be audited; drawn before anything is heard of them."""
        return np.flatnonzero(self._rng.random(n) < self.audit.share).tolist()

    def hear(self, said: Sequence[str], last: Sequence[str]) -> bool:
        """Add audited utterances, in their order; True when that raised the alarm.

        `said`, `last`: what leaving early said, and what the last exit says.
        """
        before = self.alarm
        for one, final in zip(said, last, strict=True):
            self.watch.add_texts(one, final)
        raised = self.alarm and not before
        if raised:
            logger.warning(
                "risk: after %d audits leaving early has changed %.1f words in 100, and %g are allowed (false alarm "
                "probability %g)",
                self.watch.alarm_at,
                self.watch.lost,
                self.watch.limit,
                self.watch.alpha,
            )
        return raised
