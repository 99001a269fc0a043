"""What risk control promises, in numbers: targets, the losses of blocks, and p-values of them.

The estimand and the clip are explained in `eeasr_modules.exits.tuning.risk`. A small p-value says that the mean loss is
below the limit, at any sample size. Functions of p-values take losses of at most 1, of shape (n_blocks,) or (n_blocks,
n_policies), the blocks independent and identically distributed, and a limit between 0 and 1, which policies may each
have of their own; they give shape () or (n_policies,). All but betting need losses of at least 0 too.

Betting and empirical Bernstein look at the blocks one after the other, so their order must not depend on the
losses. They multiply up a capital that is not expected to grow while the mean is at least the limit; one over
the largest capital on the way is a p-value (Ville's inequality).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eeasr_modules.exits.measure.edits import edit_counts
from eeasr_modules.exits.policies.protocol import Policy
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.replay import decide

P_VALUES = ("betting", "hoeffding_bentkus", "exact", "empirical_bernstein")
_MOST_STAKED = 0.99  # share of the capital that may be lost on one block: all of it would be final
_PRIOR_BLOCKS = 25.0


def p_values(
    losses: np.ndarray,
    limit: float,
    *,
    method: str,
    uniforms: np.ndarray | None = None,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """P-values by the name of the method; `uniforms` are for "exact" only, `prior` is for "betting" only.

    `losses` (n_blocks,) or (n_blocks, n_policies): at most 1, in the blocks' order. `limit`: between 0 and 1.
    `uniforms` (n_blocks,); `prior`: a mean and a variance, each of shape () or (n_policies,). Returns shape () or
    (n_policies,). These shapes hold for every method below. ValueError when the method is unknown, or losses or limit
    are out of range.

    Example
    -------
    >>> p_values(np.zeros(20), 0.25, method="hoeffding_bentkus").round(5)
    np.float64(0.00317)
    """
    if method == "betting":
        return betting_p_values(losses, limit, prior=prior)
    if method == "hoeffding_bentkus":
        return hoeffding_bentkus_p_values(losses, limit)
    if method == "exact":
        return exact_p_values(losses, limit, uniforms=uniforms)
    if method == "empirical_bernstein":
        return empirical_bernstein_p_values(losses, limit)
    raise ValueError(f"p_value must be one of {', '.join(P_VALUES)}, got {method!r}")


def hoeffding_bentkus_p_values(losses: np.ndarray, limit: float) -> np.ndarray:
    """The smaller of Hoeffding's and Bentkus' tail bounds (Bates et al. 2021, Angelopoulos et al. 2021, Prop. 2)."""
    from scipy.special import rel_entr
    from scipy.stats import binom

    losses = _checked(losses, limit, bounded_below=True)
    n, mean = len(losses), losses.mean(axis=0)
    below = np.minimum(mean, limit)
    hoeffding = np.exp(-n * (rel_entr(below, limit) + rel_entr(1.0 - below, 1.0 - limit)))
    # sums of floats: a count that is whole up to rounding must not be rounded up
    bentkus = np.e * binom.cdf(np.ceil(n * mean - 1e-9), n, limit)
    return np.minimum(1.0, np.minimum(hoeffding, bentkus))


def exact_p_values(losses: np.ndarray, limit: float, *, uniforms: np.ndarray | None = None) -> np.ndarray:
    """The binomial tail: exact for losses of 0 or 1 (Brown et al. 2001 on its relatives).

    A loss between 0 and 1 is first turned into 1 with its own probability, which keeps the mean, and so the
    validity, but adds chance: the decision then depends on `uniforms`.

    ValueError when some loss is neither 0 nor 1 and there are no uniforms. `uniforms` (n_blocks,): uniform on 0 to 1
    and independent of the losses; one per block is shared by all policies. None allows losses of 0 and 1 only.
    """
    from scipy.stats import binom

    losses = _checked(losses, limit, bounded_below=True)
    if uniforms is None:
        if not np.isin(losses, (0.0, 1.0)).all():
            raise ValueError("exact p-values need losses of 0 or 1, or uniforms to round the others with; got neither")
        uniforms = np.full(len(losses), 0.5)
    ones = (uniforms if uniforms.ndim == losses.ndim else uniforms[:, None]) < losses
    return binom.cdf(ones.sum(axis=0), len(losses), limit)


def betting_p_values(
    losses: np.ndarray, limit: float, *, prior: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """One over the capital won by betting that losses stay below the limit (Waudby-Smith & Ramdas 2024).

    The capital after block i is that before it times 1 + stake * (limit - loss). The stake is their
    "approximate GRAPA", (limit - m) / (v + (limit - m)^2) with the mean m and variance v of the blocks before.
    Only one side is bet on, so theirs is not "hedged" with the other here, and only the upper bound of the
    losses matters: they may be as negative as they like.

    The prior is a first guess of mean and variance of the losses, of shape () or (n_policies,), made on other data and
    worth 25 blocks; a bad one costs capital, not validity. None guesses half the limit for mean and standard deviation,
    worth one block.
    """
    losses = _checked(losses, limit, bounded_below=False)
    guess, weight = (_start(limit), 1.0) if prior is None else (prior, _PRIOR_BLOCKS)
    mean, variance = (np.broadcast_to(np.asarray(part, dtype=np.float64), losses.shape[1:]) for part in guess)
    m, v = _moments_before(losses, mean, variance, weight)
    room = limit - m
    stake = np.clip(room / np.maximum(v + room**2, 1e-12), 0.0, _MOST_STAKED / (1.0 - limit))
    return _from_gains(np.log1p(stake * (limit - losses)))


def empirical_bernstein_p_values(losses: np.ndarray, limit: float) -> np.ndarray:
    """The predictable plug-in empirical Bernstein test (Waudby-Smith & Ramdas 2024, Theorem 2).

    The bound of Maurer & Pontil 2009 has the same main term, but one of 7 log(2 / delta) / (3 n) beside it, with
    which 20 blocks never certify a limit below a third. Stakes are chosen for a level of 0.1; the p-value is valid at
    every level.
    """
    losses = _checked(losses, limit, bounded_below=True)
    m, v = _moments_before(losses, *_start(limit), 1.0)
    stake = np.minimum(np.sqrt(2.0 * np.log(1.0 / 0.1) / (len(losses) * np.maximum(v, 1e-12))), 0.75)
    return _from_gains(stake * (limit - losses) + (losses - m) ** 2 * (np.log1p(-stake) + stake))


def _from_gains(log_gains: np.ndarray) -> np.ndarray:
    """P-values from the log of what the capital is multiplied by at each block, shaped as losses."""
    return np.exp(-np.maximum(np.cumsum(log_gains, axis=0).max(axis=0), 0.0))


def _checked(losses: np.ndarray, limit: float, *, bounded_below: bool) -> np.ndarray:
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim not in (1, 2) or len(losses) == 0:
        raise ValueError(f"losses must be (n_blocks,) or (n_blocks, n_policies), at least 1 block, got {losses.shape}")
    if not ((np.asarray(limit) > 0.0) & (np.asarray(limit) < 1.0)).all():
        raise ValueError(f"limit must be between 0 and 1, got {limit}")
    lowest = 0.0 if bounded_below else -np.inf
    if not (np.isfinite(losses).all() and (losses <= 1.0 + 1e-9).all() and (losses >= lowest - 1e-9).all()):
        raise ValueError(f"losses must be from {lowest:g} to 1, got {losses.min():g} to {losses.max():g}")
    return np.clip(losses, lowest, 1.0)


def _start(limit: float) -> tuple[float, float]:
    """Mean and variance that are guessed before any block."""
    return 0.5 * limit, (0.5 * limit) ** 2


def _moments_before(
    losses: np.ndarray, mean: np.ndarray, variance: np.ndarray, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the first guess and the blocks before each block, both shaped as losses."""
    before = np.arange(len(losses)).reshape(-1, *[1] * (losses.ndim - 1))
    n = weight + before
    m = (weight * mean + np.cumsum(losses, axis=0) - losses) / n
    squares = (weight * (variance + mean**2) + np.cumsum(losses**2, axis=0) - losses**2) / n
    return m, np.maximum(squares - m**2, 0.0)


BLOCKS = ("speakers", "utterances")
LOSSES = ("excess", "changed")
CLIP_IN_EPS = 4.0  # default clip: so many times eps, with which 11 blocks without excess certify at delta 0.1 ...
CLIP_IN_ERRORS = 2.0  # ... but never less than so many word errors in a mean block
TAIL_SHARE = 0.05  # default share of blocks above the clip to be ruled out, where the blocks are enough for it
WORST_POINTS = 100.0  # what no block is assumed to lose more than, where all blocks are spoken of: every word lost


@dataclass(frozen=True)
class RiskTarget:
    """What is to be promised."""

    eps: float  # most that the pooled WER may exceed the reference exit's, in WER points, above 0
    delta: float = 0.1  # probability with which the promise may fail, between 0 and 1
    reference: str | int = "last"  # "last", or the layer of the exit to compare with
    blocks: str = "speakers"  # what is drawn: "speakers" or "utterances"
    p_value: str = "betting"  # one of `P_VALUES`; "betting" saved most on real speech
    # largest excess that a block counts with, in WER points of a mean block. None takes 4 eps, or what 2 word errors
    # are in a mean block where that is more. With 100 the promise is about all blocks
    clip: float | None = None
    # share of the blocks that may lose more than the clip, between 0 and 1. None takes 5 %, or the least that so many
    # blocks can rule out
    tail: float | None = None
    # "excess": errors above the reference exit's, per reference word. "changed": edits to the last exit's transcript,
    # per word of that; no label is read
    loss: str = "excess"
    per_exit: bool = False  # whether every exit that is used is to have the promise of its own (`exits.tuning.risk`)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"eps must be above 0 (WER points above the reference exit), got {self.eps}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must be between 0 and 1 (probability of failing), got {self.delta}")
        if self.loss not in LOSSES or (self.loss == "changed" and self.reference != "last"):
            raise ValueError(
                f"loss must be excess, or changed with the last exit as reference, got {self.loss!r} with "
                f"{self.reference!r}"
            )
        if self.blocks not in BLOCKS:
            raise ValueError(f"blocks must be one of {', '.join(BLOCKS)}, got {self.blocks!r}")
        if self.p_value not in P_VALUES:
            raise ValueError(f"p_value must be one of {', '.join(P_VALUES)}, got {self.p_value!r}")
        if self.clip is not None and not self.clip > self.eps:
            raise ValueError(f"clip must exceed eps (both in WER points), got clip {self.clip} and eps {self.eps}")
        if not isinstance(self.per_exit, bool):
            raise ValueError(f"per_exit must be true or false, got {self.per_exit!r}")
        if self.tail is not None and not 0 < self.tail < 1:
            raise ValueError(f"tail must be between 0 and 1 (share of blocks above the clip), got {self.tail}")

    @property
    def rule(self) -> str:
        """Such as "exit_risk 0.5, 0.1"; the clip follows where one was given."""
        what = "changed " if self.loss == "changed" else ""
        clip = "" if self.clip is None else f", {self.clip:g}"
        return f"exit_risk {what}{self.eps:g}, {self.delta:g}{clip}" + (", per exit" if self.per_exit else "")

    def table(self, table: ExitTable) -> ExitTable:
        """The table whose errors are what this target counts."""
        return against_last(table) if self.loss == "changed" else table

    @property
    def level(self) -> float:
        """Level of each of the two tests, of the mean and of the tail: half of delta."""
        return self.delta / 2.0

    def clip_at(self, block_words: float) -> float:
        """The clip in WER points, for blocks of so many words in the mean; of an array, an array."""
        if self.clip is not None:
            return self.clip if np.ndim(block_words) == 0 else np.full(np.shape(block_words), self.clip)
        clip = np.maximum(CLIP_IN_EPS * self.eps, 100.0 * CLIP_IN_ERRORS / np.maximum(block_words, 1e-9))
        return float(clip) if np.ndim(clip) == 0 else clip

    def tail_at(self, n_blocks: int) -> float:
        """The share of the blocks above the clip that is to be ruled out with so many; known before any error is."""
        if self.tail is not None:
            return self.tail
        return max(TAIL_SHARE, 1.0 - self.level ** (1.0 / n_blocks))

    def bound_on_all(self, *, clip: float, tail: float) -> float:
        """WER points that the excess over all blocks is within, if none loses more than `WORST_POINTS`.

        The mean loss is at most the clipped one's, 0, and (100 - clip) for a share of `tail`.
        """
        return self.eps + tail * max(0.0, WORST_POINTS - clip)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**vars(self)}


def against_last(table: ExitTable) -> ExitTable:
    """The same table with the last exit's transcripts for references: its errors are the words that leaving changes.

    Returns ExitTable: the last exit has no errors in it, unless other words are emitted there.

    Example
    -------
    >>> table = ExitTable.from_hypotheses([["a x", "a b c"]], ["d"], utt_ids=["u"], exit_layers=[2, 4], duration_s=[1],
    ...                                   n_frames=[50])
    >>> found = against_last(table)
    >>> found.errors.tolist(), found.n_ref_words.tolist()
    ([[2, 0]], [3])
    """
    last = [str(text) for text in table.hypotheses[:, -1]]
    return replace(
        table,
        averaged=None,
        references=np.array(last, dtype=object),
        n_ref_words=np.array([len(text.split()) for text in last]),
        n_ref_chars=np.array([len(" ".join(text.split())) for text in last]),
        **edit_counts(table.hypotheses if table.emitted is None else table.emitted, last),
    )


def reference_errors(table: ExitTable, reference: str | int) -> np.ndarray:
    """Errors, in its own words, of the exit compared with ("last" or a layer), (n_utterances,); or a ValueError."""
    at = np.flatnonzero(table.exit_layers == (table.exit_layers[-1] if reference == "last" else reference))
    if len(at) == 0:
        layers = ", ".join(map(str, table.exit_layers))
        raise ValueError(f'reference must be "last" or the layer of an exit ({layers}), got {reference!r}')
    if table.emitted is None:
        return table.errors[:, at[0]]
    counts = edit_counts(table.hypotheses[:, at], table.references)
    return sum(counts[name][:, 0] for name in ("n_sub", "n_del", "n_ins"))


def excess_errors(table: ExitTable, policies: Sequence[Policy], reference: np.ndarray) -> np.ndarray:
    """Errors of each policy, nothing open, above a reference's (n_utterances,): (n_utterances, n_policies)."""
    rows = np.arange(table.n_utterances)
    return np.stack([table.errors[rows, decide(policy, table).emitted] - reference for policy in policies], axis=1)


def block_sums(values: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Sums of (n_utterances, n_policies) over the utterances of each block, numbered from 0: (n_blocks, n_policies)."""
    return np.stack([np.bincount(block, column) for column in values.T], axis=1)


def scaled_losses(excess: np.ndarray, words: np.ndarray, *, eps: float, clip: float, block_words: float) -> np.ndarray:
    """Losses as p-values take them: at most 1, and eps / clip in the mean just where the excess is eps.

    Returns np.ndarray of shape (n_blocks, n_policies): (min(L_b, clip - eps) + eps) / clip of the module's text.
    `excess` (n_blocks, n_policies): errors above the reference's. `words` (n_blocks,): reference words. `eps`, `clip`,
    `block_words`: in WER points, and the scale S; of clip and scale, each policy may have its own.

    Example
    -------
    >>> scaled_losses(np.array([[0.0], [1.0], [9.0]]), np.full(3, 100), eps=1.0, clip=4.0, block_words=100).ravel()
    array([0.  , 0.25, 1.  ])
    """
    loss = block_losses(excess, words, eps=eps, block_words=block_words)
    return (np.minimum(loss, clip - eps) + eps) / clip


def block_losses(excess: np.ndarray, words: np.ndarray, *, eps: float, block_words: float) -> np.ndarray:
    """L_b of `exits.tuning.risk`, in WER points of a mean block; arguments as of `scaled_losses`."""
    return (100.0 * excess - eps * words.reshape(len(words), -1)) / block_words


def loss_moments(
    excess: np.ndarray, words: np.ndarray, *, target: RiskTarget, block_words: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of `scaled_losses` over blocks, each (n_policies,): first bets, made on other data."""
    clip = target.clip_at(block_words)
    losses = scaled_losses(excess, words, eps=target.eps, clip=clip, block_words=block_words)
    return losses.mean(axis=0), losses.var(axis=0)


def first_failure(p_values_in_order: np.ndarray, delta: float) -> int | np.ndarray:
    """How many of a fixed sequence of tests (last axis) are rejected at level delta before the first that is not.

    Returns int, or np.ndarray of int, of shape (...).

    Example
    -------
    >>> first_failure(np.array([0.01, 0.04, 0.2, 0.03]), 0.1)
    2
    """
    passed = np.logical_and.accumulate(p_values_in_order <= delta, axis=-1).sum(axis=-1)
    return int(passed) if passed.ndim == 0 else passed


def parse_risk(text: str) -> RiskTarget:
    """What a command line's `--risk EPS,DELTA`, `EPS,DELTA,CLIP` or `changed=2,delta=0.1,per_exit=true` asks for.

    Example
    -------
    >>> parse_risk("0.5, 0.1").rule
    'exit_risk 0.5, 0.1'
    >>> parse_risk("changed=2, delta=0.1").rule
    'exit_risk changed 2, 0.1'
    """
    known, read = {"true": True, "false": False}, []
    parts = [part.partition("=")[::2] for part in text.split(",")]
    try:
        if "=" in text:
            read = {name.strip(): known[said] if (said := one.strip()) in known else float(said) for name, one in parts}
        else:
            read = [float(part) for part in text.split(",")]
    except ValueError:
        pass  # no numbers: `target_of` says what was expected
    return target_of(read, said=text)


def target_of(numbers: Sequence[float] | Mapping[str, float], *, said: object = None) -> RiskTarget:
    """The target that `exit_risk: [eps, delta]`, `[eps, delta, clip]` or `{changed: 2, delta: 0.1}` of a YAML asks for.

    ValueError when there are other than two or three, names are others, or they make no sense. `numbers`: eps in WER
    points, delta, and the clip in WER points; or by name: `excess` (WER points above the last exit) or `changed` (per
    cent of the last exit's words), `delta`, `clip` and `per_exit`, which may be left out. `said`: as it was given, for
    the error; None takes the numbers.
    """
    if isinstance(numbers, Mapping):
        return _named_target(dict(numbers), said=numbers if said is None else said)
    if len(numbers) not in (2, 3):
        raise ValueError(
            f"risk must be two or three numbers, eps in WER points, delta, and a clip in WER points, such as 0.5,0.1, "
            f"got {said if said is not None else list(numbers)!r}"
        )
    eps, delta, *clip = map(float, numbers)
    return RiskTarget(eps, delta, clip=clip[0] if clip else None)


def _named_target(named: dict[str, float], *, said: object) -> RiskTarget:
    losses = [name for name in LOSSES if name in named]
    per_exit = named.pop("per_exit", False)
    fine = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in named.values())
    if len(losses) != 1 or not fine or not isinstance(per_exit, bool) or set(named) - {*losses, "delta", "clip"}:
        raise ValueError(
            f"risk by name must be one of excess (WER points) and changed (per cent of words), and perhaps delta and "
            f"clip, all numbers, and per_exit, true or false, such as {{changed: 2, delta: 0.1}}, got {said!r}"
        )
    eps, more = float(named.pop(losses[0])), {name: float(one) for name, one in named.items()}
    return RiskTarget(eps, **more, loss=losses[0], per_exit=per_exit)


def block_p_values(
    losses: np.ndarray,
    target: RiskTarget,
    *,
    limit: float,
    uniforms: np.ndarray,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """P-values of losses by the target's method; for all but betting, losses below -eps count as -eps.

    Returns np.ndarray of shape (n_policies,).
    """
    if target.p_value != "betting":
        losses = np.maximum(losses, 0.0)
    return p_values(losses, limit, method=target.p_value, uniforms=uniforms, prior=prior)


def block_numbers(table: ExitTable, blocks: str) -> np.ndarray:
    """Which block each utterance belongs to; shape (n_utterances,), from 0. ValueError when some speaker is unknown."""
    if blocks == "utterances":
        return np.arange(table.n_utterances)
    speakers = np.asarray(table.speakers, dtype=str)
    if (speakers == "").any():
        raise ValueError(
            f"blocks of speakers need every utterance's speaker, but {int((speakers == '').sum())} of "
            f"{len(speakers)} are unknown; take blocks of utterances, which promises less where speakers differ"
        )
    return np.unique(speakers, return_inverse=True)[1]


def mean_block_words(table: ExitTable, blocks: str) -> float:
    """Reference words of a mean block, the scale S."""
    return float(table.n_ref_words.sum() / (block_numbers(table, blocks).max() + 1))
