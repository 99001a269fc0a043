"""What calibrates a test set: a dev table, the other half of its speakers, or itself.

Where a dev table is given, it calibrates. Without one, speakers are dealt into two folds (or as many as are asked
for) and each fold is judged by what was chosen on the others (a cross-fit); below `MIN_SPEAKERS` speakers the
evaluated set itself calibrates, which flatters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits import Curve, ExitTable, budget_cost, policy_curve
from eeasr_modules.exits.bootstrap import MIN_SPEAKERS
from eeasr_modules.exits.folds import speaker_folds
from eeasr_modules.exits.policies import Policy
from eeasr_modules.exits.table import is_derived
from eeasr_modules.report.costs import COSTS, priced

CROSS_FIT = "cross-fit over speakers"
N_HALVES = 2


@dataclass(frozen=True, eq=False)
class Side:
    """Utterances that one calibration decides.

    Arguments
    ---------
    rows : np.ndarray of int
        Which of the evaluated set.
    table : ExitTable
        The evaluated set at these rows.
    calibrating : ExitTable
        What thresholds are chosen on.
    """

    rows: np.ndarray
    table: ExitTable
    calibrating: ExitTable


def lacking_signals(policy: Policy, tables: Sequence[ExitTable]) -> list[str]:
    """Signals that a policy needs and not every table has.

    Arguments
    ---------
    policy : policy
        Open or not.
    tables : sequence of ExitTable
        All that it would run on.

    Returns
    -------
    list of str
    """
    needed = [name for name in policy.needs if not is_derived(name)]
    return [name for name in needed if any(name not in table.signals for table in tables)]


def sides(table: ExitTable, dev: ExitTable | None, *, n_folds: int = N_HALVES) -> tuple[list[Side], str | None]:
    """What calibrates which utterances.

    Arguments
    ---------
    table : ExitTable
        The evaluated set.
    dev : ExitTable or None
        Calibration data.
    n_folds : int
        Of a cross-fit: two of equal duration, or those of `exits.folds.speaker_folds`.

    Returns
    -------
    tuple of (list of Side, str or None)
        And the name of the calibration; None where the set calibrates itself.
    """
    everyone = np.arange(table.n_utterances)
    if dev is not None:
        return [Side(everyone, table, dev)], str(dev.metadata.get("set_name", "dev"))
    if len(set(table.speakers)) < MIN_SPEAKERS or "" in table.speakers:
        return [Side(everyone, table, table)], None
    fold = folds_of(table) if n_folds == N_HALVES else speaker_folds(table, n_folds)
    kept = [Side(np.flatnonzero(fold == i), table.select(fold == i), table.select(fold != i)) for i in np.unique(fold)]
    return kept, f"{CROSS_FIT} ({len(kept)} folds)"


def folds_of(table: ExitTable) -> np.ndarray:
    """Two folds of about equal duration, no speaker in both.

    Arguments
    ---------
    table : ExitTable
        With speakers.

    Returns
    -------
    np.ndarray of shape (n_utterances,)
        0 or 1; the same on every call.
    """
    speakers, speaker = np.unique(table.speakers.astype(str), return_inverse=True)
    seconds = np.bincount(speaker, table.duration_s)
    fold_of_speaker, total = np.zeros(len(speakers), dtype=np.int64), [0.0, 0.0]
    for i in np.argsort(-seconds, kind="stable"):  # longest first, each to the lighter fold
        lighter = int(total[1] < total[0])
        fold_of_speaker[i] = lighter
        total[lighter] += seconds[i]
    return fold_of_speaker[speaker]


def grids(
    policies: Sequence[Policy], table: ExitTable, *, cost: str = "depth", n_inner_folds: int = 10
) -> dict[str, Curve]:
    """What each policy can do on calibration data: points that no other beats in both cost and WER.

    Arguments
    ---------
    policies : sequence of policies
        Open ones are filled in in all ways.
    table : ExitTable
        Calibration data.
    cost : str
        A key of `COSTS`.
    n_inner_folds : int
        Folds of speakers where something has to be fitted.

    Returns
    -------
    dict of str to Curve
        By the policy's text, each by rising cost (in the unit shown) and falling WER.
    """
    with_cost, column = priced(table, cost)
    options = {"cost": column, "n_folds": n_inner_folds}
    curves = {str(policy): policy_curve(policy, with_cost, **options).frontier() for policy in policies}
    return {text: Curve(one.policies, one.cost / COSTS[cost].scale, one.wer) for text, one in curves.items()}


def budget_limit(budget: float, table: ExitTable, *, cost: str = "depth") -> float:
    """What a budget allows, in the unit shown.

    Arguments
    ---------
    budget : float
        Up to 1 a share of the last exit's cost, above 1 layers.
    table : ExitTable
        Whose cost it is a share of.
    cost : str
        A key of `COSTS`.

    Returns
    -------
    float
    """
    with_cost, column = priced(table, cost)
    return budget_cost(budget, with_cost, cost=column) / COSTS[cost].scale
