"""A certificate for one finite set of recordings from few labels, chosen where they tell most.

*The promise* is about these N recordings, nobody else's: leaving early costs at most eps WER points above the last exit
over all of them, with probability 1 - delta over the draw of who is labelled. Nothing is assumed of the recordings, of
speakers or of the words in them; speech may be as far from training as it likes.

*What is known without labels.* Every exit's transcript, so the words d_i that leaving changes in utterance i, and L_i,
the words of its last transcript. By the triangle inequality the errors D_i that leaving adds lie between -d_i and d_i:
utterances that no threshold changes need no label for their errors, only their n_i >= 0 reference words stay unknown.
With Z_i = 100 D_i - eps n_i the promise is that the sum of Z over all N is at most 0. Policies and their order may be
chosen by changed words, which no label tells (`candidates`): one window of layers, thresholds from few words changed
to many.

*Draws* are weighted and without replacement. Utterance i comes next with probability q_i, which follows how far its Z_i
may spread at the thresholds that are to be certified, and in part the length of its transcript. They come in rounds;
the weights of a round rest on the labels of those before (Xu et al. 2024, "Active, anytime-valid risk controlling
prediction sets": label where the loss is uncertain, within a budget).

*Bets* (Shekhar et al. 2023, "Risk-limiting financial audits via weighted sampling without replacement"; Waudby-Smith
& Ramdas 2024). Let m be minus the sum of Z over the labelled: if the promise is false, the sum over those left is above
m. Utterance i, drawn, estimates that sum without bias by X = (Z_i + eps L_i) / q_i - eps (sum of L left): the last
transcript's words stand in for the reference's (a control variate). Wealth is multiplied by 1 + stake (m - X), which is
not expected to grow while the promise is false. X is at most the largest (100 d + eps L) / q, minus the same, and the
stake is so small that wealth stays above 0; one over the largest wealth is a p-value. Where 100 d summed over those
left is below m, the promise is true for certain. Thresholds are tested in their order until the first that fails, each
at delta (`exits.tuning.risk`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eeasr_modules.common.files import write_aside
from eeasr_modules.exits.measure.edits import count_word_edits
from eeasr_modules.exits.policies.combine import Between, open_leaf
from eeasr_modules.exits.policies.protocol import Fitted, Policy
from eeasr_modules.exits.policies.rules import Static
from eeasr_modules.exits.tables.table import ExitTable
from eeasr_modules.exits.tuning.calibration import Calibrated, Curve, described_set, policy_curve
from eeasr_modules.exits.tuning.replay import decide, exit_costs, fit_model, mean_cost, with_models
from eeasr_modules.exits.tuning.risk_losses import against_last

WINDOW_AT, MOST_CHANGED, STEP = 2.5, 6.5, 0.2  # of eps: where windows are compared, the loosest threshold, the distance
HARM, HARM_WORTH = 0.3, 10.0  # changed words that are errors, net: the first guess, and how many labels it is worth
SPREAD, SPREAD_POWER = 70.0, 0.75  # standard deviation of 100 D is guessed as 70 d ^ 0.75
WORDS_SPREAD = 0.15  # that of a reference's words, of the last transcript's
BY_LENGTH = 0.2  # of the draws follow length alone, so that everybody may come
MOST_STAKED = 0.98
WAYS = ("active", "random")

Label = Callable[[int], tuple[np.ndarray, int] | None]  # of an utterance: D at each threshold, reference words


@dataclass(frozen=True)
class LabelTarget:
    """What is to be promised, and what may be asked for it."""

    eps: float  # WER points above the last exit, above 0
    delta: float = 0.1  # probability of promising what is not so, between 0 and 1
    budget: int = 50  # most utterances to label
    per_round: int = 10  # labels asked for at once; fewer choose better
    seed: int = 0  # of the draws; fixed before a label is seen, as trying several voids the promise
    way: str = "active"  # "active", or "random": every recording as probable as any other, to compare with

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps > 0) or not 0 < self.delta < 1:
            raise ValueError(f"eps must be above 0 and delta between 0 and 1, got {self.eps} and {self.delta}")
        if self.budget < 1 or self.per_round < 1:
            raise ValueError(f"budget and per_round must be at least 1, got {self.budget} and {self.per_round}")
        if self.way not in WAYS:
            raise ValueError(f"way must be one of {', '.join(WAYS)}, got {self.way!r}")


@dataclass(frozen=True, eq=False)
class Draws:
    """Who was drawn, and how many thresholds hold by the labels so far."""

    order: list[int]  # utterances, as they were drawn; the last round's may lack labels
    n_labelled: int  # of these, from the first
    n_certified: int  # thresholds, from the first


def draw_and_bet(changed: np.ndarray, words: np.ndarray, target: LabelTarget, label: Label) -> Draws:
    """Draw round after round until labels are missing, the budget is spent or every threshold holds.

    `changed` (n_utterances, n_thresholds): words d that leaving changes, thresholds in the order of the tests. `words`
    (n_utterances,): of the last exit's transcripts. `label`: gives what is known of an utterance, None where it is not
    labelled yet.
    """
    bets = _Bets(changed.astype(np.float64), words.astype(np.float64), target)
    rng, order = np.random.default_rng(target.seed), []
    while len(order) < min(target.budget, len(words)) and bets.n_certified < changed.shape[1]:
        n_next = min(target.per_round, target.budget - len(order), len(words) - len(order))
        drawn = bets.draw_round(rng, n_next)
        order += [i for i, _ in drawn]
        labels = [label(i) for i, _ in drawn]
        if any(one is None for one in labels):
            return Draws(order, len(order) - len(drawn), bets.n_certified)
        for (i, weight), (errors, n_words) in zip(drawn, labels, strict=True):
            bets.add(i, weight, errors=errors, n_words=n_words)
    return Draws(order, len(order), bets.n_certified)


class _Bets:
    """The wealth of every threshold, and who is left to be drawn; names are those of the module's text."""

    def __init__(self, changed: np.ndarray, words: np.ndarray, target: LabelTarget) -> None:
        self.d, self.words, self.target = changed, words, target
        self.of_words2 = (WORDS_SPREAD * target.eps * words) ** 2  # of utterances that nothing changes, all there is
        self.spread2 = SPREAD**2 * changed ** (2 * SPREAD_POWER) + self.of_words2[:, None]
        self.left, self.touched = np.ones(len(words), dtype=bool), changed.any(axis=1)
        self.d_left = changed.sum(axis=0)
        self.lost = np.zeros(changed.shape[1])  # sum of Z over the labelled
        self.log_wealth, self.best = np.zeros(changed.shape[1]), np.zeros(changed.shape[1])
        self.harm, self.worth = HARM * HARM_WORTH, HARM_WORTH
        self.aim = 0

    @property
    def n_certified(self) -> int:
        """Thresholds that hold, from the first."""
        sure = 100.0 * self.d_left < -self.lost
        return int(np.argmin(np.r_[sure | (self.best >= -math.log(self.target.delta)), False]))

    def draw_round(self, rng: np.random.Generator, n: int) -> list[tuple[int, np.ndarray]]:
        """So many utterances without replacement, each with the probabilities (n_utterances,) that it came by."""
        begun, drawn = self.left.copy(), []
        weight = np.ones(len(self.words)) if self.target.way == "random" else self._weights(n_drawn=int((~begun).sum()))
        left = begun.copy()
        for _ in range(n):
            q = self._probabilities(np.where(left, weight, 0.0), left)
            i = int(rng.choice(len(q), p=q))
            drawn.append((i, q))
            left[i] = False
        return drawn

    def _probabilities(self, weight: np.ndarray, left: np.ndarray) -> np.ndarray:
        if self.target.way == "random":
            return weight / weight.sum()
        length = np.where(left, np.maximum(self.words, 1e-3), 0.0)  # nobody is out of reach
        weight = weight if weight.sum() > 0 else length
        q = (1 - BY_LENGTH) * weight / weight.sum() + BY_LENGTH * length / length.sum()
        return q / q.sum()

    def _weights(self, *, n_drawn: int) -> np.ndarray:
        """How far Z may spread at the thresholds between those that hold and the loosest that may come to hold."""
        first, rho = min(self.n_certified, self.d.shape[1] - 1), self.harm / self.worth
        spread = np.sqrt(self.spread2 + (100.0 * rho * self.d) ** 2)
        total, gap = spread[self.left].sum(axis=0), self._gap(rho)
        growth = np.where(gap > 0, gap**2 / (total**2 + gap**2), 0.0)  # twice Kelly's: aim high
        reached = np.maximum(self.log_wealth, 0.0) + growth * (self.target.budget - n_drawn)
        may_hold = np.flatnonzero(reached >= -math.log(self.target.delta))
        self.aim = max(int(may_hold.max()) if len(may_hold) else first, first)
        return spread[:, first : self.aim + 1].max(axis=1)

    def _gap(self, rho: float) -> np.ndarray:
        """m minus what the sum of Z over those left is guessed to be."""
        return -self.lost - 100.0 * rho * self.d_left + self.target.eps * self.words[self.left].sum()

    def add(self, i: int, q: np.ndarray, *, errors: np.ndarray, n_words: int) -> None:
        """Bet on an utterance that was drawn with probabilities q; its label is not looked at before the stakes are."""
        eps, left, rho = self.target.eps, self.left, self.harm / self.worth
        stand_in = eps * self.words[left].sum()
        rows, plain = np.flatnonzero(left & self.touched), np.flatnonzero(left & ~self.touched)
        d, weight = self.d[rows], 1.0 / q[rows, None]
        of_plain = (eps * self.words[plain] / q[plain]).max(initial=0.0)
        largest = ((100.0 * d + eps * self.words[rows, None]) * weight).max(axis=0, initial=of_plain) - stand_in
        second = ((self.spread2[rows] + (100.0 * rho * d) ** 2) * weight).sum(axis=0)
        second += (self.of_words2[plain] / q[plain]).sum() - (100.0 * rho * self.d_left) ** 2
        gap, room = self._gap(rho), np.maximum(largest + self.lost, 1e-9)
        stake = np.clip(gap / np.maximum(second + gap**2, 1e-9), 0.0, MOST_STAKED / room)
        z = 100.0 * errors - eps * n_words
        gain = 1.0 + stake * (-self.lost - (z + eps * self.words[i]) / q[i] + stand_in)
        self.log_wealth = self.log_wealth + np.log(gain)
        self.best = np.maximum(self.best, self.log_wealth)
        self.lost, self.left[i], self.d_left = self.lost + z, False, self.d_left - self.d[i]
        if self.d[i, self.aim] > 0:
            self.harm, self.worth = self.harm + errors[self.aim] / self.d[i, self.aim], self.worth + 1.0


def candidates(table: ExitTable, open_policy: Policy, *, eps: float) -> Curve:
    """Policies in the order of the tests, chosen by cost and changed words alone.

    Returns Curve: from few words changed to many; its `wer` are changed words per 100 of the last exit's. `table`: the
    recordings; labels are not read. `open_policy`: with its threshold open, and perhaps its window, which is then the
    one that saves most where 2.5 eps words in 100 change. `eps`: WER points.
    """
    curve = policy_curve(open_policy, against_last(table), n_thresholds=100)
    if isinstance(open_policy, Between) and open_policy.has_open_window:
        fine = np.flatnonzero(curve.wer <= WINDOW_AT * eps)
        best = curve.policies[fine[np.argmin(curve.cost[fine])]] if len(fine) else curve.policies[0]
        window = best.floor_layer, best.ceiling_layer
        same = [(one.floor_layer, one.ceiling_layer) == window for one in curve.policies]
        curve = curve.take(np.flatnonzero(same))
    curve = curve.take(np.argsort(-curve.cost, kind="stable"))
    kept, last = [], -math.inf
    for at, changed in enumerate(curve.wer):
        if last + STEP * eps <= changed <= MOST_CHANGED * eps:
            kept, last = [*kept, at], changed
    return curve.take(np.array(kept or [int(np.argmin(curve.wer))]))


@dataclass(frozen=True, eq=False)
class FewLabels:
    """Where a set of recordings stands: whom to label next, or the certificate, or why there is none."""

    policy: Policy  # the loosest that holds by the labels so far; the last exit where none does
    open_policy: Policy  # as it was asked for
    target: LabelTarget  # what is promised
    certified: bool  # whether some threshold holds
    is_final: bool  # whether nothing more is to be labelled
    statement: str  # what is promised, or why nothing can be
    order: tuple[str, ...]  # ids of all drawn, in their order
    to_label: tuple[str, ...]  # those that lack a label
    # saved, changed: of the policy on these recordings: share of the last exit's cost, and words changed per 100 of its
    # transcripts
    saved: float
    changed: float
    grid: Curve  # of `candidates`
    cost: float  # mean cost of the policy
    calibrated_on: dict[str, Any]  # set_name, manifest_digest, model_digest, n_utterances

    def calibrated(self) -> Calibrated:
        """As `policy.json` keeps it; `dev_wer` is of changed words."""
        said = {"eps": self.target.eps, "delta": self.target.delta, "loss": "excess", "n_labelled": len(self.order)}
        return Calibrated(
            policy=self.policy,
            open_policy=self.open_policy,
            rule=f"few labels {self.target.eps:g}, {self.target.delta:g}"
            + ("" if self.certified else ": not certified"),
            cost="cost_layers",
            dev_cost=self.cost,
            dev_wer=self.changed,
            grid=self.grid,
            calibrated_on=self.calibrated_on,
            promise={"certified": self.certified, "statement": self.statement, "assumptions": [], **said},
        )


def few_labels(
    table: ExitTable,
    open_policy: Policy,
    *,
    target: LabelTarget,
    references: Mapping[str, str],
    source_table: ExitTable | None = None,
) -> FewLabels:
    """The certificate by the labels there are, and whom to label next.

    All is worked out afresh from the labels, so that a call with more of them goes on where the one before stood: same
    table, policy, target and versions draw the same utterances. Labels of anybody who was not drawn are not looked at.

    ValueError when nothing is open. `table`: the recordings, with every exit's transcript; references in it are not
    read. `references`: by utterance id, spelled as the transcripts are. `source_table`: other speech, labelled, on
    which a policy such as `gain` is fitted; None fits it to these recordings' own last transcripts.
    """
    if not open_policy.is_open:
        raise ValueError(f"labels choose a threshold, but {open_policy} has one: leave its last number out")
    leaf = open_leaf(open_policy)
    if source_table is not None and isinstance(leaf, Fitted) and leaf.model is None:
        open_policy = with_models(open_policy, {leaf.name: fit_model(leaf.name, [source_table])})
    grid = candidates(table, open_policy, eps=target.eps)
    rows, compared = np.arange(table.n_utterances), against_last(table)
    emitted = np.stack([decide(policy, table).emitted for policy in grid.policies], axis=1)
    changed = compared.errors[rows[:, None], emitted]

    def label(i: int) -> tuple[np.ndarray, int] | None:
        reference = references.get(str(table.utt_ids[i]))
        if reference is None:
            return None
        edits = np.array([count_word_edits(str(text), reference) for text in table.hypotheses[i]])
        return edits[emitted[i]] - edits[-1], len(reference.split())

    draws = draw_and_bet(changed, compared.n_ref_words, target, label)
    missing = [str(table.utt_ids[i]) for i in draws.order if str(table.utt_ids[i]) not in references]
    at, full = draws.n_certified - 1, mean_cost(exit_costs(table)[:, -1], table.duration_s)
    cost, share = (float(grid.cost[at]), float(grid.wer[at])) if at >= 0 else (full, 0.0)
    return FewLabels(
        policy=grid.policies[at] if at >= 0 else Static(int(table.exit_layers[-1])),
        open_policy=open_policy,
        target=target,
        certified=at >= 0,
        is_final=not missing,
        statement=_statement(target, draws, grid, n=table.n_utterances, full=full),
        order=tuple(str(table.utt_ids[i]) for i in draws.order),
        to_label=tuple(missing),
        saved=1 - cost / full,
        changed=share,
        grid=grid,
        cost=cost,
        calibrated_on=described_set(table),
    )


def _statement(target: LabelTarget, draws: Draws, grid: Curve, *, n: int, full: float) -> str:
    at = max(draws.n_certified - 1, 0)
    what = f"changes {grid.wer[at]:.1f} words in 100 and saves {100 * (1 - grid.cost[at] / full):.1f} % of the layers"
    labelled = f"{draws.n_labelled} of {n} recordings labelled"
    if not draws.n_certified:
        return f"no threshold holds by these labels ({labelled}); the tightest tried {what}"
    return (
        f"over these {n} recordings leaving early costs at most {target.eps:g} WER points above the last exit, with "
        f"probability {1 - target.delta:g} over the draw of who is labelled; it {what} ({labelled})"
    )


NOTHING_SAID = "-"


def read_labels(path: str | Path) -> dict[str, str]:
    """References by utterance id; rows without one are left out.

    ValueError when a row has no tab, or an id comes twice. `path`: rows id, tab, reference; a lone "-" for a recording
    in which nothing is said. A file that is not there has none.
    """
    found: dict[str, str] = {}
    path = Path(path)
    if not path.is_file():
        return found
    seen = set()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        utt_id, tab, reference = line.partition("\t")
        if not tab or utt_id in seen:
            what = "came before" if utt_id in seen else "has no tab"
            raise ValueError(
                f"{path}, line {number}, must be an id, a tab and what is said, each id once; {line!r} {what}"
            )
        seen.add(utt_id)
        if reference.strip():
            found[utt_id] = "" if reference.strip() == NOTHING_SAID else " ".join(reference.split())
    return found


def write_labels(path: str | Path, order: Sequence[str], references: Mapping[str, str]) -> None:
    """Write the rows in the order of the draws, then other labels that were there; nothing that was typed is lost."""
    ids = [*order, *(utt_id for utt_id in references if utt_id not in set(order))]
    rows = [f"{utt_id}\t{(references[utt_id] or NOTHING_SAID) if utt_id in references else ''}\n" for utt_id in ids]
    write_aside(Path(path), "".join(rows))
