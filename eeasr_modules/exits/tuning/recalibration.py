"""Label-free re-calibration: carry a threshold to another domain by what its signal, or its exits, looked like at home.

Neither promises anything about errors: they move the threshold so that the policy leaves about as it did on the
source, though the target may need more layers. Measured: `benchmarks/risk_simulation.py`.
"""

import numpy as np

from eeasr_modules.exits.policies.combine import open_leaf, with_threshold
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.curve import policy_curve
from eeasr_modules.exits.tuning.replay import replay


def match_signal(open_policy: Policy, threshold: float, *, source_table: ExitTable, target_table: ExitTable) -> Policy:
    """The policy with the target's threshold below which the same share of the signal's values lies.

    Arguments
    ---------
    open_policy : policy
        With the threshold of one signal open, such as `between(4, 10, entropy)`.
    threshold : float
        Chosen on the source.
    source_table, target_table : ExitTable
        With the signal; errors are not looked at.

    Returns
    -------
    policy
        The quantile is taken over the inner exits of all utterances together.

    Raises
    ------
    ValueError
        When the policy has no open threshold, or one that reads other than one signal.
    """
    leaf = open_leaf(open_policy)
    if leaf is None or len(leaf.needs) != 1 or leaf.needs[0] in ("exit_layer", "uniform"):
        raise ValueError(f"matching a signal needs a policy with the threshold of one signal open, got {open_policy}")
    name = leaf.needs[0]
    source, target = (table.signal(name)[:, : max(1, table.n_exits - 1)] for table in (source_table, target_table))
    share = float((source <= threshold).mean())
    return with_threshold(open_policy, _threshold_at(np.sort(target, axis=None), share))


def match_exits(
    open_policy: Policy,
    policy: Policy,
    *,
    source_table: ExitTable,
    target_table: ExitTable,
    n_thresholds: int = 200,
) -> Policy:
    """The policy whose exits on the target are shared out as the given one's are on the source.

    Arguments
    ---------
    open_policy : policy
        As calibrated: thresholds of it are tried on the target.
    policy : policy
        As filled in on the source.
    source_table, target_table : ExitTable
        Errors are not looked at.
    n_thresholds : int
        As for `thresholds_of`.

    Returns
    -------
    policy
        With the least total variation distance between the two distributions over exits, by seconds of
        audio; the costliest of those that tie.

    Raises
    ------
    ValueError
        When the tables have different exits.
    """
    if not np.array_equal(source_table.exit_layers, target_table.exit_layers):
        raise ValueError(
            f"both tables need the same exits, got {source_table.exit_layers} and {target_table.exit_layers}"
        )
    wanted = exits_taken(policy, source_table)
    curve = policy_curve(open_policy, target_table, n_thresholds=n_thresholds)
    apart = [np.abs(exits_taken(candidate, target_table) - wanted).sum() / 2 for candidate in curve.policies]
    return curve.policies[int(np.lexsort((-curve.cost, np.round(apart, 9)))[0])]


def exits_taken(policy: Policy, table: ExitTable) -> np.ndarray:
    """Share of the audio that leaves at each exit.

    Arguments
    ---------
    policy : policy
        Nothing open.
    table : ExitTable
        What was recorded.

    Returns
    -------
    np.ndarray of shape (n_exits,)
        Sums to 1.
    """
    seconds = np.bincount(replay(policy, table), table.duration_s, table.n_exits)
    return seconds / seconds.sum()


def _threshold_at(values: np.ndarray, share: float) -> float:
    """Midway between the sorted values on both sides of a share of them; just beyond all where there is one side."""
    below = round(share * len(values))
    if below == 0:
        return float(np.nextafter(values[0], -np.inf))
    return float(values[-1] if below == len(values) else (values[below - 1] + values[below]) / 2)
