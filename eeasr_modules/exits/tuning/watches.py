"""Watches that may run for ever: has speech changed (drift), and does leaving cost more errors than allowed (risk)?

What they promise, and what not: docs/drift.md.

*Drift.* One score per utterance, from the exit taken and a signal there (`drift_scores`), is ranked among the
calibration scores and all that came since, ties broken at random. Where both are exchangeable, these ranks p (0 to 1)
are independent and uniform, whatever the scores are distributed like (smoothed conformal p-values: Vovk, Gammerman &
Shafer 2005, "Algorithmic Learning in a Random World"). Wealth starts at 1 and is bet against that: every bet has odds
b(p) >= 0 that integrate to 1, so wealth is a conformal test martingale (Vovk et al. 2021, "Retrain or not retrain:
conformal test martingales for change-point detection"). As in its Simple Jumper, a share J of the wealth is dealt out
anew over all bets before each utterance, so that a late change is still found; wealth is the mean over several J.
Unlike there, some bets win at either end, some when the scores spread or crowd together; and one keeps its money.

*Risk.* Of utterances picked at random one learns what leaving early did: a share of them runs to the end (an audit:
errors are the edits to the last exit's transcript, words those of it), or a few are labelled (errors above the last
exit's, reference words; they may be negative). The loss of utterance t with E_t errors and W_t words is
Z_t = 100 E_t - limit W_t: the pooled loss, in errors per 100 words, is at most the limit just when Z_t has a mean of at
most 0. W_t counts up to `words_cap`, and errors that leaving early mended up to `credit`, so that Z_t is at least -B =
-(limit words_cap + 100 credit); both make the watch stricter. A bet f (0 to 1) multiplies its wealth by 1 + f Z_t / B,
which is not expected to grow while the loss is allowed, given all that came before (Waudby-Smith & Ramdas 2024; as a
monitor of a deployed model: Timans et al. 2025, "On continuous monitoring of risk violations under unknown shift").

Either wealth ever reaches 1 / alpha with probability at most alpha while nothing is amiss (Ville's inequality).
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eeasr_modules.exits.measure.edits import count_word_edits
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.replay import decide

JUMP_RATES = np.array([0.0, 1e-4, 1e-3, 1e-2, 1e-1])
N_BETS = 9


@dataclass(frozen=True)
class DriftReference:
    """What a watch compares live utterances with; it is kept beside a calibrated policy."""

    signal: str  # read at the exit taken
    # of the calibration data under that policy, as `drift_scores` gives them, rounded to 6 digits
    scores: tuple[float, ...]


def drift_score(exit_index: ArrayLike, signal: ArrayLike) -> np.ndarray:
    """`exit_index` + 1/2 + arctan(signal) / pi: later exits higher, and within an exit higher signals.

    ValueError when a signal is not finite. `exit_index`: from 0. `signal`: finite, of any range. It is squeezed into
    (0, 1) by an arc tangent; ranks do not see how.

    Example
    -------
    >>> drift_score([0, 0, 3], [0.0, 1.0, -1.0])
    array([0.5 , 0.75, 3.25])
    """
    values = np.asarray(signal, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("signal must be finite, got a nan or an infinity; check the model's output")
    return np.asarray(exit_index) + 0.5 + np.arctan(values) / np.pi


def drift_scores(table: ExitTable, policy: Policy, *, signal: str = "entropy") -> np.ndarray:
    """What a watch reads of each utterance of a table under a policy.

    Returns np.ndarray of shape (n_utterances,): as `drift_score` gives them. KeyError, ValueError when the table has no
    such signal, it is no finite number, or the policy cannot be replayed. `table`: calibration data, or a stream. Its
    references are not read. `policy`: not open: the one that runs live. `signal`: read at the exit taken. One that is
    high where speech is hard, such as entropy, agrees with late exits and is found sooner when it changes.
    """
    values = table.signal(signal)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"signal must be a number at each exit, got {signal}; take entropy, say")
    exit_index = decide(policy, table).emitted
    return drift_score(exit_index, values[np.arange(table.n_utterances), exit_index])


def drift_reference(table: ExitTable, policy: Policy, *, signal: str = "blank_rate") -> DriftReference | None:
    """The scores of calibration data, to be kept; None where the table lacks the signal."""
    if signal not in table.signals:
        return None
    return DriftReference(signal, tuple(round(float(score), 6) for score in drift_scores(table, policy, signal=signal)))


def bet_odds(p: ArrayLike) -> np.ndarray:
    """What every bet pays for a rank p (0 to 1), on the last axis; over uniform p each pays 1 on average.

    Returns np.ndarray of shape (..., N_BETS): above 0, so that no bet is ever ruined: cash, four lines, two on the
    ends, and two on spread.
    """
    p = np.asarray(p, dtype=np.float64)
    middle = p - 0.5
    spread = 12 * middle**2 - 1
    pays = [0 * p, 0.95 * middle, -0.95 * middle, 1.9 * middle, -1.9 * middle]
    pays += [0.95 * (4 * p**3 - 1), 0.95 * (4 * (1 - p) ** 3 - 1), 0.9 * spread, -0.45 * spread]
    return 1 + np.stack(pays, axis=-1)


def bet(shares: np.ndarray, log_wealth: np.ndarray, *, p: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Shares and wealth after one rank, for one stream or for many side by side.

    Returns tuple of np.ndarray, np.ndarray: new shares and log wealth, as they came in. `shares` (..., n_rates,
    N_BETS): how the wealth of each jump rate lies on the bets; each row sums to 1, evenly spread at the start.
    `log_wealth` (..., n_rates): natural logarithm, 0 at the start. `p` (...): the rank that came.
    """
    return dealt(shares, log_wealth, odds=bet_odds(p))


def dealt(shares: np.ndarray, log_wealth: np.ndarray, *, odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares and wealth after a share of each rate's wealth was dealt out anew and every bet has paid.

    Returns tuple of np.ndarray, np.ndarray: new shares and log wealth, as they came in. `shares` and `log_wealth`: as
    for `bet`, with as many bets as there are odds. `odds` (..., n_bets): what each bet multiplies its money by; above 0
    and not above 1 on average while nothing is amiss.
    """
    jumped = (1 - JUMP_RATES[:, None]) * shares + JUMP_RATES[:, None] / shares.shape[-1]
    won = jumped * odds[..., None, :]  # (..., n_rates, n_bets)
    total = won.sum(-1)
    return won / total[..., None], log_wealth + np.log(total)


class Wealth:
    """The money of bets that are dealt out anew, and the alarm when there is too much of it.

    ValueError when alpha is out of range. `alpha`: probability of ever raising a false alarm, above 0 and below 1.
    """

    def __init__(self, alpha: float, *, n_bets: int) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        self.alpha, self.n_seen = float(alpha), 0
        self.alarm_at: int | None = None  # utterances seen when the alarm came
        self._shares = np.full((len(JUMP_RATES), n_bets), 1 / n_bets)
        self._log_wealth = np.zeros(len(JUMP_RATES))

    @property
    def wealth(self) -> float:
        """Evidence against what is watched: 1 at the start, 1 / alpha raises the alarm; inf beyond floats."""
        log_mean = self._log_mean_wealth()
        return math.exp(log_mean) if log_mean < 700 else math.inf

    @property
    def alarm(self) -> bool:
        """Whether wealth has ever reached 1 / alpha."""
        return self.alarm_at is not None

    def _log_mean_wealth(self) -> float:
        return float(np.logaddexp.reduce(self._log_wealth)) - math.log(len(JUMP_RATES))

    def _looked(self) -> bool:
        """Whether there has been an alarm, this utterance's bets among them."""
        if self.alarm_at is None and self._log_mean_wealth() >= -math.log(self.alpha):
            self.alarm_at = self.n_seen
        return self.alarm


class DriftWatch(Wealth):
    """Watches scores one at a time and raises an alarm when they no longer look like calibration.

    ValueError when there are no calibration scores, one is not finite, there are more than max_scores, or alpha is not
    between 0 and 1. `calibration_scores` (n_calibration,): from the live policy on calibration data, at least one,
    finite; in any order. `alpha`: probability of ever raising a false alarm, above 0 and below 1. `max_scores`: scores
    to remember, calibration and live together, 8 bytes each. Once full, wealth stands still: the promise holds and no
    alarm can come any more (`full`).

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> watch = DriftWatch(rng.normal(size=300), alpha=0.01)
    >>> any(watch.add(score) for score in rng.normal(size=500))
    False
    >>> any(watch.add(score) for score in rng.normal(2, size=100))
    True
    """

    def __init__(
        self, calibration_scores: ArrayLike, alpha: float = 0.01, *, seed: int = 0, max_scores: int = 1_000_000
    ) -> None:
        scores = np.asarray(calibration_scores, dtype=np.float64).ravel()
        if not len(scores) or not np.isfinite(scores).all():
            raise ValueError(f"calibration_scores must be finite numbers, at least one, got {len(scores)} scores")
        super().__init__(alpha, n_bets=N_BETS)
        if len(scores) > max_scores:
            raise ValueError(f"max_scores must hold the {len(scores)} calibration scores, got {max_scores}")
        self.max_scores = max_scores
        self._ranked = array("d", np.sort(scores).tolist())
        self._rng = np.random.default_rng(seed)

    @property
    def full(self) -> bool:
        """Whether max_scores are remembered, so that nothing more is ranked."""
        return len(self._ranked) >= self.max_scores

    def add(self, score: float) -> bool:
        """Rank one live score, bet on it, and say whether there has been an alarm so far; once True, it stays so.

        ValueError when the score is not finite. `score`: of the next utterance, made like the calibration scores.
        """
        score = float(score)
        if not math.isfinite(score):
            raise ValueError(f"score must be finite, got {score}")
        self.n_seen += 1
        if self.full:
            return self.alarm
        self._shares, self._log_wealth = bet(self._shares, self._log_wealth, p=self._rank(score))
        return self._looked()

    def _rank(self, score: float) -> float:
        """Smoothed rank of a score among all so far and itself, 0 to 1; the score is remembered."""
        below = bisect_left(self._ranked, score)
        above = bisect_right(self._ranked, score)
        self._ranked.insert(above, score)
        return (below + self._rng.random() * (above - below + 1)) / len(self._ranked)


BETS = np.array([0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.95])  # never all: one utterance could ruin such a bet
WORDS_CAP = 100


class RiskWatch(Wealth):
    """Watches losses one at a time and raises an alarm when they are above the limit.

    ValueError when a number is out of range. `limit`: errors per 100 words that leaving early may cost, above 0: the
    eps of a certificate. `alpha`: probability of ever raising a false alarm, above 0 and below 1. `credit`: most errors
    that one utterance may count as mended; 0 for audits, which mend nothing. `words_cap`: most words that one utterance
    counts with.

    Example
    -------
    >>> watch = RiskWatch(2.0, alpha=0.01)
    >>> any(watch.add(t % 10 == 0, 10) for t in range(500))  # 1 error in 100 words
    False
    >>> any(watch.add(t % 2 == 0, 10) for t in range(500)), watch.n_seen < 700  # 5 errors in 100 words
    (True, True)
    """

    def __init__(self, limit: float, *, alpha: float = 0.01, credit: int = 0, words_cap: int = WORDS_CAP) -> None:
        if not (math.isfinite(limit) and limit > 0):
            raise ValueError(f"limit must be above 0 (errors per 100 words that may be lost), got {limit}")
        super().__init__(alpha, n_bets=len(BETS))
        if credit < 0 or words_cap < 1:
            raise ValueError(f"credit must be at least 0 and words_cap at least 1, got {credit} and {words_cap}")
        self.limit, self.credit, self.words_cap = float(limit), credit, words_cap
        self.n_errors = self.n_words = 0

    @property
    def lost(self) -> float:
        """Errors per 100 words so far, over all that was added; nan without words."""
        return 100.0 * self.n_errors / self.n_words if self.n_words else math.nan

    def add(self, errors: int, words: int) -> bool:
        """Bet on one utterance, and say whether there has been an alarm so far.

        ValueError when words are below 0. `errors`: that leaving early cost; negative where it mended some. `words`: of
        the last exit's transcript, or of the reference where the errors are of labels.
        """
        if words < 0:
            raise ValueError(f"words must be at least 0, got {words}")
        self.n_seen, self.n_errors, self.n_words = self.n_seen + 1, self.n_errors + int(errors), self.n_words + words
        bound = self.limit * self.words_cap + 100.0 * self.credit
        loss = 100.0 * max(errors, -self.credit) - self.limit * min(words, self.words_cap)
        self._shares, self._log_wealth = dealt(self._shares, self._log_wealth, odds=1 + BETS * loss / bound)
        return self._looked()

    def add_texts(self, said: str, last: str, reference: str | None = None) -> bool:
        """The same from transcripts, all spelled alike; without a reference, an audit by edits to the last exit's."""
        if reference is None:
            return self.add(count_word_edits(said, last), len(last.split()))
        errors = count_word_edits(said, reference) - count_word_edits(last, reference)
        return self.add(errors, len(reference.split()))
