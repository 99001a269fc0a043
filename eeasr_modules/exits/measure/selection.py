"""Selection: an output rule that emits one of the last exits passed, whole.

Which one, a fusion model says: its predictions for all regions where an earlier transcript disagrees with this exit's
are summed, and the earlier one is emitted where the sum saves more than the margin. Fusion, which decides region by
region, does better; selection is for those who want a transcript that some exit really gave.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eeasr_modules.exits.measure.fusion import FusionModel
from eeasr_modules.exits.measure.regions import Heard, pass_exit
from eeasr_modules.exits.policies.gain import exit_position
from eeasr_modules.exits.words.resources import word_spelling


@dataclass(frozen=True, eq=False)
class Selection:
    """Which of the last exits' transcripts to emit. Asked like a `FusionModel`, so `fuse` takes either.

    Arguments
    ---------
    model : FusionModel
        Judges the disagreements.
    n_back : int
        How many exits before this one may be emitted, at least 1.

    Raises
    ------
    ValueError
        When n_back is not a whole number from 1.
    """

    model: FusionModel
    n_back: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.n_back, bool) or not isinstance(self.n_back, int) or self.n_back < 1:
            raise ValueError(f"selection: n_back must be a whole number of exits from 1, got {self.n_back}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Those of the model."""
        return self.model.needs

    def start(self, n: int) -> np.ndarray:
        """What the last exits left: None, of shape (n, n_back)."""
        return np.full((n, self.n_back), None, dtype=object)

    def step(self, signals: Mapping[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Transcripts to emit if the utterances stop here; to be asked at every exit that is passed.

        Arguments
        ---------
        signals : mapping of str to np.ndarray of shape (n,)
            Of `needs`.
        state : np.ndarray of shape (n, n_back)
            Of `start` or the exit before.

        Returns
        -------
        tuple of np.ndarray
            Transcripts, objects of shape (n,); and the state.
        """
        n = len(state)
        texts, best = np.array(signals["hypothesis"], dtype=object), np.full(n, -self.model.margin)
        own = list(texts)
        scalars = np.array([signals[name] for name in self.model.signals], dtype=np.float64).reshape(-1, n).T
        change, newest = np.zeros(n), None
        for back in range(self.n_back):
            if n and state[0, back] is None:
                continue
            change = np.zeros(n)

            def keeps(features: np.ndarray, utterance: np.ndarray, change: np.ndarray = change) -> np.ndarray:
                change += np.bincount(utterance, self.model.trees.predict(features), minlength=n)
                return np.zeros(len(features), dtype=bool)

            heard = [_as_latest(state[i], back) for i in range(n)]
            left, _ = self._pass(own, heard, signals, scalars=scalars, keeps=keeps)
            newest = left if back == 0 else newest
            better = change < best
            texts[better] = [" ".join(one.words) for one in state[better, back]]
            best = np.where(better, change, best)
        if newest is None:
            newest, _ = self._pass(own, [None] * n, signals, scalars=scalars, keeps=lambda features, utterance: ())
        after = np.empty_like(state)
        after[:, 0], after[:, 1:] = newest, state[:, :-1]
        return texts, after

    def _pass(self, texts, heard, signals, *, scalars, keeps):
        return pass_exit(
            texts,
            heard,
            exit_index=exit_position(signals["exit_layer"], self.model.exit_layers),
            scalars=scalars,
            spelling=word_spelling(self.model.language),
            keeps=keeps,
        )


def _as_latest(passed: np.ndarray, back: int) -> Heard:
    """An earlier exit as if it had been the last, so that the ones between count as others that heard the same."""
    heard = passed[back]
    if back == 0:
        return heard
    between = passed[0].transcripts[len(heard.transcripts) :]
    return heard._replace(transcripts=(*heard.transcripts[:-1], *between, heard.transcripts[-1]))
