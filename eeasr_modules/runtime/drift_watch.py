"""Watching live speech while it is transcribed: is it still what the policy was calibrated on?"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tuning.calibration import Calibrated
from eeasr_modules.exits.tuning.drift import DriftReference, DriftWatch, drift_score
from eeasr_modules.runtime.batch import Recognised

logger = logging.getLogger(__name__)

ON_DRIFT = ("off", "warn", "full_depth")
LIVE_SIGNAL = "blank_rate"  # known at any exit from the greedy path; docs/drift.md says what it finds


def reference_of(calibrated: Sequence[Calibrated], policy: Policy) -> DriftReference:
    """What a policy's utterances looked like when it was calibrated.

    Arguments
    ---------
    calibrated : sequence of Calibrated
        Of the model.
    policy : policy
        The one that decides.

    Raises
    ------
    ValueError
        When nothing is known of that very policy.
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
    """One drift watch over everything that a recogniser hears; safe for several threads.

    Arguments
    ---------
    reference : DriftReference
        Of the policy that decides.
    alpha : float
        Probability of ever raising a false alarm, above 0 and below 1.
    """

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

        Arguments
        ---------
        recognised : sequence of Recognised
            Utterances, or chunks of long recordings, all decided by the policy that is watched.
        exit_layers : sequence of int
            The model's exits.
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
