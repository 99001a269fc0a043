"""CTC decoding: greedy, of one exit or an average of several; where a known transcript lies; beam search.

Beam search goes with or without a word language model.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch


def valid_frames(log_probs: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
    """True where a frame is not padding, of shape (batch, frames)."""
    return torch.arange(log_probs.shape[1], device=log_probs.device) < n_frames.unsqueeze(1)


def run_starts(path: torch.Tensor) -> torch.Tensor:
    """True where a token differs from that of the frame before, of shape (batch, frames)."""
    changed = torch.ones_like(path, dtype=torch.bool)
    changed[:, 1:] = path[:, 1:] != path[:, :-1]
    return changed


def greedy_decode(log_probs: torch.Tensor, n_frames: torch.Tensor, *, blank_index: int) -> list[list[int]]:
    """Best token per frame, repeats merged, blanks removed; token indices per utterance.

    `log_probs` (batch, frames, tokens): or any monotone function of them. `n_frames` (batch,): valid frames; what lies
    beyond is not read.

    Example
    -------
    >>> scores = torch.eye(3)[torch.tensor([[1, 1, 0, 1, 2, 2]])]
    >>> greedy_decode(scores, torch.tensor([5]), blank_index=0)
    [[1, 1, 2]]
    """
    best = log_probs.argmax(dim=-1)
    said = (run_starts(best) & valid_frames(log_probs, n_frames) & (best != blank_index)).cpu()
    best = best.cpu()
    return [row[mask].tolist() for row, mask in zip(best, said, strict=True)]


def average_posteriors(log_probs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log of the mean probability of several exits; shape (batch, frames, tokens), float32.

    Example
    -------
    >>> one, two = torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[0.5, 0.5]]])
    >>> average_posteriors([one.log(), two.log()]).exp()
    tensor([[[0.7000, 0.3000]]])
    """
    stacked = torch.stack([exit_log_probs.float() for exit_log_probs in log_probs])
    return stacked.logsumexp(dim=0) - math.log(len(log_probs))


def aligned_path(log_probs: np.ndarray, tokens: Sequence[int], *, blank_index: int) -> np.ndarray | None:
    """The likeliest token of each frame among the paths that collapse to a transcript (Viterbi).

    `log_probs` (frames, tokens): of one utterance, without padding. Returns: (frames,), None where the frames are too
    few to spell it.

    Example
    -------
    >>> log_probs = np.log([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.3, 0.5, 0.2]])
    >>> aligned_path(log_probs, [1, 1], blank_index=0).tolist()
    [0, 1, 0, 1]
    """
    labels = np.full(2 * len(tokens) + 1, blank_index)
    labels[1::2] = tokens
    n_frames, n_states = len(log_probs), len(labels)
    if not n_frames:
        return np.zeros(0, dtype=np.int64) if not len(tokens) else None
    skips = np.zeros(n_states, dtype=bool)  # states that may come straight from the token before, over the blank
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    score = np.full(n_states, -np.inf)
    score[:2] = log_probs[0, labels[:2]]
    came = np.zeros((n_frames, n_states), dtype=np.int64)
    for frame in range(1, n_frames):
        one = np.concatenate([[-np.inf], score[:-1]])
        two = np.where(skips, np.concatenate([[-np.inf] * 2, score[:-2]])[:n_states], -np.inf)
        ways = np.stack([score, one, two])
        came[frame] = ways.argmax(axis=0)
        score = ways.max(axis=0) + log_probs[frame, labels]
    state = n_states - 1
    if n_states > 1 and score[-2] > score[-1]:
        state -= 1
    if not np.isfinite(score[state]):
        return None
    path = np.empty(n_frames, dtype=np.int64)
    for frame in range(n_frames - 1, -1, -1):
        path[frame] = labels[state]
        state -= came[frame, state]
    return path


@dataclass(frozen=True)
class BeamOptions:
    """How a beam search decodes.

    ValueError when a number is out of range.

    Arguments
    ---------
    beam_size : int
        Transcripts kept at every frame.
    lm_file : str or None
        N-gram model of words as ARPA (gzipped or not) or KenLM binary, in the spelling of the model's transcripts; None
        for none.
    lm_weight : float
        Of the language model's log-probability (natural logarithm), against the acoustic one.
    word_score : float
        Added for every word: a language model alone prefers few of them.
    unknown_score : float
        Added for a word that the language model does not know.
    """

    beam_size: int = 60
    lm_file: str | None = None
    lm_weight: float = 0.8
    word_score: float = 1.5
    unknown_score: float = -10.0

    def __post_init__(self):
        if self.beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, got {self.beam_size}")
        if self.lm_weight < 0:
            raise ValueError(f"lm_weight must be at least 0, got {self.lm_weight}")
        if self.unknown_score > 0:
            raise ValueError(f"unknown_score must be at most 0, got {self.unknown_score}")

    def check_language_model(self) -> None:
        """See that the language model, if there is one, lies there and can be read.

        FileNotFoundError when there is no such file. ImportError when `kenlm` or `pygtrie` is not installed.
        """
        if self.lm_file is None:
            return
        if not Path(self.lm_file).is_file():
            raise FileNotFoundError(
                f"no language model '{self.lm_file}': expected an n-gram model in ARPA or KenLM's binary format"
            )
        for package in ("kenlm", "pygtrie"):
            if find_spec(package) is None:
                raise ImportError(f"a language model needs {package}: pip install 'eeasr[lm]'")


class BeamDecoder:
    """CTC beam search: SpeechBrain's `CTCBeamSearcher`, with KenLM where a language model is given.

    Scores are summed in float64 over an utterance's own frames, so that its transcript does not depend on its batch.

    `tokens`: the vocabulary, in the order of ids. `spellings`: what each token adds to a transcript (`spellings` of a
    vocabulary); tokens that add nothing are left out. FileNotFoundError when there is no such language model.
    ImportError when a language model is given and `kenlm` or `pygtrie` is not installed.

    Example
    -------
    >>> tokens = ["<blank>", " ", "A", "B"]
    >>> decoder = BeamDecoder(tokens, ["", " ", "A", "B"], blank_index=0, options=BeamOptions(beam_size=4))
    >>> log_probs = torch.tensor([[.1, .0, .8, .1], [.1, .8, .0, .1], [.2, .0, .3, .5]]).log()
    >>> decoder.words(log_probs)
    [('A', 0, 1), ('B', 2, 3)]
    """

    def __init__(self, tokens: Sequence[str], spellings: Sequence[str], *, blank_index: int, options: BeamOptions):
        from speechbrain.decoders.ctc import CTCBeamSearcher

        self.options = options
        options.check_language_model()
        silent = [not text and index != blank_index for index, text in enumerate(spellings)]
        self.silent = np.flatnonzero(silent)
        self.searcher = CTCBeamSearcher(
            blank_index=blank_index,
            vocab_list=list(tokens),
            space_token="|" if "|" in tokens else " ",
            kenlm_model_path=options.lm_file,
            unigrams=_gzipped_words(options.lm_file),
            beam_size=options.beam_size,
            alpha=options.lm_weight,
            beta=options.word_score,
            unk_score_offset=options.unknown_score,
            beam_prune_logp=-15.0,
            token_prune_min_logp=-6.0,
            topk=1,
        )

    def words(self, log_probs: torch.Tensor) -> list[tuple[str, int, int]]:
        """The words of one utterance; word, its first frame, and the frame after its last.

        `log_probs` (frames, tokens): of one exit, without padding.
        """
        rows = log_probs.double().cpu().numpy()
        if len(self.silent):
            rows = rows.copy()
            rows[:, self.silent] = -np.inf
        if not len(rows):
            return []
        best = self.searcher.decode_log_probs(rows, len(rows))[0]
        return [(word, begin, end) for word, (begin, end) in best.text_frames]

    def text(self, log_probs: torch.Tensor) -> str:
        """The transcript of one utterance; arguments as of `words`."""
        return " ".join(word for word, _, _ in self.words(log_probs))


def _gzipped_words(path: str | None) -> list[str] | None:
    """Words of a gzipped ARPA file, without which the search spells; None for others: SpeechBrain finds theirs."""
    if path is None or not str(path).endswith(".gz"):
        return None
    words: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.startswith("\\2-grams"):
                break
            fields = line.split("\t")
            if len(fields) > 1:
                words.append(fields[1].strip())
    return words


NBEST_SIGNAL = "nbest_posterior"


class NBest:
    """Posterior of the best among the N best transcripts of a CTC beam search, without a language model.

    The beam is SpeechBrain's `CTCBeamSearcher`. Its pruning of histories is off, which would throw out all but one
    of the transcripts that differ early; scores are summed in float64 for the same result in any batch.

    `beam_size`: transcripts kept, and compared at the end. ValueError when the beam is below 2: one transcript alone is
    always certain.

    Example
    -------
    >>> nbest = NBest(["<blank>", " ", "A", "B"], blank_index=0, beam_size=4)
    >>> log_probs = torch.tensor([[[0.1, 0.0, 0.6, 0.3]]]).log()
    >>> round(nbest.posterior(log_probs, torch.tensor([1])).item(), 3)
    0.6
    """

    def __init__(self, tokens: Sequence[str], *, blank_index: int, beam_size: int):
        from speechbrain.decoders.ctc import CTCBeamSearcher

        if beam_size < 2:
            raise ValueError(f"a posterior among the N best needs a beam of at least 2, got {beam_size}")
        self.searcher = CTCBeamSearcher(
            blank_index=blank_index,
            vocab_list=list(tokens),
            space_token="|" if "|" in tokens else " ",
            beam_size=beam_size,
            topk=beam_size,
            prune_history=False,
        )

    def posterior(self, log_probs: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
        """Softmax over the scores of the N best, of the best of them; shape (batch,), float32, from 1 / N to 1.

        `log_probs` (batch, frames, tokens): of one exit.
        """
        rows = log_probs.double().cpu().numpy()
        # frame counts are given as they are: as shares of the longest utterance they would be rounded down
        found = [self._of_one(row, int(n)) for row, n in zip(rows, n_frames, strict=True)]
        return torch.tensor(found, dtype=torch.float32)

    def _of_one(self, log_probs: np.ndarray, n_frames: int) -> float:
        scores = np.array([hypothesis.score for hypothesis in self.searcher.decode_log_probs(log_probs, n_frames)])
        return float(1.0 / np.exp(scores - scores.max()).sum())
