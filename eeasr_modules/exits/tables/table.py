"""The exit table: what every exit said about every utterance, and what it cost; its folds of speakers.

Everything offline (replay, bounds, calibration, statistics, reports) reads this one shape. Arrays have the
utterance on axis 0 and the exit on axis 1. On disk it is a Parquet file with a row per utterance and exit
(`eeasr_modules.exits.tables.files`). WERs are in percent everywhere.

Folds are the same everywhere: distinct speakers sorted by blake2b (8 bytes) of "seed, unit separator, speaker", dealt
out in turn. They depend on nothing but the names, so others can repeat them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from eeasr_modules.exits.measure.edits import edit_counts
from eeasr_modules.exits.tables.checks import AVERAGED, PER_EXIT, PER_UTTERANCE, check_table, coerced
from eeasr_modules.exits.words.resources import word_resources
from eeasr_modules.exits.words.signals import LEXICAL_SIGNALS, change, lexical_signals, text_lag, text_signals, uniform

SCHEMA_VERSION = 1
DERIVED_SIGNALS = ("uniform", "duration_s", "exit_layer", "hypothesis", *LEXICAL_SIGNALS)


def is_derived(name: str) -> bool:
    """Whether a table makes a signal of what it holds, stored or not: `DERIVED_SIGNALS`, and changes of transcripts
    since several exits before (`char_change_2`).
    """
    return name in DERIVED_SIGNALS or text_lag(name) is not None


# where durations are not known, they are guessed from texts: of references as weights, of what was heard for a policy;
# on LibriSpeech's test sets this gives totals of 5.41 h (clean) and 5.30 h (other), while the recordings last 5.40 h
# and 5.34 h
PAUSE_S = 0.5
CHARS_PER_S = 15.5


@dataclass(frozen=True, eq=False)
class ExitTable:
    """Transcripts, edit counts, signals and costs of every utterance at every exit. Checked on construction.

    ValueError when a shape, a number, a name or a label is not as said here.
    """

    utt_ids: np.ndarray  # (n_utterances,), unique names
    speakers: np.ndarray  # (n_utterances,), who speaks; "" where unknown
    exit_layers: np.ndarray  # (n_exits,), encoder layers run at each exit, from 1, rising
    hypotheses: np.ndarray  # (n_utterances, n_exits), transcripts
    # n_ref_words, n_ref_chars: (n_utterances,), words and characters of the reference
    n_ref_words: np.ndarray
    # n_sub, n_del, n_ins, n_char_errors: (n_utterances, n_exits), word edits by kind, and character edits
    n_sub: np.ndarray
    n_del: np.ndarray
    n_ins: np.ndarray
    n_ref_chars: np.ndarray
    n_char_errors: np.ndarray
    duration_s: np.ndarray  # (n_utterances,), seconds of audio, above 0
    n_frames: np.ndarray  # (n_utterances,), encoder frames, without padding
    cost_layers: np.ndarray  # (n_utterances, n_exits), exit_layer * duration_s
    # cost_macs, head_macs: (n_utterances, n_exits), MACs of front end and layers up to the exit, and of reading that
    # exit's head once; None where unknown
    cost_macs: np.ndarray | None = None
    head_macs: np.ndarray | None = None
    # (n_utterances, n_exits), MACs that the attention decoder ran for that exit's transcript; None where transcripts
    # are those of CTC heads
    decoder_macs: np.ndarray | None = None
    references: np.ndarray | None = None  # (n_utterances,), what was said; None in tables that are passed on without it
    # (n_utterances, n_exits), transcripts that come out in place of the exits' own (`with_emitted`): the edits are then
    # theirs
    emitted: np.ndarray | None = None
    # (n_utterances, n_exits), finite numbers that a policy may read
    signals: dict[str, np.ndarray] = field(default_factory=dict)
    # (n_utterances, n_exits), of objects, each a float32 array as long as that transcript's words: signals of single
    # words. May be empty
    word_lists: dict[str, np.ndarray] = field(default_factory=dict)
    # (n_utterances, n_exits), `hypotheses, n_sub, n_del, n_ins, n_char_errors` of the mean posterior of the last exits
    # up to each one (`average_exits` of the metadata says how many), collected while posteriors lived; see
    # `averaged_output`
    averaged: dict[str, np.ndarray] | None = None
    # values that JSON can hold: set_name, set_label, model_digest, seed, n_layers and so on
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in coerced(self).items():
            object.__setattr__(self, name, value)
        check_table(self)

    @classmethod
    def from_hypotheses(
        cls,
        hypotheses: Sequence[Sequence[str]],
        references: Sequence[str],
        *,
        utt_ids: Sequence[str],
        exit_layers: Sequence[int],
        duration_s: Sequence[float],
        n_frames: Sequence[int],
        speakers: Sequence[str] | None = None,
        signals: Mapping[str, Any] | None = None,
        word_lists: Mapping[str, Any] | None = None,
        averaged_hypotheses: Sequence[Sequence[str]] | None = None,
        cost_macs: Any = None,
        head_macs: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "ExitTable":
        """A table whose edits are counted here and whose text signals are computed here.

        `exit_layers`: layers run at each exit, from 1, rising. `speakers`: who speaks; None where unknown. `signals`
        (n_utterances, n_exits): acoustic signals; those of text are added. `word_lists`: a number for each word of each
        transcript. `cost_macs` (n_utterances, n_exits): front end and layers up to each exit. `head_macs`
        (n_utterances, n_exits): each exit's head, read once.

        Example
        -------
        >>> table = ExitTable.from_hypotheses([["a c", "a b"]], ["a b"], utt_ids=["u"], exit_layers=[2, 4],
        ...                                   duration_s=[1.0], n_frames=[50])
        >>> table.wer_per_exit
        array([50.,  0.])
        """
        texts = _objects(hypotheses, len(exit_layers))
        if len(references) != len(texts):
            raise ValueError(f"references must number {len(texts)} as the utterances do, got {len(references)}")
        averaged = None
        if averaged_hypotheses is not None:
            averaged_texts = _objects(averaged_hypotheses, len(exit_layers))
            averaged = {"hypotheses": averaged_texts, **edit_counts(averaged_texts, references)}
        durations = np.asarray(duration_s, dtype=np.float64)
        return cls(
            utt_ids=np.asarray(utt_ids),
            speakers=np.asarray(speakers if speakers is not None else [""] * len(texts)),
            exit_layers=np.asarray(exit_layers),
            hypotheses=texts,
            n_ref_words=np.array([len(ref.split()) for ref in references]),
            **edit_counts(texts, references),
            n_ref_chars=np.array([len(" ".join(ref.split())) for ref in references]),
            duration_s=durations,
            n_frames=np.asarray(n_frames),
            cost_layers=durations[:, None] * np.asarray(exit_layers, dtype=np.float64),
            cost_macs=cost_macs,
            head_macs=head_macs,
            references=np.array([*references], dtype=object),
            signals={**(signals or {}), **text_signals(texts)},
            word_lists=dict(word_lists or {}),
            averaged=averaged,
            metadata=dict(metadata or {}),
        )

    @property
    def n_utterances(self) -> int:
        """Number of utterances."""
        return len(self.utt_ids)

    @property
    def n_exits(self) -> int:
        """Number of exits."""
        return len(self.exit_layers)

    @property
    def n_layers(self) -> int:
        """Layers of the encoder; the last exit's where the metadata does not say."""
        return int(self.metadata.get("n_layers", self.exit_layers[-1]))

    @property
    def errors(self) -> np.ndarray:
        """Substitutions + deletions + insertions of words, of shape (n_utterances, n_exits)."""
        return self.n_sub + self.n_del + self.n_ins

    @property
    def wer_per_exit(self) -> np.ndarray:
        """Pooled word error rate of each exit in percent, of shape (n_exits,)."""
        return 100.0 * self.errors.sum(axis=0) / self.n_ref_words.sum()

    @property
    def cer_per_exit(self) -> np.ndarray:
        """Pooled character error rate of each exit in percent, of shape (n_exits,)."""
        return 100.0 * self.n_char_errors.sum(axis=0) / self.n_ref_chars.sum()

    def wer_of(self, exit_index: np.ndarray) -> float:
        """Pooled word error rate in percent of an exit, from 0, for each utterance."""
        return float(100.0 * self.errors[np.arange(self.n_utterances), exit_index].sum() / self.n_ref_words.sum())

    def signal(self, name: str) -> np.ndarray:
        """One signal, stored or derived (`is_derived`).

        Lexical ones are those of the language that the metadata names (`language`, else English). `duration_s` is
        that of the audio; where the metadata says `duration_is_approximate`, it is guessed from each exit's own
        transcript instead, since the table's own would give the reference's length away.

        Returns np.ndarray of shape (n_utterances, n_exits): of numbers; `hypothesis` holds the transcripts, a word list
        an array for each. KeyError when the table has no such signal; those it has are named.
        """
        if name in self.signals:
            return self.signals[name]
        if name in self.word_lists:
            return self.word_lists[name]
        shape = (self.n_utterances, self.n_exits)
        if name == "exit_layer":
            return np.broadcast_to(self.exit_layers, shape)
        if name == "hypothesis":
            return self.hypotheses
        if is_derived(name):
            if name not in self._derived:
                self._derived[name] = self._derive(name)
            return np.broadcast_to(self._derived[name], shape)
        known = ", ".join([*sorted(self.signals), *sorted(self.word_lists)]) or "none"
        raise KeyError(f"the exit table has no signal {name!r}; it has: {known}")

    @cached_property
    def _derived(self) -> dict[str, np.ndarray]:
        """Derived signals that were asked for; kept, since a curve over thresholds asks hundreds of times."""
        return {}

    def once(self, name: str, work: Callable[[], np.ndarray]) -> np.ndarray:
        """What is worked out once for a table; parts of it (`select`) then take theirs along.

        `work`: gives an array with the utterance on axis 0, each by itself.
        """
        if name not in self._derived:
            self._derived[name] = work()
        return self._derived[name]

    def _derive(self, name: str) -> np.ndarray:
        if name == "uniform":
            seed = int(self.metadata.get("seed", 0))
            return np.stack([uniform(self.utt_ids, int(layer), seed=seed) for layer in self.exit_layers], axis=1)
        if name == "duration_s":
            if not self.metadata.get("duration_is_approximate"):
                return self.duration_s[:, None]
            n_chars = np.array([[len(text) for text in row] for row in self.hypotheses])
            return PAUSE_S + np.maximum(3, n_chars) / CHARS_PER_S
        lag = text_lag(name)
        if lag is not None:
            return np.stack([self._change(*lag, k) for k in range(self.n_exits)], axis=1)
        words = word_resources(self.metadata.get("language", "en"))
        columns = [lexical_signals(texts, words=words, names=[name])[name] for texts in self.hypotheses.T]
        return np.stack(columns, axis=1)

    def _change(self, name: str, lag: int, k: int) -> np.ndarray:
        return change(name, self.hypotheses[:, k], self.hypotheses[:, k - lag] if k >= lag else None)

    def select(self, rows: np.ndarray) -> "ExitTable":
        """The table of some utterances only.

        `rows`: indices, or a mask of shape (n_utterances,) where True means kept.
        """
        changed = {"utt_ids": self.utt_ids[rows], "speakers": self.speakers[rows], "hypotheses": self.hypotheses[rows]}
        for name in (*PER_UTTERANCE, *PER_EXIT, "references", "emitted"):
            value = getattr(self, name)
            changed[name] = None if value is None else value[rows]
        changed["signals"] = {name: values[rows] for name, values in self.signals.items()}
        changed["word_lists"] = {name: lists[rows] for name, lists in self.word_lists.items()}
        if self.averaged is not None:
            changed["averaged"] = {name: values[rows] for name, values in self.averaged.items()}
        selected = replace(self, **changed)
        selected._derived.update({name: values[rows] for name, values in self._derived.items()})
        return selected

    def with_signals(self, signals: Mapping[str, np.ndarray]) -> "ExitTable":
        """The same table with further signals.

        `signals` (n_utterances, n_exits): by name; one that is there is replaced.
        """
        extended = replace(self, signals={**self.signals, **signals})
        if not set(signals) & set(self.signals):
            extended._derived.update(self._derived)
        return extended

    def without_references(self) -> "ExitTable":
        """The same table without the reference texts, to pass on where those may not be."""
        return replace(self, references=None)

    def with_hypotheses(self, hypotheses: Sequence[Sequence[str]]) -> "ExitTable":
        """The same utterances and signals with transcripts of another decoder, and their errors.

        Stored signals stay, so policies that read them decide as on the table itself; word lists and averaged
        transcripts, which belong to the exits' own, do not.

        ValueError when the table has no references to count errors against.

        Example
        -------
        >>> table = ExitTable.from_hypotheses([["a c", "a b"]], ["a b"], utt_ids=["u"], exit_layers=[2, 4],
        ...                                   duration_s=[1.0], n_frames=[50])
        >>> table.with_hypotheses([["a b", "a b"]]).wer_per_exit
        array([0., 0.])
        """
        if self.references is None:
            raise ValueError("the table holds no references: errors of other transcripts cannot be counted")
        texts = _objects(hypotheses, len(self.exit_layers))
        counts = edit_counts(texts, list(self.references))
        return replace(self, hypotheses=texts, **counts, word_lists={}, averaged=None)

    def with_emitted(self, emitted: np.ndarray) -> "ExitTable":
        """The same table with other transcripts coming out of each exit, whose errors are counted.

        Policies decide on what the exits say themselves, which stays. Such a table is not written.

        Returns ExitTable: without references no errors are counted anew: they are then nobody's. `emitted`
        (n_utterances, n_exits): such as those that `exits.measure.fusion.fuse` gives.

        Example
        -------
        >>> table = ExitTable.from_hypotheses([["a c", "a b"]], ["a b"], utt_ids=["u"], exit_layers=[2, 4],
        ...                                   duration_s=[1.0], n_frames=[50])
        >>> table.with_emitted(np.array([["a b", "a b"]], dtype=object)).wer_per_exit
        array([0., 0.])
        """
        if np.shape(emitted) != self.hypotheses.shape:
            raise ValueError(
                f"emitted must have shape {self.hypotheses.shape} (utterances, exits), got {np.shape(emitted)}"
            )
        counts = {} if self.references is None else edit_counts(emitted, self.references)
        return replace(self, emitted=emitted, **counts, averaged=None)

    def averaged_output(self) -> "ExitTable":
        """The same table with the transcripts and errors of the averaged posteriors.

        Policies decide on the table itself; the errors of their choices are then read here. Stored signals stay, word
        lists, which belong to the exits' own transcripts, do not.

        ValueError when none were collected.
        """
        if self.averaged is None:
            raise ValueError("the table has no averaged transcripts: collect it with average_exits of 2 or more")
        return replace(self, **{name: self.averaged[name] for name in AVERAGED}, word_lists={}, averaged=None)


def _objects(rows: Sequence[Sequence[str]], n_exits: int) -> np.ndarray:
    """Texts as an object array (n_utterances, n_exits), whatever nesting they come in."""
    texts = np.empty((len(rows), n_exits), dtype=object)
    for i, row in enumerate(rows):
        if len(row) != n_exits:
            raise ValueError(f"hypotheses of utterance {i} must be {n_exits}, one for each exit layer, got {len(row)}")
        texts[i] = list(row)
    return texts


def speaker_folds(table: ExitTable, n_folds: int = 10, *, seed: int = 0) -> np.ndarray:
    """The fold of each utterance; no speaker is in two; shape (n_utterances,), from 0.

    ValueError when there are not two utterances to keep apart. `table`: where a speaker is unknown, the utterance
    stands for itself. `n_folds`: at least 2; with fewer speakers there are as many folds as speakers. With one speaker
    alone, utterances are dealt out.
    """
    if n_folds < 2:
        raise ValueError(f"folds of speakers must be at least 2, got {n_folds}")
    names = np.array([who or f"\x1f{utt_id}" for who, utt_id in zip(table.speakers, table.utt_ids)], dtype=object)
    if len(set(names)) == 1:
        names = table.utt_ids
    distinct = sorted(
        set(names), key=lambda name: hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest()
    )
    if len(distinct) < 2:
        raise ValueError(f"fitting needs at least two utterances to be judged on others, got {table.n_utterances}")
    fold_of = {name: i % n_folds for i, name in enumerate(distinct)}
    return np.array([fold_of[name] for name in names])


def join_tables(
    tables: Sequence[ExitTable], order: Sequence[str], *, metadata: Mapping[str, Any] | None = None
) -> ExitTable:
    """One table of the utterances of several.

    ValueError when the tables differ in exits or signals, or do not hold the utterances of `order`, each once.
    `tables`: with the same exits and the same signals; no utterance in two. `order`: all utterances, in the order of
    the new table. `metadata`: of the new table; None takes the first one's.

    Example
    -------
    >>> one = ExitTable.from_hypotheses([["a"]], ["a"], utt_ids=["u"], exit_layers=[1], duration_s=[1.0], n_frames=[9])
    >>> two = ExitTable.from_hypotheses([["b"]], ["a"], utt_ids=["v"], exit_layers=[1], duration_s=[1.0], n_frames=[9])
    >>> join_tables([two, one], ["u", "v"]).hypotheses.tolist()
    [['a'], ['b']]
    """
    first = tables[0]
    for other in tables[1:]:
        same = np.array_equal(other.exit_layers, first.exit_layers) and set(other.signals) == set(first.signals)
        if not (same and set(other.word_lists) == set(first.word_lists)):
            raise ValueError("tables to be joined must have the same exits, signals and word lists")
    utt_ids = np.concatenate([table.utt_ids for table in tables])
    rows = {utt_id: row for row, utt_id in enumerate(utt_ids)}
    if len(rows) != len(utt_ids) or set(rows) != set(order) or len(order) != len(rows):
        raise ValueError(
            f"tables to be joined must hold {len(order)} utterances, each once; they hold {len(utt_ids)}, "
            f"{len(rows)} different"
        )
    taken = np.array([rows[utt_id] for utt_id in order])

    def joined(values):
        return None if values[0] is None else np.concatenate(values)[taken]

    names = ("utt_ids", "speakers", "hypotheses", "references", "emitted", *PER_UTTERANCE, *PER_EXIT)
    changed = {name: joined([getattr(table, name) for table in tables]) for name in names}
    for kind in ("signals", "word_lists", "averaged"):
        held = getattr(first, kind)
        if held is not None:
            changed[kind] = {name: joined([getattr(table, kind)[name] for table in tables]) for name in held}
    return replace(first, **changed, metadata=dict(first.metadata if metadata is None else metadata))
