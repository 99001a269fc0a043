"""A watch on the risk itself: does leaving early cost more errors than was allowed? It may run for ever.

A drift watch asks whether speech has changed, this one whether the *loss* has: of utterances picked at random, whatever
they say, one learns what leaving early did. Either a share of them runs to the end (an audit: no label; errors are the
edits to the last exit's transcript, words those of it), or a few are labelled (errors above the last exit's, reference
words; they may be negative).

*The loss* of utterance t with E_t errors and W_t words is Z_t = 100 E_t - limit W_t. The pooled loss, in errors per 100
words, is at most the limit just when Z_t has a mean of at most 0. W_t counts up to `words_cap`, and errors that leaving
early mended up to `credit`, so that Z_t is at least -B = -(limit words_cap + 100 credit); both make the watch stricter,
and neither matters where utterances are shorter and mend less.

*Bets.* A bet f (0 to 1) multiplies its wealth by 1 + f Z_t / B, which is not expected to grow while the loss is
allowed, given all that came before (Waudby-Smith & Ramdas 2024; as a monitor of a deployed model: Timans et al. 2025,
"On continuous monitoring of risk violations under unknown shift"). Several f run side by side, and as in `drift` a
share of the wealth is dealt out anew before each utterance, for changes that come late; one bet keeps its money.

*What is promised.* While the mean loss is at most the limit at every step, speech may change as it likes: wealth ever
reaches 1 / alpha with probability at most alpha (Ville's inequality). Nothing is said of how soon an alarm comes.
"""

import math

import numpy as np

from eeasr_modules.exits.measure.edits import count_word_edits
from eeasr_modules.exits.tuning.drift import Wealth, dealt

BETS = np.array([0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.95])  # never all: one utterance could ruin such a bet
WORDS_CAP = 100


class RiskWatch(Wealth):
    """Watches losses one at a time and raises an alarm when they are above the limit.

    Arguments
    ---------
    limit : float
        Errors per 100 words that leaving early may cost, above 0: the eps of a certificate.
    alpha : float
        Probability of ever raising a false alarm, above 0 and below 1.
    credit : int
        Most errors that one utterance may count as mended; 0 for audits, which mend nothing.
    words_cap : int
        Most words that one utterance counts with.

    Raises
    ------
    ValueError
        When a number is out of range.

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

        Arguments
        ---------
        errors : int
            That leaving early cost; negative where it mended some.
        words : int
            Of the last exit's transcript, or of the reference where the errors are of labels.

        Raises
        ------
        ValueError
            When words are below 0.
        """
        if words < 0:
            raise ValueError(f"words must be at least 0, got {words}")
        self.n_seen, self.n_errors, self.n_words = self.n_seen + 1, self.n_errors + int(errors), self.n_words + words
        bound = self.limit * self.words_cap + 100.0 * self.credit
        loss = 100.0 * max(errors, -self.credit) - self.limit * min(words, self.words_cap)
        self._shares, self._log_wealth = dealt(self._shares, self._log_wealth, odds=1 + BETS * loss / bound)
        return self._looked()

    def add_texts(self, said: str, last: str, reference: str | None = None) -> bool:
        """The same from transcripts.

        Arguments
        ---------
        said : str
            What leaving early said.
        last : str
            What the last exit says.
        reference : str or None
            What was said, all three spelled alike; None for an audit, whose errors are edits to the last exit's words.
        """
        if reference is None:
            return self.add(count_word_edits(said, last), len(last.split()))
        errors = count_word_edits(said, reference) - count_word_edits(last, reference)
        return self.add(errors, len(reference.split()))
