"""The signals a policy asks for, computed at one exit for the utterances that are still undecided.

Replay reads them from an exit table; here they are made by the same functions, and only those that are needed.
"""

from collections.abc import Sequence

import numpy as np
import torch

from eeasr_modules.data.text import CharVocabulary, SentencePieceVocabulary
from eeasr_modules.exits.lexical_signals import LEXICAL_SIGNALS, lexical_signals
from eeasr_modules.exits.policies import DECODER_SIGNALS, Policy
from eeasr_modules.exits.signals_text import TEXT_SIGNALS, text_signals_at_exit, uniform
from eeasr_modules.models.signals import ACOUSTIC_SIGNALS, acoustic_signals
from eeasr_modules.models.word_signals import WORD_SIGNALS

PLAIN_SIGNALS = ("exit_layer", "duration_s", "uniform")
COMPARED_WITH_PREVIOUS = ("cross_entropy", "char_change", "word_change")
LIVE_SIGNALS = (*PLAIN_SIGNALS, "hypothesis", *TEXT_SIGNALS, *LEXICAL_SIGNALS, *ACOUSTIC_SIGNALS, *WORD_SIGNALS)


class SignalPlan:
    """Which signals a policy needs, and at which exits a head must be read for them.

    Arguments
    ---------
    policy : policy
        Not open.
    exit_layers : sequence of int
        The model's exits.
    spells : bool
        Whether transcripts are the attention decoder's: its signals can be read then.

    Raises
    ------
    ValueError
        When the policy reads something that is not computed live; what is, is named.
    """

    def __init__(self, policy: Policy, exit_layers: Sequence[int], *, spells: bool = False):
        self.names = tuple(policy.needs)
        self.of_decoder = tuple(name for name in self.names if name in DECODER_SIGNALS)
        if self.of_decoder and not spells:
            raise ValueError(
                f"{policy} reads the signal {self.of_decoder[0]!r} of the attention decoder: transcribe with "
                "--decoding attention (decoding=AttentionOptions() in Python)"
            )
        unknown = [name for name in self.names if name not in (*LIVE_SIGNALS, *self.of_decoder)]
        if unknown:
            raise ValueError(
                f"{policy} reads the signal {unknown[0]!r}, which is not computed while transcribing; "
                f"those that are: {', '.join(LIVE_SIGNALS)}"
            )
        self.acoustic = tuple(name for name in ACOUSTIC_SIGNALS if name in self.names)
        self.text = tuple(name for name in TEXT_SIGNALS if name in self.names)
        self.lexical = tuple(name for name in LEXICAL_SIGNALS if name in self.names)
        self.headless = tuple(name for name in self.acoustic if name == "cosine")  # of layer states alone
        self.of_words = tuple(name for name in WORD_SIGNALS if name in self.names)
        self.transcribes = bool(self.text or self.lexical or "hypothesis" in self.names)
        reads = np.asarray(policy.reads(np.asarray(exit_layers)), dtype=bool).copy()
        reads[-1] = False  # the last exit decides nothing
        if reads.any() and set(COMPARED_WITH_PREVIOUS) & set(self.names):
            reads[: int(np.flatnonzero(reads)[-1])] = True
        self.reads_head = reads

    @property
    def keeps_states(self) -> bool:
        """Whether layer states of the exit before are compared with."""
        return "cosine" in self.acoustic

    @property
    def keeps_log_probs(self) -> bool:
        """Whether log-probs of the exit before are compared with."""
        return "cross_entropy" in self.acoustic


def plain_signals(
    names: Sequence[str], *, utt_ids: Sequence[str], duration_s: np.ndarray, exit_layer: int, seed: int
) -> dict[str, np.ndarray]:
    """Those of `PLAIN_SIGNALS` that are in `names`: they need no model.

    Arguments
    ---------
    names : sequence of str
        What the policy needs.
    utt_ids : sequence of str, n long
        Names of the utterances, which chance goes by.
    duration_s : np.ndarray of shape (n,)
        Seconds of audio.
    exit_layer : int
        Layers run.
    seed : int
        Of `uniform`.

    Returns
    -------
    dict of str to np.ndarray of shape (n,)
    """
    signals = {}
    if "exit_layer" in names:
        signals["exit_layer"] = np.full(len(utt_ids), exit_layer)
    if "duration_s" in names:
        signals["duration_s"] = duration_s
    if "uniform" in names:
        signals["uniform"] = uniform(utt_ids, exit_layer, seed=seed)
    return signals


def transcript_signals(
    plan: SignalPlan, hypotheses: Sequence[str], previous: Sequence[str] | None, *, language: str
) -> dict[str, np.ndarray]:
    """Signals that are read off transcripts.

    Arguments
    ---------
    plan : SignalPlan
        Which.
    hypotheses : sequence of str, n long
        Of this exit.
    previous : sequence of str, n long, or None
        Of the exit before; None at the first.
    language : str
        Whose word frequencies.

    Returns
    -------
    dict of str to np.ndarray of shape (n,)
    """
    signals = {}
    if "hypothesis" in plan.names:
        signals["hypothesis"] = np.array([*hypotheses], dtype=object)
    if plan.text:
        every = text_signals_at_exit(hypotheses, previous)
        signals.update({name: every[name] for name in plan.text})
    if plan.lexical:
        from eeasr_modules.exits.word_resources import word_resources

        signals.update(lexical_signals(hypotheses, words=word_resources(language), names=plan.lexical))
    return signals


def head_signals(
    names: Sequence[str],
    log_probs: torch.Tensor | None,
    hidden: torch.Tensor,
    n_frames: torch.Tensor,
    *,
    previous_log_probs: torch.Tensor | None,
    previous_hidden: torch.Tensor,
    blank_index: int,
) -> list[torch.Tensor]:
    """Acoustic signals in the order of `names`, each of shape (n,), still on the device.

    Arguments
    ---------
    names : sequence of str
        Of `ACOUSTIC_SIGNALS`.
    log_probs, previous_log_probs : torch.Tensor of shape (n, frames, tokens)
        Of this exit (None where only layer states are asked for) and of the one before (None at the first).
    hidden, previous_hidden : torch.Tensor of shape (n, frames, dim)
        Layer states likewise; the previous ones are not read unless `cosine` is asked for.
    n_frames : torch.Tensor of shape (n,)
        Valid frames.
    blank_index : int
        Index of blank.

    Returns
    -------
    list of torch.Tensor
    """
    found = acoustic_signals(
        hidden if log_probs is None else log_probs,  # of which `cosine` asks the length only
        hidden,
        n_frames,
        previous_log_probs=previous_log_probs,
        previous_hidden=previous_hidden,
        blank_index=blank_index,
        names=names,
    )
    return list(found.values())


def spelled(
    best: np.ndarray, n_frames: Sequence[int], *, vocabulary: CharVocabulary | SentencePieceVocabulary, blank_index: int
) -> list[str]:
    """Transcripts of greedy paths: repeats merged, blanks removed.

    Arguments
    ---------
    best : np.ndarray of shape (n, frames)
        Best token of each frame.
    n_frames : sequence of int, n long
        Valid frames.
    vocabulary : CharVocabulary or SentencePieceVocabulary
        The model's.
    blank_index : int
        Index of blank.

    Returns
    -------
    list of str
    """
    said = best != blank_index
    said[:, 1:] &= best[:, 1:] != best[:, :-1]
    return [vocabulary.decode(row[:n][kept[:n]].tolist()) for row, kept, n in zip(best, said, n_frames, strict=True)]
