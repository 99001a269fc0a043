"""What a policy is: a rule that decides, exit by exit and utterance by utterance, whether to stop.

A policy never runs a model and never sees a reference. It names the signals it `needs`, and is asked after
every exit but the last (which accepts whatever came):

    state = policy.start(n)                      # (n, width), a row per utterance
    stop, state = policy.step(signals, state)    # signals: dict of name to (n,); stop: (n,) bool
    state = state[~stop]                         # who stopped is dropped

Live decoding and replay of an exit table go through the same `step`. Policies are frozen, and print the text
that `parse_policy` reads: `entropy(0.12)`. A policy whose threshold was left out is *open* (`entropy`);
it must be calibrated before it can decide.

A policy stops somewhere (the exit *decided*, whose layers and heads are paid for), and the transcript is that exit's
unless the policy has an output rule, which takes an earlier exit's (the exit *emitted*). An output rule is two more
members, which other policies need not have (`reach_of`, `exits_back`): `reach`, how many exits back the emitted one may
lie, and `back(state)`, how many it lies back if the utterance stops with this state. Such a policy is asked at the last
exit as well: not whether to stop, but for the state that the rule reads.

*Fitted policies* are rules whose numbers come from a dev table; the one left to turn is a threshold on their score.
`gain(0.03)` names the rule and its threshold, never the numbers that were fitted: those are a *fitted model*, which
calibration makes (`eeasr_modules.exits.tuning.replay`) and a file keeps beside `policy.json`
(`eeasr_modules.exits.policies.files`). A policy parsed from text has none yet and is *open*.
"""

import importlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

# what the attention decoder must spell a transcript for; only tables of `decoding: attention` hold them
DECODER_SIGNALS = frozenset({"sequence_log_prob", "token_entropy"})
# posteriors are not kept, so how far they are apart is recorded for exits at most so many before
MOST_LAGS = 4
EVERY_EXIT = 10**6  # reach of a policy that may emit any exit passed


class Policy:
    """What every policy derives from, usually as a frozen dataclass; see the module's text for the order of calls.

    A policy of one piece gives `name`, `needs` and `step`; `start` where it remembers; and, to be calibrated, a field
    `threshold` (None is open) and `stopping_scores`, or `thresholds` where no score orders its decisions. Overridden
    where they differ: `low_stops` (whether values *at most* the threshold stop), `reach` and `back` (the output rule),
    `parts` and `with_parts` (policies that it is made of).
    """

    needs: tuple[str, ...] = ()
    low_stops = True
    reach = 0
    parts: tuple = ()

    def __str__(self) -> str:
        return call_text(self.name, *[getattr(self, one.name) for one in fields(self) if one.name != "name"])

    @property
    def is_open(self) -> bool:
        """Whether something is left to calibrate."""
        return getattr(self, "threshold", 0.0) is None

    @property
    def has_open_threshold(self) -> bool:
        """Whether `with_threshold` has something to fill in."""
        return self.is_open

    def with_threshold(self, threshold: float) -> "Policy":
        """The same with its threshold filled in."""
        return replace(self, threshold=threshold)

    def start(self, n: int) -> np.ndarray:
        """State of n utterances before the first exit, of shape (n, width); here nothing, (n, 0)."""
        return np.zeros((n, 0), dtype=np.int64)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Who stops at this exit, of shape (n,), and the state after it, of shape (n, width)."""
        raise NotImplementedError(f"{type(self).__name__} must say in step who stops")

    def reads(self, exit_layers: np.ndarray) -> np.ndarray:
        """Exits whose head must run to decide, of shape (n_exits,), here all; the emitting one's runs in any case."""
        return np.ones(len(exit_layers), dtype=bool)

    def stopping_scores(self, signals: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Of shape (n_utterances, n_exits), from signals of that shape, whatever the threshold: the policy stops at the
        first exit where the score is at most it (at least, without `low_stops`). None where there is no such score.
        """
        return None

    def thresholds(self, signals: Mapping[str, np.ndarray], n_thresholds: int) -> np.ndarray:
        """Thresholds to try on a table with these signals, rising: midway between `stopping_scores`."""
        scores = self.stopping_scores(signals)
        if scores is None:
            raise ValueError(
                f"{self} cannot be calibrated: give its numbers, or its class stopping_scores or thresholds"
            )
        return midway(scores, n_thresholds)

    def _refuse_open(self) -> None:
        if self.is_open:
            raise ValueError(f"{self} is open and cannot decide: give its arguments or calibrate it on dev")


def reach_of(policy: Policy) -> int:
    """How many exits before the one decided the one emitted may lie."""
    return getattr(policy, "reach", 0)


def exits_back(policy: Policy, state: np.ndarray, exit_index: int) -> np.ndarray:
    """How many exits before this one the transcript comes from, of those who stop here; shape (n,).

    `state` (n, width): after its step at this exit. `exit_index`: this exit, from 0; no transcript comes from before
    the first.
    """
    if reach_of(policy) == 0:
        return np.zeros(len(state), dtype=np.int64)
    return np.minimum(policy.back(state), exit_index).astype(np.int64)


def lagged(signal: str, lag: int) -> str:
    """Name of the signal that compares with the exit so many before.

    Example
    -------
    >>> lagged("char_change", 1), lagged("char_change", 3)
    ('char_change', 'char_change_3')
    """
    return signal if lag == 1 else f"{signal}_{lag}"


def number_text(number: float) -> str:
    """A number as policy texts show it: whole numbers without a point, all others exactly."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def call_text(name: str, *arguments: Any) -> str:
    """Text of a call; arguments that are None are left out."""
    shown = [str(a) if not isinstance(a, float) else number_text(a) for a in arguments if a is not None]
    return f"{name}({', '.join(shown)})" if shown else name


def finite_number(name: str, what: str, value: Any) -> float | None:
    """A finite number, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise ValueError(f"{name}: the {what} must be a finite number, got {value}")
    return float(value)


def layer_number(name: str, what: str, value: Any) -> int | None:
    """A whole number from 1, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: the {what} must be a whole number from 1, got {value}")
    return int(value)


def midway(values: np.ndarray, n_thresholds: int, *, ends: tuple[float, float] | None = None) -> np.ndarray:
    """Thresholds between which decisions differ: midway between values, and one beyond either end.

    Midway, so that small numerical differences between live and recorded signals decide nothing.

    Returns np.ndarray of shape (at most n_thresholds + 2,): rising. `values` (..., n_exits): what is compared with a
    threshold. Those of the last exit, which asks nobody, and infinite ones do not count. `n_thresholds`: most to keep,
    the two ends not counted: where there are more, at evenly spaced ranks of the values. `ends`: in place of those
    beyond the values.
    """
    asked = np.asarray(values)[..., : max(1, np.shape(values)[-1] - 1)]
    distinct, counts = np.unique(asked[np.isfinite(asked)], return_counts=True)
    if not len(distinct):
        distinct, counts = np.zeros(1), np.ones(1)
    low, high = ends or _beyond(distinct)
    kept = np.arange(len(distinct) - 1)
    if len(kept) > n_thresholds:
        ranks = np.cumsum(counts)[:-1]
        kept = np.unique(np.searchsorted(ranks, np.linspace(ranks[0], ranks[-1], n_thresholds)))
    return np.unique([low, *[_short_between(distinct[i], distinct[i + 1]) for i in kept], high])


def _beyond(distinct: np.ndarray) -> tuple[float, float]:
    """Round numbers below and above all values."""
    margin = 0.1 * max(float(distinct[-1] - distinct[0]), 1e-3)
    low, high = float(distinct[0]), float(distinct[-1])
    return _short_between(low - 2 * margin, low), _short_between(high, high + 2 * margin)


def _short_between(low: float, high: float) -> float:
    """The midpoint, rounded as far as it stays in the middle half of the gap: policy texts print it."""
    middle = (low + high) / 2
    for digits in range(2, 15):
        short = float(f"{middle:.{digits}g}")
        if abs(short - middle) <= (high - low) / 4:
            return short
    return middle


class FittedModel(Protocol):
    """What every fitted model offers. Rows are independent: a score is bitwise the same in every batch.

    Attributes: `name` (a key of `KINDS`), `exit_layers` (of the tables it was fitted on), `model_digest` (of the
    model whose tables those were; None decides for any model), `fitted_on` (what JSON can hold).
    """

    name: str
    exit_layers: tuple[int, ...]
    model_digest: str | None
    fitted_on: Mapping[str, Any]

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the signals that `step` reads; "hypothesis" gives transcripts."""

    def start(self, n: int) -> np.ndarray:
        """State of n utterances before the first exit, of shape (n, width) and any type; here nothing, (n, 0)."""
        return np.zeros((n, 0))

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores at this exit, of shape (n,), low ones stop; and the state after it."""

    def content(self) -> dict[str, Any]:
        """What JSON can hold."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What goes into an npz file; here nothing."""
        return {}


@dataclass(frozen=True)
class Kind:
    """Where the class of a fitted model is, and the signals of this form of it."""

    # module, class_name: imported when first asked for. The class has `fit(tables, *, name, signals)` and
    # `from_content(content, arrays)`
    module: str
    class_name: str
    signals: tuple[str, ...]  # signals that it is fitted on

    def load(self) -> Any:
        """The class."""
        return getattr(importlib.import_module(self.module), self.class_name)


_GAIN = ("eeasr_modules.exits.policies.lexical_gain", "GainModel")
_LEXICAL = ("eeasr_modules.exits.policies.lexical_gain", "LexicalModel")
_WORD_GAIN = ("eeasr_modules.exits.policies.word_gain", "WordGainModel")
# name in a policy's text -> how it is fitted; names with _text need transcripts alone
KINDS: dict[str, Kind] = {
    "gain": Kind(*_GAIN, signals=("entropy", "rarity", "char_change")),
    "gain_text": Kind(*_GAIN, signals=("rare_share", "rarity", "char_change")),
    "lexical": Kind(*_LEXICAL, signals=("rarity", "entropy", "word_change")),
    "lexical_text": Kind(*_LEXICAL, signals=("rarity", "char_change")),
    "gain_words": Kind(*_WORD_GAIN, signals=("entropy", "rare_share", "char_change")),
    "gain_words_text": Kind(*_WORD_GAIN, signals=("rare_share", "char_change")),
}


def text_form(policy: object) -> str:
    """The end of an error: what to take where a table has no acoustic signals; "" where there is no such form.

    Example
    -------
    >>> text_form("between(lexical)")
    '; lexical_text needs transcripts alone'
    """
    found = [name for name in re.findall(r"\w+", str(policy)) if f"{name}_text" in KINDS]
    return f"; {found[0]}_text needs transcripts alone" if found else ""


@dataclass(frozen=True)
class Fitted(Policy):
    """Stops where a fitted model's score is at most a threshold (for `gain` the price of a layer-second)."""

    name: str  # a key of `KINDS`
    threshold: float | None = None  # in the score's unit; None is open
    model: FittedModel | None = None  # None is open: it is fitted when the policy is calibrated

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise ValueError(f"a fitted policy must be one of {', '.join(KINDS)}, got {self.name}")
        if self.model is not None and self.model.name != self.name:
            raise ValueError(
                f"the policy {self.name} needs a model fitted as {self.name}, got one of {self.model.name}"
            )
        object.__setattr__(self, "threshold", finite_number(self.name, "threshold", self.threshold))

    def __str__(self) -> str:
        return call_text(self.name, self.threshold)

    @property
    def needs(self) -> tuple[str, ...]:
        """Signals of the model, or those that it will be fitted on."""
        return KINDS[self.name].signals if self.model is None else tuple(self.model.needs)

    @property
    def is_open(self) -> bool:
        """Whether threshold or model are missing."""
        return self.threshold is None or self.model is None

    @property
    def has_open_threshold(self) -> bool:
        """Whether the threshold is missing: a model is fitted, not filled in."""
        return self.threshold is None

    def start(self, n: int) -> np.ndarray:
        """The model's state."""
        return self._fitted_model().start(n)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop at or below the threshold."""
        if self.threshold is None:
            raise ValueError(f"{self} is open and cannot decide: give its threshold or calibrate it on dev")
        score, state = self._fitted_model().step(signals, state)
        return score <= self.threshold, state

    def stopping_scores(self, signals: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The scores, where they lie in the table (`exits.tuning.replay.scored`)."""
        return signals.get(f"score of {self.name}")

    def _fitted_model(self) -> FittedModel:
        if self.model is None:
            raise ValueError(
                f"{self} has not been fitted and cannot decide: calibrate it on dev, or read the policy file that "
                f"calibration left"
            )
        return self.model


def nothing_passed(n: int) -> np.ndarray:
    """State of n utterances before the first exit, for models that keep an object each: None, of shape (n, 1)."""
    return np.full((n, 1), None, dtype=object)


def kept_in_file(content: Mapping[str, Any], features: Sequence[str] | None = None) -> dict[str, Any]:
    """What every fitted model takes from its file: name, exit_layers, model_digest, fitted_on.

    `features` are the columns that this version computes; None does not ask. ValueError when the file's features are
    others.
    """
    if features is not None and tuple(content["features"]) != tuple(features):
        raise ValueError(f"{content['name']} was fitted on other features than this version computes; fit it again")
    kept = {name: content[name] for name in ("name", "model_digest", "fitted_on")}
    return {**kept, "exit_layers": tuple(content["exit_layers"])}


def common_exits(tables: Sequence[Any]) -> tuple[tuple[int, ...], str | None]:
    """Exit layers of the tables that something is fitted on, and model digest; None where models differ or are unknown.

    ValueError when there is no table, or exits differ.
    """
    if not tables:
        raise ValueError("fitting needs at least one exit table, got none")
    layers = [tuple(int(layer) for layer in table.exit_layers) for table in tables]
    other = next((one for one in layers if one != layers[0]), None)
    if other is not None:
        raise ValueError(
            f"all tables that a policy is fitted on must have the same exits, got layers {list(layers[0])} and "
            f"{list(other)}"
        )
    digests = {table.metadata.get("model_digest") for table in tables}
    return layers[0], digests.pop() if len(digests) == 1 else None


def described(tables: Sequence[Any]) -> dict[str, Any]:
    """What a model was fitted on, for its file: set_names, manifest_digests, n_utterances, n_speakers."""
    return {
        "set_names": [table.metadata.get("set_name") for table in tables],
        "manifest_digests": [table.metadata.get("manifest_digest") for table in tables],
        "n_utterances": sum(table.n_utterances for table in tables),
        "n_speakers": len({speaker for table in tables for speaker in table.speakers} - {""}),
    }
